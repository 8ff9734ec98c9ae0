"""The list: every run below a folder with its state, whatever is wrong with it; search and order; what it reads."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcace_dist.ledger.lease import DEAD_SECONDS, LeaseObserver
from pcace_dist.serving import catalog as catalogs
from pcace_dist.serving.catalog import Catalog
from pcace_dist.serving.rows import RunRow, State
from pcace_dist.serving.selection import select
from pcace_dist.storage.files import Storage
from pcace_dist.storage.folder import Folder, look_into
from tests.analysis.runs import write_run
from tests.serving.conftest import HOSTILE, Serve

RUNS = 60


def rows_of(folder: Path, serve: Serve) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in serve(folder).get("/runs.json").json()["runs"]}


def test_every_run_is_listed_with_its_state_and_its_reason(folder: Path, serve: Serve) -> None:
    rows = rows_of(folder, serve)
    assert {name: row["state"] for name, row in rows.items()} == {
        "team/monday": "finished",
        "team/sunday": "finished",
        "team/tuesday": "finished",
        "hostile": "finished",
        "as-0.1.0/runs/finished": "finished",
        "as-0.1.0/runs/extended": "finished",
        "as-0.1.0/runs/pooled": "finished",
        "as-0.1.0/runs/killed": "failed",
        "stopped": "stopped",
        "failed": "failed",
        "running": "running",
        "empty": "unreadable",
        "cut": "unreadable",
        "changed": "unreadable",
        "linked": "unreadable",
    }
    assert "process 7 on elsewhere (epoch 1) is gone" in rows["failed"]["reason"]
    assert "5 of 10 images (50 %), 2 images/s" in rows["running"]["reason"] and rows["running"]["progress"] == 0.5
    assert "holds no run" in rows["empty"]["reason"]
    assert "rankings.parquet: cannot be read" in rows["cut"]["reason"]
    assert "is no record of a ledger" in rows["changed"]["reason"]
    assert rows["linked"]["reason"] == "job.yaml is a symbolic link; links are not followed"


def test_a_row_says_what_the_run_is_about(folder: Path, serve: Serve) -> None:
    rows = rows_of(folder, serve)
    monday, old = rows["team/monday"], rows["as-0.1.0/runs/finished"]
    assert (monday["images"], monday["model"], monday["layers"]) == (1000, "torchvision:resnet18", ["conv1"])
    assert [(best["rank"], best["layer"], best["channel"]) for best in monday["best"]] == [
        (1, "conv1", 5),
        (2, "conv1", 4),
        (3, "conv1", 3),
    ]
    assert monday["best"][0]["score"] == pytest.approx(0.9**0.5)
    assert (old["images"], old["targets"], len(old["best"])) == (120, ["logit:label"], 3)


def test_search_finds_words_in_names_layers_targets_models_and_states(folder: Path, serve: Serve) -> None:
    client = serve(folder)

    def names(**query: str) -> list[str]:
        return [row["name"] for row in client.get("/runs.json", params=query).json()["runs"]]

    assert names(q="resnet18 TEAM") == ["team/monday"]
    assert names(state="failed", sort="name") == ["as-0.1.0/runs/killed", "failed"]
    assert names(q="column:no2") == []  # in the ranking's targets, which the job does not name
    assert names(q="failed elsewhere") == []
    page = client.get("/", params={"q": "monday"}).text
    assert "team/monday" in page and "team/sunday" not in page and 'value="monday"' in page
    assert "No run matches" in client.get("/?q=no-such-run").text


def test_the_newest_come_first_unless_another_order_is_asked_for() -> None:
    rows = [
        RunRow("a", State.FINISHED, when=1.0, images=5),
        RunRow("b", State.RUNNING, when=3.0, images=1),
        RunRow("c", State.UNREADABLE),
    ]
    orders = {"": "bac", "newest": "bac", "name": "abc", "state": "bac", "images": "abc", "no such": "bac"}
    for order, expected in orders.items():
        assert "".join(row.name for row in select(rows, {"sort": order})) == expected, order


def test_names_from_the_data_are_text(folder: Path, serve: Serve) -> None:
    client = serve(folder)
    for page in ("/", "/run?run=hostile", "/compare?run=hostile&run=team/monday"):
        text = client.get(page).text
        assert "<script>hacked" not in text, page
        assert "\x1b" not in re.sub(r'value="[^"]*"', "", text), page
        assert "&lt;script&gt;hacked()" in text or page.startswith("/compare")
        assert "b" * 200 not in re.sub(r'value="[^"]*"', "", text), "a long name loses its middle"
    records = client.get("/ranking.json?run=hostile&top=1").json()
    assert {record["layer"] for record in records} == {HOSTILE}


def test_names_with_hidden_characters_come_back_as_they_are(tmp_path: Path, serve: Serve) -> None:
    name = "a\u202e b?&#%2e+\n'\""
    for number in (1, 2):
        write_run(tmp_path / f"{name}{number}", {"conv1": np.linspace(0.1, 0.9, 4)})
    client = serve(tmp_path)
    page = client.get("/").text
    assert "\\u202e" in page
    links = re.findall(r'href="(/run\?[^"]*)"', page)
    values = [html.unescape(value) for value in re.findall(r'name="run" value="([^"]*)"', page)]
    assert len(links) == len(values) == 2 and set(values) == {f"{name}1", f"{name}2"}
    for link in links:
        assert client.get(html.unescape(link)).status_code == 200
    assert client.get("/compare", params={"run": values}).status_code == 200


def test_names_that_are_not_utf8_are_left_out_and_counted(tmp_path: Path, serve: Serve) -> None:
    write_run(tmp_path / "good", {"conv1": np.linspace(0.1, 0.9, 4)})
    os.makedirs(os.fsencode(tmp_path) + b"/b\xff/ledger")
    answer = serve(tmp_path).get("/runs.json").json()
    assert [row["name"] for row in answer["runs"]] == ["good"]
    assert answer["notes"] == [".: a folder is left out whose name is not UTF-8"]


def test_the_folder_itself_may_be_a_run_or_empty(folder: Path, tmp_path: Path, serve: Serve) -> None:
    client = serve(folder / "team/monday")
    assert [row["name"] for row in client.get("/runs.json").json()["runs"]] == [""]
    assert "conv1" in client.get("/run?run=").text
    empty = serve(tmp_path).get("/").text
    assert "There is no run here yet" in empty and 'data-every="30"' in empty


def test_a_holder_elsewhere_is_believed_dead_once_its_lease_has_stood_still(
    folder: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(LeaseObserver.__init__, "__kwdefaults__", {
        "probe": None, "clock": lambda: now[0], "dead_after": DEAD_SECONDS
    })  # fmt: skip
    client = serve(folder / "running")
    assert client.get("/status.json?run=").json()["state"] == "running"
    now[0] = DEAD_SECONDS + 1
    assert client.get("/status.json?run=").json()["state"] == "failed"


def test_many_runs_are_read_once(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a run that has changed, once more; a settled one is not even listed again within a minute."""
    original = write_run(tmp_path / "run-000", {"conv1": np.linspace(0.1, 0.9, 4)}).path
    for number in range(1, RUNS):
        copy_run(Path(original), tmp_path / f"run-{number:03}")
    read, looked, now = counted(monkeypatch), counted_looks(monkeypatch), [0.0]
    catalog = Catalog(str(tmp_path), Storage({}), clock=lambda: now[0])
    client = serve(tmp_path, catalog=catalog)
    assert len(client.get("/runs.json").json()["runs"]) == RUNS
    assert len(looked) == RUNS + 1 and read.count(str(tmp_path / "run-007/ledger/00000003.json")) == 1
    before = len(read)
    assert before <= RUNS * 4, "the last record, job.yaml, summary.json and rankings.parquet"

    now[0] += catalogs.FRESH
    (tmp_path / "run-007/summary.json").unlink()
    (tmp_path / "run-007/summary.json").write_text("{}")
    catalog.look(60)
    assert len(looked) == RUNS + 2 and len(read) == before
    now[0] += catalogs.SETTLED
    catalog.look(60)
    assert len(looked) == 2 * RUNS + 3
    assert {Path(path).relative_to(tmp_path).parts[0] for path in read[before:]} == {"run-007"}
    assert {row.name: row.state for row in catalog.look(60).runs}["run-007"] == State.UNREADABLE


def copy_run(run: Path, to: Path) -> None:
    for file in run.rglob("*.*"):
        target = to / file.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read whole, by their URLs."""
    read: list[str] = []
    read_bytes, opened = Storage.read_bytes, Storage.open

    def count_bytes(storage: Storage, url: str) -> bytes:
        read.append(url)
        return read_bytes(storage, url)

    def count_open(storage: Storage, url: str) -> Any:
        read.append(url)
        return opened(storage, url)

    monkeypatch.setattr(Storage, "read_bytes", count_bytes)
    monkeypatch.setattr(Storage, "open", count_open)
    return read


def counted_looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are looked into, by their URLs."""
    looked: list[str] = []

    def count(storage: Storage, url: str) -> Folder:
        looked.append(url)
        return look_into(storage, url)

    monkeypatch.setattr("pcace_dist.serving.finding.look_into", count)
    return looked
