"""`pcace evaluate`: does a ranking find what matters to the model? Ablation on images that the ranking does not know.

    run, model -> ranking without the held-out folds -> profiles -> orders -> ablation on the held-out folds -> curves

A quarter of the folds is held out. The ranking is solved anew from the other folds' sums. Mean maps and baselines come
from the other folds' images, effects from the held-out images. Folds are hashes of the images, so that no image is on
both sides. With `data`, the published ranking is taken and effects are measured on that data set. Joins the workers
(evaluate_on_workers) with the analysis (curves); neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.analysis.columns import EVALUATION
from pcace_dist.analysis.curves import (
    BEST,
    Curves,
    Order,
    RankedLayer,
    areas,
    curves_table,
    first,
    orders,
    sets_of,
    sizes,
    standings,
)
from pcace_dist.analysis.figure import curves_svg
from pcace_dist.analysis.publish import write_json, write_parquet, write_text
from pcace_dist.artifacts.rankings import why_unranked
from pcace_dist.artifacts.run import Run
from pcace_dist.commands.evaluate_on_workers import Evaluated, Evaluating, evaluating, open_evaluation
from pcace_dist.config.choice import Wanted, choose, layer_names
from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.paths import first_names
from pcace_dist.errors import JobError
from pcace_dist.models.ablation import BIAS, MEAN, REPLACEMENTS, ZERO, Effect
from pcace_dist.worker.evaluator import AblationTask, Case, Profiled

Floats: TypeAlias = npt.NDArray[np.float64]

HELD_OUT_SHARE = 4  # one of so many folds is held out
SETS_PER_TASK = 16
NAMED = 3  # of what cannot be evaluated
MOST_CURVES = 60  # layers x targets x groups, unless they were chosen
BASELINES = ("weight_norm", "mean_activation", "variance", "taylor", "pearson")


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated. images: rows read of each data set; draws: random orders. None: all there are."""

    data: str | None = None
    images: int = 4000
    draws: int = 20
    replacements: tuple[str, ...] = REPLACEMENTS
    layers: Wanted = None
    target: Wanted = None
    group: Wanted = None
    watch: TargetSpec | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The curves, the accuracy of the untouched model by (target, group), and what was left out and why."""

    path: str
    settings: EvaluationSettings
    held_out: tuple[int, ...]
    curves: tuple[Curves, ...]
    accuracy: Mapping[tuple[str, Any], float]
    left_out: tuple[str, ...]

    @property
    def replacements(self) -> list[str]:
        return list(dict.fromkeys(curves.replacement for curves in self.curves))

    def to_json(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        ranked = "the published ranking" if self.settings.data else "the folds that are not held"
        measured = self.settings.data or f"the images of folds {list(self.held_out)}"
        return {
            "format_version": 1,
            "run": self.path,
            "split": {"ranking_from": ranked, "effects_on": measured, "held_folds": list(self.held_out)},
            "images_read": self.settings.images,
            "random_orders": self.settings.draws,
            "left_out": list(self.left_out),
            "untouched_accuracy": [
                {"target": target, "group": group, "accuracy": None if np.isnan(value) else value}
                for (target, group), value in self.accuracy.items()
            ],
            "standings": {name: [asdict(row) for row in standings(self.curves, name)] for name in self.replacements},
            "curves": areas(self.curves),
        }


def evaluate(run: Run, settings: EvaluationSettings | None = None) -> Evaluation:
    """Evaluate a finished run on workers. Raises UserError, Stopped."""
    settings = settings or EvaluationSettings()
    job = run.job
    source = run.summary.get("from_codes")
    if source is not None:
        raise JobError(f"{run.path}: was ranked from kept codes, without images; evaluate {source}, which kept them")
    held_out = tuple(range(job.statistics.folds - job.statistics.folds // HELD_OUT_SHARE, job.statistics.folds))
    if settings.data is None and job.statistics.estimator != "gram":
        raise JobError(
            f"{run.path}: was ranked by estimator {job.statistics.estimator}, which needs --data to evaluate"
        )
    evaluated = open_evaluation(
        job, run.path, data=settings.data, images=settings.images, held_out=held_out, watch=settings.watch
    )
    _refuse_unranked(run, settings)
    published = _published(run, settings)
    cases = list(published)
    names = _layers(run.path, evaluated, settings)
    if len(cases) * len(names) > MOST_CURVES and not (settings.layers or settings.group or settings.target):
        raise JobError(
            f"{run.path}: has {len(names)} layers and {len(cases)} targets and groups: choose with --layer, --group "
            f"or --target (at most {MOST_CURVES} curves are drawn unasked)"
        )
    with evaluating(evaluated) as workers:
        scores = published if settings.data is not None else _without_held_out(workers, evaluated, cases)
        return _measure(run, settings, evaluated, workers, cases, names, scores)


def _refuse_unranked(run: Run, settings: EvaluationSettings) -> None:
    """Raise JobError where no channel is ranked in what is asked for, before any worker is started."""
    table = run.ranking(target=settings.target, group=settings.group)
    if table["rank"].null_count == len(table):
        job = run.job
        reasons = why_unranked(table, run.names, job.statistics, grouped=job.group_by is not None)
        raise JobError(f"{run.path}: nothing can be evaluated: {'; '.join(reasons)}")


def write_evaluation(evaluation: Evaluation, folder: str, run: Run) -> None:
    """evaluation.parquet, evaluation.json, then the pictures, evaluation-<replacement>.svg. Raises OutputError."""
    write_parquet(curves_table(evaluation.curves), f"{folder}/{EVALUATION.file}", run.storage)
    write_json(evaluation.to_json(), f"{folder}/evaluation.json", run.storage)
    for name in evaluation.replacements:
        write_text(curves_svg(evaluation.curves, name), f"{folder}/evaluation-{name}.svg", run.storage)


# -- rankings: scores of all layers by case


Scores: TypeAlias = Mapping[str, Floats]


def _published(run: Run, settings: EvaluationSettings) -> dict[Case, Scores]:
    """The published scores (C,) by layer, of every case that is asked for."""
    table = run.ranking(target=settings.target, group=settings.group)
    index = {target: place for place, target in enumerate(dict.fromkeys(run.ranking()["target"].to_pylist()))}
    scores: dict[Case, dict[str, list[float]]] = {}
    columns = (table[name].to_pylist() for name in ("target", "group", "layer", "score_squared"))
    for target, group, layer, score in zip(*columns, strict=True):
        scores.setdefault(Case(index[target], group), {}).setdefault(layer, []).append(
            float("nan") if score is None else score
        )
    return {case: {layer: np.array(values) for layer, values in layers.items()} for case, layers in scores.items()}


def _without_held_out(workers: Evaluating, evaluated: Evaluated, cases: Sequence[Case]) -> dict[Case, Scores]:
    blocks = sorted(workers.ranked(), key=lambda block_scores: block_scores.block.index)
    scores: dict[Case, Scores] = {}
    for case in cases:
        parts: dict[str, list[Floats]] = {layer.name: [] for layer in evaluated.plan.layers}
        for block_scores in blocks:
            of_group = block_scores.scores.get(case.group)
            block = block_scores.block
            unscored = np.full(block.stop - block.start, np.nan)
            parts[block.layer].append(unscored if of_group is None else of_group[case.target].score_squared)
        scores[case] = {layer: np.concatenate(of_layer) for layer, of_layer in parts.items()}
    return scores


def _layers(path: str, evaluated: Evaluated, settings: EvaluationSettings) -> list[str]:
    ranked = [layer.name for layer in evaluated.plan.layers]
    return choose("layer", settings.layers, ranked, layer_names, where=path)


# -- measuring


@dataclass(frozen=True, eq=False)
class _PlannedCurves:
    """Curves to be measured: their orders, and the values that take the place of a channel's map."""

    case: Case
    layer: RankedLayer
    replacement: str
    values: Tensor
    orders: tuple[Order, ...]
    sizes: tuple[int, ...]
    images: int

    @property
    def sets(self) -> list[tuple[int, ...]]:
        return sets_of(self.orders, self.sizes)

    def curves(self, effects: Mapping[tuple[int, ...], Effect]) -> Curves:
        by_order = {
            (order.name, order.draw): tuple(effects[first(order, count)] for count in self.sizes)
            for order in self.orders
        }
        return Curves(self.layer, self.replacement, self.images, self.sizes, by_order)


