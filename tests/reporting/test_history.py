"""A run of a schedule on its page: what was published before it, its best channels over time, its predecessor."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pcace_dist.analysis.history import Entry
from pcace_dist.artifacts.run import open_run
from pcace_dist.reporting.history import BEST, history_of, past_of
from pcace_dist.reporting.source import open_report_source
from tests.reporting.conftest import Reported, quietly
from tests.reporting.opened import OpenedReport

FIRST, GONE, LAST = "runs/20260101-a", "runs/20260108-b", "runs/20260115-c"


def write_schedule(squares: Reported, output: Path) -> None:
    """Three published runs, of which the second is no longer kept."""
    shutil.copytree(squares.run.parent / "other", output / FIRST)
    shutil.copytree(squares.run, output / LAST, ignore=shutil.ignore_patterns("report.html"))
    (output / "history").mkdir()
    facts = {"fingerprint": "f", "weights": "w", "data": "d", "images": 600, "exit_code": 0}
    compared = {"verdict": "moved", "overlap": 0.75, "moved": 3, "judged": 4}
    for n, (run, more) in enumerate(
        [
            (FIRST, {"why": "first run"}),
            (GONE, compared | {"why": "other data", "drift": ("3 channels moved",)}),
            (LAST, compared | {"why": "new weights", "kendall": 0.5}),
        ],
        start=1,
    ):
        entry = Entry(n=n, run=run, published=f"2026-01-{7 * n - 6:02d}T12:00:00+00:00", **facts, **more)  # type: ignore[arg-type]
        (output / "history" / f"{n:08d}.json").write_text(json.dumps(asdict(entry)))
    (output / "latest.json").write_text(json.dumps({"run": LAST}))


@pytest.fixture
def output(squares: Reported, tmp_path: Path) -> Path:
    write_schedule(squares, tmp_path / "weekly")
    return tmp_path / "weekly"


def test_the_page_of_a_scheduled_run_has_its_history_and_its_predecessor(output: Path) -> None:
    opened = OpenedReport(Path(quietly(output, top=1, synthesis=False).path))  # the output stands for its last run
    history = opened.data["history"]
    assert opened.data["against"] == str(output / FIRST)  # the second is gone
    assert [run["run"] for run in history["runs"]] == [FIRST, GONE, LAST]
    assert [run["kendall"] for run in history["runs"]] == [None, None, 0.5]
    assert [run["drift"] for run in history["runs"]] == [[], ["3 channels moved"], []]
    assert history["of"] == [0, 2] and len(history["scores"]) == 6
    rankings = [open_run(str(output / run)).ranking() for run in (FIRST, LAST)]
    for entry in history["scores"]:
        target, group = opened.data["targets"][entry["target"]], opened.data["groups"][entry["group"]]["name"]
        for name, scores in zip(entry["channels"], entry["scores"], strict=True):
            layer, channel = name.split("/")
            expected = [
                row["score"]
                for ranking in rankings
                for row in ranking.to_pylist()
                if (row["target"], row["group"], row["layer"], row["channel"]) == (target, group, layer, int(channel))
            ]
            assert scores == pytest.approx(expected, abs=1e-4)
    assert all(len(entry["channels"]) == min(BEST, 4) for entry in history["scores"])
    made = opened.data["made"]
    assert made["ended"].endswith("UTC") and "torch" in made["versions"] and "square_network" in made["job"]


def test_the_first_run_has_no_predecessor_and_no_history(output: Path) -> None:
    source = open_report_source(str(output / FIRST))
    past = past_of(source.run)
    assert past is not None and past.predecessor is None
    assert history_of(source, [0], past) is None


def test_a_run_of_no_schedule_has_no_past(squares: Reported, output: Path) -> None:
    assert past_of(open_run(str(squares.run))) is None
    shutil.copytree(squares.run, output / "runs/mine")
    assert past_of(open_run(str(output / "runs/mine"))) is None  # never published


def test_a_layer_that_an_earlier_run_had_not_is_no_score(output: Path) -> None:
    source = open_report_source(str(output / LAST))
    past = past_of(source.run)
    history = history_of(source, [1], past)
    assert history is not None and np.array(history["scores"][0]["scores"]).shape == (4, 2)


def test_a_damaged_history_is_a_note(output: Path) -> None:
    (output / "history/00000002.json").write_text("{")
    result = quietly(output, top=1, synthesis=False)
    assert any("00000002.json" in note for note in result.notes)
    assert OpenedReport(Path(result.path)).data["history"] is None
