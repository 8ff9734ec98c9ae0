"""Stability, evaluation and sets on the page: what the verbs say, by target and group."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.analysis.columns import EVALUATION
from pcace_dist.artifacts.run import open_run
from pcace_dist.commands.stability import StabilitySettings, stability
from pcace_dist.errors import PcaceError
from pcace_dist.reporting import trust
from pcace_dist.reporting.source import ReportSource, open_report_source
from pcace_dist.reporting.trust import EXPECTED, trust_of
from tests.reporting.conftest import Reported
from tests.reporting.opened import OpenedReport
from tests.reporting.square import GROUPS

NORTH, SOUTH = sorted(GROUPS)[:2]


def test_stability_is_what_the_verb_expects(squares: Reported) -> None:
    shown = OpenedReport(squares.page).data["trust"]["stability"]
    expected = stability(open_run(str(squares.run)), StabilitySettings())
    assert len(shown) == len(expected) == 6
    for one, other in zip(shown, expected, strict=True):
        assert (one["images"], one["top"], one["enough"]) == (other.images, other.top, other.enough)
        told = [level for level in other.levels if not math.isnan(level.spearman_expected)]
        assert [level["images"] for level in one["levels"]] == [level.images for level in told]
        for ours, theirs in zip(one["levels"], told, strict=True):
            for name in EXPECTED:
                value = getattr(theirs, name)
                assert ours.get(name) == (None if math.isnan(value) else pytest.approx(value))


def test_the_top_is_what_the_run_says(squares: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "TOP", 2)
    source = open_report_source(str(squares.run))
    south = source.ranking.groups.index(SOUTH)
    shown = trust_of(source, [south])["top"]
    assert [(one["target"], one["group"], one["top"], one["of"]) for one in shown] == [(0, 0, 2, 4), (1, 0, 2, 4)]
    rows = open_run(str(squares.run)).membership(2, group=SOUTH, target="logit:label").to_pylist()
    assert shown[0]["surely"] == sum(row["in_top"] == "surely" for row in rows)
    assert shown[0]["possibly"] == len(shown[0]["channels"]) == sum(row["in_top"] != "no" for row in rows)
    assert shown[0]["expected"] == pytest.approx(sum(r["in_top_probability"] for r in rows if r["rank"] <= 2))
    likely = [one["in_top_probability"] for one in shown[0]["channels"]]
    assert likely == sorted(likely, reverse=True)


def test_without_evaluation_and_sets_there_is_none(squares: Reported) -> None:
    shown = OpenedReport(squares.page).data["trust"]
    assert shown["evaluation"] is None and shown["sets"] is None


def evaluation_rows() -> list[dict[str, Any]]:
    """Curves of one layer in two groups; three random orders that lose 0.1, 0.2 and 0.3 at each k."""
    common = {"target": "logit:label", "layer": "look", "replacement": "mean", "images": 50}
    common |= {"change": 0.0, "accuracy": 1.0, "changed": 0.0}
    orders = [("pcace", 0, 0.5), *(("random", draw, 0.1 * (draw + 1)) for draw in range(3))]
    return [
        common | {"group": group, "order": order, "draw": draw, "k": k, "lost": lost * k}
        for group in (NORTH, SOUTH)
        for order, draw, lost in orders
        for k in (1, 2)
    ]


def write_evaluated(squares: Path, run: Path) -> None:
    """A copy of a run, with the files of `pcace evaluate` and `pcace select`."""
    shutil.copytree(squares, run)
    pq.write_table(pa.Table.from_pylist(evaluation_rows()), run / EVALUATION.file)
    (run / "evaluation.json").write_text(json.dumps({"verdict": {"mean": "Trust pcace."}}))
    sizes = {"0.5": {"channels": 1, "low": 1, "high": 2}, "0.9": {"channels": 2, "low": 1, "high": 3}}
    found = {"target": "logit:label", "group": SOUTH, "layer": "look", "of": 4, "sizes": sizes, "channels": [0, 2]}
    written = {"by": "effect", "share": 0.9, "sets": [found], "duplicates": []}
    (run / "select.json").write_text(json.dumps(written))


@pytest.fixture
def source(squares: Reported, tmp_path: Path) -> ReportSource:
    write_evaluated(squares.run, tmp_path / "run")
    return open_report_source(str(tmp_path / "run"))


def test_curves_and_sets_are_those_of_the_files(source: ReportSource) -> None:
    south = source.ranking.groups.index(SOUTH)
    shown = trust_of(source, [south])  # one group is shown: it is number 0 of the page
    [curve] = shown["evaluation"]["curves"]
    assert shown["evaluation"]["verdict"] == {"mean": "Trust pcace."}
    assert (curve["target"], curve["group"], curve["layer"], curve["k"]) == (0, 0, "look", [1, 2])
    assert curve["orders"] == {"pcace": [0.5, 1.0]}
    low, high = curve["band"]  # 5 and 95 % of 0.1, 0.2, 0.3
    assert low == pytest.approx([0.11, 0.22]) and high == pytest.approx([0.29, 0.58])
    [found] = shown["sets"]["sets"]
    assert (found["target"], found["group"], found["channels"]) == (0, 0, [0, 2])


def test_a_damaged_file_is_named_with_what_to_do(source: ReportSource) -> None:
    (Path(source.run.path) / "select.json").write_text("{")
    with pytest.raises(PcaceError, match=r"select\.json: .*remove it, or let the verb that wrote it write it anew"):
        trust_of(source, [0])
