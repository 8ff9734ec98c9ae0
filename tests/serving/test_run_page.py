"""The page of a run: its figures, its ranking as it was asked for, what is missing; two runs; a schedule."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pcace_dist.analysis.history import Entry
from pcace_dist.cli.main import main
from tests.analysis.runs import write_run
from tests.serving.conftest import Serve


def cells(page: str) -> list[list[str]]:
    """The rows of all tables of a page."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.S)] for row in rows
    ]


def test_the_ranking_is_what_was_asked_for(folder: Path, serve: Serve) -> None:
    client = serve(folder)
    page = client.get("/run?run=team/sunday&target=column:no2&top=2").text
    shown = [row for row in cells(page) if row]
    assert [row[:4] for row in shown] == [["1", "1-1", "conv1", "0"], ["2", "2-2", "conv1", "1"]]
    assert shown[0][4] == f"{0.9**0.5:.3f}"
    assert 'value="column:no2"' in page and "fother" in page and "1,000" in page


@pytest.mark.parametrize(
    "query, reason",
    [
        ("layer=conv9", "conv9"),
        ("top=0", "top=0: write a whole number from 1 to 1000"),
        ("top=1001", "top=1001: write a whole number from 1 to 1000"),
        ("by=size", "by=size: write score or effect"),
        ("by=effect", "has no effects to rank by"),
    ],
)
def test_what_cannot_be_shown_is_a_line(folder: Path, serve: Serve, query: str, reason: str) -> None:
    client = serve(folder)
    page = client.get(f"/run?run=team/monday&{query}")
    assert reason in page.text and page.status_code in (200, 400)
    records = client.get(f"/ranking.json?run=team/monday&{query}")
    assert records.status_code == 400 and reason in records.text and records.text.count("\n") == 1


