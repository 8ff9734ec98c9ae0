"""`pcace show` and `pcace compare` on effects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from pcace_dist.analysis.effect_movement import effect_columns
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli import show
from pcace_dist.cli.main import main
from tests.digits import MNIST, digits_job, ranked, write_digits

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def runs(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    write_digits(folder / "data", 600)
    ranked(digits_job(folder / "data", folder / "with", group_by="odd"))
    ranked(digits_job(folder / "data", folder / "without", effect={"gradient": "off"}))
    return folder


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["show", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_channels_of_a_whole_job_are_listed_by_effect(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, str(runs / "with"), "--by", "effect", "--top", "3", "--group", "True", "--json")
    effects = [row["effect"] for row in json.loads("\n".join(lines))]
    assert len(effects) == 3 and effects == sorted(effects, reverse=True)


@pytest.mark.parametrize("options", [["--by", "effect"], ["--simultaneous"], ["--layer", "conv1"], ["--group", "True"]])
def test_what_does_not_go_with_across_is_refused(
    options: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(runs / "with"), "--across", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pcace show: {options[0]}")
    assert line.endswith(": does not go with --across, which takes --target and --top")


def test_the_true_top_and_simultaneous_intervals_are_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(str(runs / "with"))
    lines = shown(capsys, run.path, "--top", "3", "--group", "True", "--layer", "conv1", "--simultaneous", "--json")
    rows = json.loads("\n".join(lines))
    known = run.membership(3, layer="conv1", group="True").to_pylist()
    wide = run.simultaneous(layer="conv1", group="True").to_pylist()
    for row in rows:
        assert row["in_top"] == known[row["channel"]]["in_top"] in ("surely", "possibly", "no")
        assert row["in_top_probability"] == known[row["channel"]]["in_top_probability"]
        assert row["score_low_simultaneous"] == wide[row["channel"]]["score_low_simultaneous"] <= row["score_low"]
        assert row["score_high_simultaneous"] >= row["score_high"]
    everything = run.membership(3, group="True")
    assert sum(everything["in_top_probability"].drop_null().to_pylist()) == pytest.approx(3)

    text = shown(capsys, run.path, "--top", "3", "--group", "True", "--simultaneous")
    surely, possibly = (
        sum(one in kinds for one in everything["in_top"].to_pylist()) for kinds in (["surely"], ["surely", "possibly"])
    )
    assert any(
        line.startswith(f"in the true top 3: surely {surely}, possibly {possibly} channels; of these 3, ")
        for line in text
    )
    assert text[-1].endswith("at once (simultaneous).")
    assert not any("in the true top" in line for line in shown(capsys, run.path, "--by", "effect"))


def test_the_true_top_of_very_many_channels_is_not_worked_out(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "MOST_CHANNELS", 10)
    text = shown(capsys, str(runs / "with"), "--top", "3")
    assert "who is in the true top is worked out for 10 channels at most: choose with --group NAME" in text
    [row] = json.loads("\n".join(shown(capsys, str(runs / "with"), "--top", "1", "--group", "True", "--json")))
    assert row["in_top"] is row["in_top_probability"] is None


# -- compare


def compared(one: Path, other: Path, output: Path, *more: str) -> tuple[int, dict[str, Any], pa.Table]:
    code = main(["compare", str(one), str(other), "--output", str(output), *more])
    return code, json.loads((output / "comparison.json").read_text()), pq.read_table(output / "comparison.parquet")


def test_effects_of_the_same_run_have_not_moved(runs: Path, tmp_path: Path) -> None:
    code, content, table = compared(runs / "with", runs / "with", tmp_path, "--max-effects-moved", "0")
    assert code == 0 and content["counts"]["effects_moved"] == 0
    assert content["counts"]["effects_judged"] == len(table) and set(table["effect_p_value"].to_pylist()) == {1.0}


def test_a_changed_head_moves_effects_and_is_drift(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(MNIST / "weights.safetensors")
    weights["classify.weight"] = weights["classify.weight"].roll(1, 0) * torch.linspace(0.2, 2, 288)
    save_file(weights, tmp_path / "other.safetensors")
    job = digits_job(runs / "data", tmp_path / "other", group_by="odd")
    job["model"]["weights"] = str(tmp_path / "other.safetensors")
    ranked(job)
    code, content, table = compared(runs / "with", tmp_path / "other", tmp_path, "--max-effects-moved", "10%")
    assert code == 3 and "more than --max-effects-moved 10 %" in capsys.readouterr().err
    moved = table.filter(table["effect_moved"])
    assert len(moved) == content["counts"]["effects_moved"] > 5
    assert np.allclose(
        np.array(moved["effect_change"]), np.array(moved["effect_b"]) - np.array(moved["effect_a"]), atol=1e-9
    )


def test_runs_without_effects_or_of_another_kind_are_not_judged(runs: Path, tmp_path: Path) -> None:
    ranked(digits_job(runs / "data", tmp_path / "ungrouped"))
    ranked(digits_job(runs / "data", tmp_path / "output", effect={"at": "output"}))
    for other in (runs / "without", tmp_path / "output"):
        code, content, table = compared(tmp_path / "ungrouped", other, tmp_path)
        assert code == 0 and content["counts"]["effects_judged"] == 0
        assert table["effect_p_value"].null_count == len(table) and table["effect_a"].null_count == 0


def test_runs_from_before_effects_have_columns_of_nulls() -> None:
    table = pa.table({"images": [5, 5]})
    columns = effect_columns(table, table, paired=True, level=0.05, tolerance=0, judged=True)
    assert columns["effect_a"].null_count == 2 and columns["effect_moved"].to_pylist() == [False, False]
