"""Ablation curves of whole runs: a planted network with the known answer, and the ways in which one asks."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pcace_dist.api import rank
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.cli.main import main
from pcace_dist.commands.evaluate import Evaluation, EvaluationSettings, evaluate, write_evaluation
from pcace_dist.config.targets import TargetSpec
from pcace_dist.errors import JobError, OutputError, UserError
from tests.planted import write_planted
from tests.planted_ablation import SHARES, write_images
from tests.run.test_main_job import planted_job

ROWS = 4000


def job_of(folder: Path, output: str = "run", **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"path": str(folder / "data"), "label": "label"},
        "model": {
            "factory": "tests.planted_ablation:reading",
            "weights": "factory",
            "input": {"mode": "L"},
        },
        "layers": "all",
        "target": {"output": 1},
        "statistics": {"components": 1, "pilot": 1024},
        "workers": {"max": 2},
        "output": str(folder / output),
    } | changes


@pytest.fixture(scope="module")
def run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("evaluate")
    write_images(folder / "data", ROWS)
    return rank(job_of(folder))


@pytest.fixture(scope="module")
def evaluation(run: Run) -> Evaluation:
    return evaluate(run, EvaluationSettings(replacements=("mean", "zero"), draws=8))


def lost(evaluation: Evaluation, order: str, replacement: str = "mean") -> list[float]:
    curve = next(candidate for candidate in evaluation.curves if candidate.replacement == replacement)
    return [float(value) for value in curve.along(order)[0]]


def test_the_ranking_takes_what_the_closed_form_says(evaluation: Evaluation) -> None:
    expected = [SHARES[:k].sum() for k in (1, 2, 4)]
    assert lost(evaluation, "pcace") == pytest.approx(expected, abs=0.03)
    assert lost(evaluation, "worst")[:2] == pytest.approx([0, 0], abs=1e-9)


def test_the_orders_of_the_effect_take_what_the_first_order_says(evaluation: Evaluation) -> None:
    """The gradient of 2 u^2 is 0 in the mean, as u has mean 0: the effect is blind to channel 0, the ranking is not."""
    linear = [SHARES[1 : k + 1].sum() for k in (1, 2)]
    for order in ("effect", "greedy"):
        assert lost(evaluation, order)[:2] == pytest.approx(linear, abs=0.03)
    assert lost(evaluation, "score_sd")[1] == pytest.approx(SHARES[:2].sum(), abs=0.03)


def test_the_best_constants_change_the_target_no_more_than_the_mean_maps(run: Run, evaluation: Evaluation) -> None:
    best = evaluate(run, EvaluationSettings(replacements=("optimal",), draws=1))
    for order in ("pcace", "effect"):
        means, constants = (
            next(c for c in one.curves if c.replacement == how).along(order, "changed")
            for one, how in ((evaluation, "mean"), (best, "optimal"))
        )
        assert (constants <= means + 0.01).all(), "on images from which they were not chosen"


def test_baselines_that_are_misled_take_what_they_deserve(evaluation: Evaluation) -> None:
    assert lost(evaluation, "taylor") == pytest.approx(lost(evaluation, "pcace"), abs=0.03)
    assert lost(evaluation, "conductance") == pytest.approx(lost(evaluation, "pcace"), abs=0.03)
    assert lost(evaluation, "variance")[0] == pytest.approx(0, abs=1e-9)
    assert lost(evaluation, "weight_norm")[0] == pytest.approx(0, abs=1e-9)
    assert lost(evaluation, "mean_activation")[0] == pytest.approx(0, abs=1e-9)
    assert lost(evaluation, "pearson")[0] == pytest.approx(SHARES[1], abs=0.03), "a straight line does not see a square"


def test_the_curves_say_how_the_mean_and_the_accuracy_change(evaluation: Evaluation) -> None:
    curve = next(one for one in evaluation.curves if one.replacement == "mean")
    best = curve.effects["pcace", 0]
    assert evaluation.accuracy == {("output:1", None): 1.0}
    assert best[0].change == pytest.approx(-2, abs=0.3), "2 u^2 has mean 2, and 0 where u is its mean"
    assert best[-1].accuracy < 0.7 < curve.effects["worst", 0][0].accuracy
    assert curve.area("pcace") > curve.band[1] > curve.band[0]


def test_no_image_is_on_both_sides(evaluation: Evaluation) -> None:
    assert evaluation.held_out == (12, 13, 14, 15)
    measured = evaluation.curves[0].images
    assert 0.15 * ROWS < measured < 0.35 * ROWS


@pytest.mark.jobs
def test_another_number_of_workers_gives_the_same_curves(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    job = run.job.model_copy(update={"workers": run.job.workers.model_copy(update={"max": 1})})
    (Path(run.path) / "job.yaml").write_text(job.to_yaml())
    again = evaluate(run, EvaluationSettings(replacements=("mean", "zero"), draws=8))
    assert again.to_json() == evaluation.to_json()


def test_files_and_figure(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation(evaluation, str(tmp_path), run)
    table = pq.read_table(tmp_path / "evaluation.parquet").to_pandas()
    baselines = {"weight_norm", "mean_activation", "variance", "taylor", "conductance", "pearson"}
    assert set(table.order) == {"pcace", "effect", "score_sd", "greedy", "worst", "random"} | baselines
    assert sorted(table.k.unique()) == [1, 2, 4]
    assert len(table) == 2 * 3 * (11 + 8) and table.lost.between(0, 1).all()
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["split"]["held_folds"] == [12, 13, 14, 15]
    assert {row["order"] for row in content["standings"]["mean"]} == set(table.order)
    assert content["verdict"]["mean"].startswith("Trust, by 1 of 1 curves, replaced by mean: for 1 - r^2 ")
    for name in ("mean", "zero"):
        root = ElementTree.parse(tmp_path / f"evaluation-{name}.svg").getroot()
        assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == 11


@pytest.mark.jobs
def test_effects_on_another_data_set(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "other", 1500, seed=9)
    arguments = ["--data", str(tmp_path / "other"), "--replace", "mean", "--draws", "3", "--output", str(tmp_path)]
    assert main(["evaluate", run.path, *arguments]) == 0
    assert "taylor" in capsys.readouterr().out
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["split"]["ranking_from"] == "the published ranking"
    assert content["curves"][0]["images"] == 1500
    assert content["curves"][0]["areas"]["pcace"] == pytest.approx(
        np.mean([SHARES[:k].sum() for k in (1, 2, 4)]), abs=0.03
    )


def test_a_target_that_is_no_output_wants_to_know_what_to_watch(without_ray: None, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 800)
    found = rank(planted_job(tmp_path / "data", tmp_path / "run", target={"column": "exponential"}))
    with pytest.raises(JobError, match="--watch output:0"):
        evaluate(found)
    settings = EvaluationSettings(replacements=("mean",), draws=2, watch=TargetSpec("output", 0))
    assert evaluate(found, settings).curves[0].layer.target == "column:exponential"
    with pytest.raises(JobError, match="none of the model's 2 outputs"):
        evaluate(found, EvaluationSettings(watch=TargetSpec("output", 2)))


@pytest.mark.jobs
def test_groups_are_measured_on_their_own_images(local_ray: None, tmp_path: Path) -> None:
    write_images(tmp_path / "data", 1600)
    found = rank(job_of(tmp_path, group_by="label", target={"logit": "label"}))
    curves = evaluate(found, EvaluationSettings(replacements=("mean",), draws=2)).curves
    assert [one.layer.group for one in curves] == [0, 1]
    assert sum(one.images for one in curves) < 1600 * 0.35


def test_what_cannot_be_evaluated_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no layer 'conv9'; there are: read"):
        evaluate(run, EvaluationSettings(layers=("conv9",)))
    (tmp_path / "half").mkdir()
    for name in ("job.yaml", "rankings.parquet", "summary.json"):
        (tmp_path / "half" / name).write_bytes((Path(run.path) / name).read_bytes())
    with pytest.raises(OutputError, match="holds no finished run"):
        evaluate(open_run(str(tmp_path / "half")))
    with pytest.raises(SystemExit):
        main(["evaluate", run.path, "--replace", "median"])
    assert "write one or more of mean, zero, bias" in capsys.readouterr().err