def _measure(
    run: Run,
    settings: EvaluationSettings,
    evaluated: Evaluated,
    workers: Evaluating,
    cases: Sequence[Case],
    names: Sequence[str],
    scores: Mapping[Case, Scores],
) -> Evaluation:
    profiles = dict(zip(cases, workers.profiles(cases), strict=True))
    targets = [target.name for target in evaluated.plan.targets]

    def shown(case: Case) -> str:
        return f"{run.names.target(targets[case.target])}, group {run.names.group(case.group)}"

    left_out = [
        f"{shown(case)}: {profiles[case].images} images to profile and "
        f"{profiles[case].held_out} held-out ones are too few"
        for case in cases
        if not profiles[case].layers
    ]
    usable = [case for case in cases if profiles[case].layers]
    planned: list[_PlannedCurves] = []
    for case in usable:
        for name in names:
            if not np.isfinite(scores[case][name]).any():
                left_out.append(f"{shown(case)}, {name}: no channel has a score")
                continue
            layer = _layer(targets[case.target], case, name, scores[case][name], profiles[case], evaluated)
            planned += _replaced(case, layer, profiles[case], settings, evaluated.preparation.spec.compute.seed)
    if not planned:
        reasons = first_names(left_out, NAMED) or "no replacement applies"
        raise JobError(f"{run.path}: nothing can be evaluated: {reasons}")
    untouched = dict(zip(usable, workers.untouched(usable), strict=True))
    return Evaluation(
        path=run.path,
        settings=settings,
        held_out=evaluated.evaluation.held_out,
        curves=tuple(_ablated(workers, planned)),
        accuracy={(targets[case.target], case.group): effect.accuracy for case, effect in untouched.items()},
        left_out=tuple(left_out),
    )