def test_records_are_those_of_the_command(folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    client, run = serve(folder), folder / "as-0.1.0/runs/finished"
    assert main(["show", str(run), "--top", "4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    expected = [{name: value for name, value in row.items() if not name.startswith("in_top")} for row in shown]
    assert client.get("/ranking.json?run=as-0.1.0/runs/finished&top=4").json() == expected
    answer = client.get("/ranking.csv?run=as-0.1.0/runs/finished")
    assert answer.headers["content-disposition"] == 'attachment; filename="ranking.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == len(client.get("/ranking.json?run=as-0.1.0/runs/finished").json()) > 4
    assert rows[0]["layer"] == "conv1"


def test_too_many_records_are_refused(folder: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcace_dist.serving.run_view.MOST_RECORDS", 3)
    answer = serve(folder).get("/ranking.csv?run=team/monday")
    assert answer.status_code == 400 and answer.text.startswith("6 rows are more than 3: choose a layer")


def test_a_run_that_goes_on_shows_what_status_says(folder: Path, serve: Serve) -> None:
    client = serve(folder)
    page = client.get("/run?run=running").text
    assert 'data-every="2"' in page and "5 of 10 images (50 %)" in page and "held by:  elsewhere (process 7)" in page
    assert '<progress max="1" value="0.5"' in page and "Ranking" not in page
    status = client.get("/status.json?run=running").json()
    assert (status["rows"], status["rows_in_all"], status["stage"], status["state"]) == (5, 10, "main pass", "running")
    assert "data-every" not in client.get("/run?run=stopped").text


def test_bad_rows_are_shown(folder: Path, serve: Serve) -> None:
    client = serve(folder)
    assert client.get("/bad_rows.csv?run=as-0.1.0/runs/finished").text.startswith(
        "file,row_group,row,id,stage,reason\n"
    )
    for run in ("as-0.1.0/runs/pooled", "as-0.1.0/runs/killed", "empty", "cut", "changed", "linked"):
        page = client.get(f"/run?run={run}")
        assert page.status_code == 200, run
    assert "no channel is ranked" in client.get("/run?run=as-0.1.0/runs/pooled").text
    assert client.get("/status.json?run=changed").status_code == 400


def test_the_report_is_given_out_in_a_sandbox_or_the_command_is_named(
    folder: Path, tmp_path: Path, serve: Serve
) -> None:
    write_run(tmp_path / "run", {"conv1": np.linspace(0.1, 0.9, 4)})
    client = serve(tmp_path)
    assert f"pcace report {tmp_path}/run" in client.get("/run?run=run").text
    assert client.get("/report?run=run").status_code == 404
    (tmp_path / "run/report.html").write_text("<title>it</title><script>alert(1)</script>")
    assert "/report?run=run" in client.get("/run?run=run").text
    answer = client.get("/report?run=run")
    policy = answer.headers["content-security-policy"]
    assert answer.text.startswith("<title>it") and "sandbox allow-scripts" in policy and "default-src 'none'" in policy
    assert "allow-same-origin" not in policy and "connect-src" not in policy


def test_two_runs_side_by_side(folder: Path, serve: Serve) -> None:
    client = serve(folder)
    page = client.get("/compare?run=team/tuesday&run=team/monday&top=2").text
    assert "<strong>moved</strong>" in page and "other weights" in page
    pairs = [row for row in cells(page) if len(row) == 9]
    assert [row[:4] for row in pairs] == [
        ["conv1", "0", "1", "6"],
        ["conv1", "1", "2", "5"],
        ["conv1", "4", "5", "2"],
        ["conv1", "5", "6", "1"],
    ] or [row[:4] for row in pairs] == [
        ["conv1", "5", "6", "1"],
        ["conv1", "4", "5", "2"],
        ["conv1", "1", "2", "5"],
        ["conv1", "0", "1", "6"],
    ]
    assert "not comparable" in client.get("/compare?run=team/monday&run=team/sunday").text
    for query, reason in {
        "run=team/monday": "choose two",
        "run=running&run=failed": "has no result to compare",
    }.items():
        answer = client.get(f"/compare?{query}")
        assert answer.status_code == 400 and reason in answer.text


def test_a_schedule_shows_its_current_run_and_its_drift(tmp_path: Path, serve: Serve) -> None:
    line = tmp_path / "weekly"
    for number, values in enumerate((np.linspace(0.1, 0.9, 4), np.linspace(0.9, 0.1, 4)), start=1):
        write_run(line / f"runs/2026-01-0{number}-k", {"conv1": values}, weights=str(number))
        entry = Entry(
            number,
            f"runs/2026-01-0{number}-k",
            f"2026-01-0{number}T06:00:00+00:00",
            "new weights",
            "f",
            "w",
            "d",
            10,
            0,
        )
        (line / "history").mkdir(exist_ok=True)
        drift = {"previous": "runs/2026-01-01-k", "verdict": "moved", "kendall": -1.0, "moved": 4, "judged": 4}
        more = drift | {"drift": ["4 channels moved"], "exit_code": 3} if number == 2 else {}
        content = json.dumps(asdict(entry) | more)
        (line / f"history/0000000{number}.json").write_text(content)
        (line / "latest.json").write_text(content)
    (line / "schedule/ledger").mkdir(parents=True)  # the tick's own, no run
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "latest.json").write_text("[")
    client = serve(tmp_path)
    page = client.get("/").text
    assert "4 channels moved" in page and "runs/2026-01-02-k" in page and "latest.json: cannot be read" in page
    names = [row["name"] for row in client.get("/runs.json").json()["runs"]]
    assert sorted(names) == ["weekly/runs/2026-01-01-k", "weekly/runs/2026-01-02-k"]
    page = client.get("/schedule?schedule=weekly").text
    assert "Current run" in page and "run=weekly%2Fruns%2F2026-01-02-k" in page
    compare = re.search(r'href="(/compare[^"]*)"', page)
    assert compare is not None and client.get(compare[1].replace("&amp;", "&")).status_code == 200
    assert client.get("/schedule?schedule=broken").status_code == 200
    assert client.get("/schedule?schedule=none").status_code == 404


def test_what_a_page_suggests_and_gives_out_is_bounded(
    folder: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(folder)
    monkeypatch.setattr("pcace_dist.serving.run_view.MOST_OFFERS", 1)
    monkeypatch.setattr("pcace_dist.serving.run_view.MOST_RECORDS", -1)
    page = client.get("/run?run=as-0.1.0/runs/finished").text
    assert page.partition('<datalist id="layers">')[2].partition("</datalist>")[0].count("<option") == 1
    answer = client.get("/bad_rows.csv?run=as-0.1.0/runs/finished")
    assert answer.status_code == 400 and answer.text.endswith(": read bad_rows.parquet\n")
    for top in ("0", "1001", "00020", "9" * 5000):
        assert client.get("/run", params={"run": "team/monday", "top": top}).status_code == 400
