"""Comparing runs: verdicts, which noise counts, what is not comparable, thresholds and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.analysis.compare import Comparison, ComparisonSettings, compare_runs
from pcace_dist.analysis.matched import compare_matched
from pcace_dist.cli.main import main
from tests.analysis.runs import noise, write_run
from tests.analysis.test_matching import quantised

SCORES = {"conv1": np.linspace(0.1, 0.4, 4), "conv2": np.linspace(0.2, 0.9, 8)}


def moved_scores(**changes: float) -> dict[str, np.ndarray]:
    """SCORES with some channels changed: conv2_3=0.1 adds 0.1 to channel 3 of conv2."""
    changed = {layer: values.copy() for layer, values in SCORES.items()}
    for name, by in changes.items():
        layer, _, channel = name.partition("_")
        changed[layer][int(channel)] += by
    return changed


def names(comparison: Comparison) -> list[tuple[str, int, str]]:
    return sorted((row["layer"], row["channel"], row["movement"]) for row in comparison.moved())


def test_the_same_weights_on_the_same_data_are_the_same(tmp_path: Path) -> None:
    run_a, run_b = (write_run(tmp_path / name, SCORES) for name in "ab")
    compared = compare_runs(run_a, run_b)
    assert compared.verdict == "same"
    assert compared.notes == ("the same weights", "the same data", "the same plan")
    assert compared.overall == pytest.approx({"kendall": 1, "spearman": 1, "overlap": 1, "rbo": 1})
    assert compared.counts["moved"] == 0 and compared.counts["judged"] == 12


def test_the_channels_that_changed_are_those_named(tmp_path: Path) -> None:
    run_a = write_run(tmp_path / "a", SCORES)
    run_b = write_run(tmp_path / "b", moved_scores(conv2_3=0.2, conv1_0=-0.09), weights="x", plan="q")
    compared = compare_runs(run_a, run_b)
    assert compared.verdict == "moved"
    assert names(compared) == [("conv1", 0, "fell"), ("conv2", 3, "rose")]
    assert {row.layer for row in compared.agreement} == {None, "conv1", "conv2"}
    assert compared.overall["kendall"] < 1


def test_a_change_within_the_noise_is_none(tmp_path: Path) -> None:
    own = [{layer: noise(seed, len(values), 0.02) for layer, values in SCORES.items()} for seed in (1, 2)]
    run_a = write_run(tmp_path / "a", SCORES, fold_noise=own[0], files=("a.parquet",))
    run_b = write_run(tmp_path / "b", moved_scores(conv2_3=0.04), fold_noise=own[1], files=("b.parquet",))
    assert compare_runs(run_a, run_b).verdict == "same"


def test_on_the_same_images_a_smaller_change_is_seen(tmp_path: Path) -> None:
    own = {layer: noise(1, len(values), 0.05) for layer, values in SCORES.items()}
    near = {layer: values + noise(2, len(values), 0.002) for layer, values in own.items()}
    run_a = write_run(tmp_path / "a", SCORES, fold_noise=own)
    paired = write_run(tmp_path / "b", moved_scores(conv2_3=0.05), fold_noise=near, weights="x")
    apart = write_run(tmp_path / "c", moved_scores(conv2_3=0.05), fold_noise=near, weights="x", files=("c.parquet",))
    assert names(compare_runs(run_a, paired)) == [("conv2", 3, "rose")]
    assert compare_runs(run_a, paired).noise.paired
    assert compare_runs(run_a, apart).verdict == "same"


def test_other_plans_count_as_noise_and_one_plan_does_not(tmp_path: Path) -> None:
    run_a = write_run(tmp_path / "a", SCORES, images=50_000)
    same = write_run(tmp_path / "b", SCORES, images=50_000, weights="x")
    run_b = write_run(tmp_path / "c", SCORES, images=1500, weights="x", plan="q")
    assert compare_runs(run_a, same).noise.pilots == (None, None)
    assert compare_runs(run_a, run_b).noise.pilots == (2048, 1500)


def test_channels_that_died_and_appeared_are_named(tmp_path: Path) -> None:
    before, after = moved_scores(), moved_scores()
    before["conv2"][0], after["conv2"][7] = np.nan, np.nan
    run_a, run_b = write_run(tmp_path / "a", before), write_run(tmp_path / "b", after, weights="x")
    assert names(compare_runs(run_a, run_b)) == [("conv2", 0, "appeared"), ("conv2", 7, "died")]


def test_a_tolerance_leaves_small_changes_out(tmp_path: Path) -> None:
    run_a = write_run(tmp_path / "a", SCORES)
    run_b = write_run(tmp_path / "b", moved_scores(conv2_3=0.2, conv2_5=0.06), weights="x")
    assert len(compare_runs(run_a, run_b).moved()) == 2
    assert names(compare_runs(run_a, run_b, ComparisonSettings(tolerance=0.1))) == [("conv2", 3, "rose")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"targets": ("logit:3",)}, "targets differ: only in the first: logit:label; only in the second: logit:3"),
        ({"dataset": {"path": "data", "filter": {"label": 3}}}, "data: dataset.filter differs"),
        ({"group_by": "label"}, "data: group_by differs: None and 'label'"),
        ({"statistics": {"knots": 17}}, "statistics.knots differs: 9 and 17"),
        (
            {"dataset": {"path": "elsewhere"}, "files": ("z.parquet",)},
            r"data: dataset.path differs \(data and elsewhere\)",
        ),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    run_a, run_b = write_run(tmp_path / "a", SCORES), write_run(tmp_path / "b", SCORES, **changes)  # type: ignore[arg-type]
    compared = compare_runs(run_a, run_b)
    assert compared.verdict == "not comparable"
    assert any(__import__("re").match(reason, text) for text in compared.reasons), compared.reasons


def test_other_layers_are_not_comparable_but_one_that_both_have_is(tmp_path: Path) -> None:
    run_a = write_run(tmp_path / "a", SCORES)
    run_b = write_run(tmp_path / "b", {"conv2": SCORES["conv2"], "conv3": SCORES["conv1"]})
    assert "layers differ: only in the first: conv1; only in the second: conv3" in compare_runs(run_a, run_b).reasons[0]
    assert compare_runs(run_a, run_b, ComparisonSettings(layer="conv2")).verdict == "same"
    wider = write_run(tmp_path / "c", {"conv1": SCORES["conv1"], "conv2": SCORES["conv1"]})
    assert compare_runs(run_a, wider).reasons == (
        "layers differ: conv2 has 8 channels in the first and 4 in the second",
    )


def test_groups_that_both_have_are_compared_and_the_others_named(tmp_path: Path) -> None:
    run_a = write_run(tmp_path / "a", SCORES, groups=(1, 2), group_by="label")
    run_b = write_run(tmp_path / "b", SCORES, groups=(2, 3), group_by="label")
    compared = compare_runs(run_a, run_b)
    assert compared.verdict == "same"
    assert compared.channels["group"].unique().to_pylist() == [2]
    assert "groups only in the first: 1; only in the second: 3" in compared.notes[-1]


def test_the_command_prints_the_movement_and_writes_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", SCORES)
    write_run(tmp_path / "b", moved_scores(conv2_3=0.2), weights="x")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    printed = capsys.readouterr().out
    assert "moved" in printed and "rose" in printed and "conv2" in printed
    content = json.loads((tmp_path / "b" / "comparison.json").read_text())
    assert (content["verdict"], content["counts"]["moved"], content["paired"]) == ("moved", 1, True)
    table = pq.read_table(tmp_path / "b" / "comparison.parquet")
    assert len(table) == 12 and table["moved"].to_pylist().count(True) == 1


@pytest.mark.parametrize(
    ("threshold", "code"),
    [
        (["--min-tau", "0.99"], 3),
        (["--min-tau", "0.5"], 0),
        (["--max-moved", "0"], 3),
        (["--max-moved", "1"], 0),
        (["--max-moved", "5%"], 3),
        (["--min-overlap", "1", "--top", "3"], 3),
        (["--min-tau", "0.99", "--ok", "3"], 0),
    ],
)
def test_thresholds_give_exit_3_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: list[str], code: int
) -> None:
    write_run(tmp_path / "a", SCORES)
    write_run(tmp_path / "b", moved_scores(conv2_3=0.5), weights="x")
    out = tmp_path / "out"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(out), *threshold]) == code
    reason = capsys.readouterr().err
    assert (threshold[0] in reason) == (code == 3 or "--ok" in threshold)
    assert (out / "comparison.json").exists() and not (tmp_path / "b" / "comparison.json").exists()


def test_not_comparable_is_exit_2_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", SCORES)
    write_run(tmp_path / "b", {"conv1": SCORES["conv1"]})
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "not comparable: layers differ" in captured.err
    assert not (tmp_path / "b" / "comparison.json").exists()


def test_a_path_without_a_run_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", SCORES)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "nothing")]) == 2
    assert "holds no summary.json" in capsys.readouterr().err


def test_a_shuffled_network_is_the_same_once_it_is_matched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shuffle = np.random.default_rng(3).permutation(8)
    after = {"conv1": SCORES["conv1"], "conv2": SCORES["conv2"][np.argsort(shuffle)]}
    run_a, run_b = write_run(tmp_path / "a", SCORES), write_run(tmp_path / "b", after, weights="x")
    codes = {
        layer: quantised(np.random.default_rng(i).standard_normal((300, len(v), 5)))
        for i, (layer, v) in enumerate(SCORES.items())
    }
    write_sample(tmp_path / "a", np.arange(300), codes)
    codes["conv2"] = codes["conv2"][:, np.argsort(shuffle)]
    rows = np.arange(40, 300)[::-1]  # the other run's sample holds most of the same rows, in another order
    write_sample(tmp_path / "b", rows, {layer: layer_codes[rows] for layer, layer_codes in codes.items()})
    plain = compare_runs(run_a, run_b)
    assert plain.verdict == "moved"
    matched = compare_matched(run_a, run_b, plain)
    assert matched.layers["conv2"].permutation.tolist() == shuffle.tolist()
    assert (matched.images, matched.comparison.verdict) == (260, "same")
    assert matched.comparison.overall["kendall"] == pytest.approx(1)
    assert matched.counts == {"channels": 12, "found": 12, "elsewhere": int((shuffle != np.arange(8)).sum())}
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--match"]) == 0
    assert "12 of 12 found again" in capsys.readouterr().out
    content = json.loads((tmp_path / "b" / "comparison.json").read_text())
    assert content["verdict"] == "moved" and content["matching"]["after"]["verdict"] == "same"
    assert len(pq.read_table(tmp_path / "b" / "matching.parquet")) == 12


def test_matching_without_a_sample_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", SCORES)
    write_run(tmp_path / "b", SCORES)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--match"]) == 2
    assert "holds no sample.parquet" in capsys.readouterr().err


def write_sample(folder: Path, keys: np.ndarray, codes: dict[str, np.ndarray]) -> None:
    columns = {
        f"codes/{layer}": pa.array(layer_codes.reshape(len(layer_codes), -1).tolist(), pa.list_(pa.uint8()))
        for layer, layer_codes in codes.items()
    }
    pq.write_table(pa.table({"key": pa.array(keys, pa.int64()), **columns}), folder / "sample.parquet")