def _layer(target: str, case: Case, name: str, ranked: Floats, profiled: Profiled, evaluated: Evaluated) -> RankedLayer:
    """The ranking's scores first, then those of the baselines that this layer has."""
    profile = profiled.layers[name]
    norms = np.array([np.nan if norm is None else norm for norm in evaluated.metadata.weight_norms[name]])
    baselines = {key: norms if key == "weight_norm" else getattr(profile, key) for key in BASELINES}
    return RankedLayer(
        target, case.group, name, {BEST: ranked} | {k: v for k, v in baselines.items() if np.isfinite(v).any()}
    )


def _replaced(
    case: Case, layer: RankedLayer, profiled: Profiled, settings: EvaluationSettings, seed: int
) -> list[_PlannedCurves]:
    mean = profiled.layers[layer.name].mean.float()
    values = {MEAN: mean, ZERO: torch.zeros(len(mean), 1), BIAS: profiled.bias.get(layer.name)}
    layer_orders = tuple(orders(layer, settings.draws, seed))
    return [
        _PlannedCurves(case, layer, name, replacement, layer_orders, sizes(layer.channels), profiled.held_out)
        for name in settings.replacements
        if (replacement := values[name]) is not None
    ]


def _ablated(workers: Evaluating, planned: Sequence[_PlannedCurves]) -> list[Curves]:
    tasks: list[AblationTask] = []
    images = 0
    for to_measure in planned:
        sets = to_measure.sets
        images += to_measure.images * len(sets)
        for start in range(0, len(sets), SETS_PER_TASK):
            part = tuple(sets[start : start + SETS_PER_TASK])
            tasks.append(AblationTask(to_measure.case, to_measure.layer.name, to_measure.values, part))
    answers = iter(zip(tasks, workers.ablated(tasks, images), strict=True))
    curves = []
    for to_measure in planned:
        effects: dict[tuple[int, ...], Effect] = {}
        while len(effects) < len(to_measure.sets):
            task, task_effects = next(answers)
            effects |= dict(zip(task.sets, task_effects, strict=True))
        curves.append(to_measure.curves(effects))
    return curves
