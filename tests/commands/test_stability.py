"""How stable whole runs say they are, from the command line; scores of parts against the kept codes' own rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.artifacts.plan_store import plan_of_run
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.commands import stability as command
from pcace_dist.commands.select.rows import open_rows
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.group_accumulator import add_codes
from pcace_dist.statistics.score import score_channels
from tests.digits import digits_job, ranked, write_digits

pytestmark = pytest.mark.usefixtures("in_process")

ROWS = 800


@pytest.fixture(scope="module")
def runs(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stability")
    write_digits(folder / "data", ROWS)
    ranked(digits_job(folder / "data", folder / "run", group_by="odd", statistics={"keep_codes": True}))
    ranked(digits_job(folder / "run", folder / "asked", statistics={"knots": 5}))
    ranked(digits_job(folder / "data", folder / "ace", statistics={"estimator": "ace"}))
    return folder


def records(run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["stability", str(run), "--json", *more]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_parts_are_scored_from_their_own_rows(runs: Path) -> None:
    run = open_run(str(runs / "run"))
    settings = command.StabilitySettings(layers="conv2", group=True)
    rankings = command._rankings(run, settings)
    plan = plan_of_run(run.path, run.storage)
    [(key, by_folds)] = command._scores(run, plan, rankings, lambda *_: None).items()
    rows = open_rows(run)
    assert rows is not None and key == ("logit:label", True)
    layer = plan.layer("conv2")
    for folds in [(0, 4, 8, 12), (3, 11)]:
        gram = Gram(layer.channels, plan.components, 1, plan.knots, plan.folds)
        for part in rows.parts("conv2"):
            if part.group is True:
                assert part.codes is not None
                own = torch.isin(part.rows.folds, torch.tensor(folds, dtype=part.rows.folds.dtype))
                add_codes(gram, part.codes.take(own), part.rows.take(own))
        [scores] = score_channels(gram, layer, plan.targets, penalty=0.3, min_images=1, min_folds=2)
        channels = rankings[key].channels["conv2"]
        np.testing.assert_array_equal(by_folds[folds], scores.score_squared[channels])


def test_a_record_for_each_ranking_and_number_of_images(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = records(runs / "run", capsys)
    assert [(r["group"], r["images"] / r["images_of_run"]) for r in found if r["group"]] == [
        (True, pytest.approx(share, abs=0.01)) for share in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
    ]
    for record in found:
        small = record["images"] < record["images_of_run"]
        assert (record["spearman"] is not None) == (record["overlap"] is not None) == small
        assert record["channels"] == 24 and record["top"] == 10
    assert all(
        r["spearman_another_pilot"] <= r["spearman_expected"] for r in found if r["images"] >= r["images_of_run"]
    )
    whole = [r["overlap_expected"] for r in found if r["group"] and r["images"] >= r["images_of_run"]]
    assert whole == sorted(whole)


def test_the_table_is_for_people(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["stability", str(runs / "run"), "--group", "true", "--top", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("logit:label, group True (") and lines[1].endswith(" images, 24 channels)")
    assert lines[2].split() == [
        "images",
        "Spearman",
        "expected",
        "other",
        "pilot",
        "top",
        "5",
        "expected",
        "other",
        "pilot",
    ]
    assert lines[9].startswith("90% of the top 5 in common: ")
    assert all(len(line) <= 120 for line in lines)


def test_a_top_of_all_channels_is_said_to_be_one(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["stability", str(runs / "run"), "--group", "true", "--top", "100"]) == 0
    printed = capsys.readouterr().out
    assert "the top 24 are all channels that are ranked here: ask for fewer, with --top" in printed
    assert "100%" not in printed and "90%" not in printed


def test_a_run_from_kept_codes_expects_without_measuring(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = records(runs / "asked", capsys)
    assert all(record["spearman"] is None for record in found)
    assert all(r["spearman_expected"] is not None for r in found if r["images"] >= r["images_of_run"])


@pytest.mark.parametrize(
    ("run", "more", "line"),
    [
        ("ace", (), "was ranked by estimator ace, without a jackknife"),
        ("run", ("--layer", "conv9"), "no layer 'conv9'; did you mean conv2, conv1?"),
        ("gone", (), "holds no summary.json"),
    ],
)
def test_what_cannot_be_said_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], run: str, more: tuple[str, ...], line: str
) -> None:
    assert main(["stability", str(runs / run), *more]) == 2
    assert line in capsys.readouterr().err


def test_too_many_rankings_are_chosen_from(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "MOST_RANKINGS", 1)
    assert main(["stability", str(runs / "run")]) == 2
    assert "has 2 rankings: choose with --group or --target" in capsys.readouterr().err
