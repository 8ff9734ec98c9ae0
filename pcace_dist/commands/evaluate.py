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
import pyarrow as pa
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
)
from pcace_dist.analysis.figure import curves_svg
from pcace_dist.analysis.publish import write_json, write_parquet, write_text
from pcace_dist.analysis.standings import standings, verdict
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.rankings import why_unranked
from pcace_dist.artifacts.run import Run
from pcace_dist.commands.evaluate_on_workers import Evaluated, Evaluating, evaluating, open_evaluation
from pcace_dist.config.choice import Wanted, choose, layer_names
from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.paths import first_names
from pcace_dist.errors import JobError
from pcace_dist.models.ablation.replacement import BIAS, MEAN, OPTIMAL, UNASKED, ZERO, Effect
from pcace_dist.worker.evaluation.evaluator import AblationTask, Case, Profiled

Floats: TypeAlias = npt.NDArray[np.float64]

HELD_OUT_SHARE = 4  # one of so many folds is held out
SETS_PER_TASK = 16
NAMED = 3  # of what cannot be evaluated
MOST_CURVES = 60  # layers x targets x groups, unless they were chosen
BASELINES = ("weight_norm", "mean_activation", "variance", "taylor", "conductance", "pearson")
EFFECT, SCORE_SD, GREEDY = "effect", "score_sd", "greedy"  # beside the ranking, where the run has effects


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated. images: rows read of each data set; draws: random orders. None: all there are."""

    data: str | None = None
    images: int = 4000
    draws: int = 20
    replacements: tuple[str, ...] = UNASKED
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
            "verdict": {name: verdict(self.curves, name) for name in self.replacements},
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


Scores: TypeAlias = Mapping[str, Mapping[str, Floats]]
"""By layer and order, (C,): larger is more important, NaN where a channel has none."""
PUBLISHED = ("score_squared", "effect", "effect_sd")


def _published(run: Run, settings: EvaluationSettings) -> Mapping[Case, Scores]:
    """The published scores of every case that is asked for."""
    table = run.ranking(target=settings.target, group=settings.group)
    index = {target: place for place, target in enumerate(dict.fromkeys(run.ranking()["target"].to_pylist()))}
    rows: dict[tuple[Case, str], list[int]] = {}
    keys = (table[name].to_pylist() for name in ("target", "group", "layer"))
    for row, (target, group, layer) in enumerate(zip(*keys, strict=True)):
        rows.setdefault((Case(index[target], group), layer), []).append(row)
    columns = [_column(table, name) for name in PUBLISHED]
    scores: dict[Case, dict[str, Mapping[str, Floats]]] = {}
    for (case, layer), own in rows.items():
        scores.setdefault(case, {})[layer] = _orders(*(values[own] for values in columns))
    return scores


def _column(table: pa.Table, name: str) -> Floats:
    """NaN where it is null, or where the run has no such column."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64)


def _orders(score_squared: Floats, effect: Floats, sd: Floats) -> dict[str, Floats]:
    """The scores of the run's own orders."""
    score = np.sign(score_squared) * np.sqrt(np.abs(score_squared))  # unclipped, as the ranking goes
    return {BEST: score_squared, EFFECT: effect, SCORE_SD: score * sd}


def _without_held_out(workers: Evaluating, evaluated: Evaluated, cases: Sequence[Case]) -> Mapping[Case, Scores]:
    blocks = sorted(workers.ranked(), key=lambda block_scores: block_scores.block.index)
    by_layer = {layer.name: [own for own in blocks if own.block.layer == layer.name] for layer in evaluated.plan.layers}
    return {
        case: {
            layer: _orders(*np.concatenate([_of_block(own, case) for own in of_layer], axis=1))
            for layer, of_layer in by_layer.items()
        }
        for case in cases
    }


def _of_block(own: BlockScores, case: Case) -> Floats:
    """score_squared, effect and its sd of a block's channels: (3, C)."""
    if case.group not in own.scores:
        return np.full((3, own.block.stop - own.block.start), np.nan)
    effects = own.effects[case.group][case.target]
    return np.stack([own.scores[case.group][case.target].score_squared, effects.effect, effects.sd])


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
            if not np.isfinite(scores[case][name][BEST]).any():
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


def _layer(
    target: str, case: Case, name: str, ranked: Mapping[str, Floats], profiled: Profiled, evaluated: Evaluated
) -> RankedLayer:
    """The ranking's scores first, then those of the other orders that this layer has."""
    profile = profiled.layers[name]
    norms = np.array([np.nan if norm is None else norm for norm in evaluated.metadata.weight_norms[name]])
    others = {key: values for key, values in ranked.items() if key != BEST}
    if name in profiled.greedy and np.isfinite(ranked[EFFECT]).any():
        others[GREEDY] = profiled.greedy[name]
    others |= {key: norms if key == "weight_norm" else getattr(profile, key) for key in BASELINES}
    known = {key: values for key, values in others.items() if np.isfinite(values).any()}
    return RankedLayer(target, case.group, name, {BEST: ranked[BEST]} | known)


def _replaced(
    case: Case, layer: RankedLayer, profiled: Profiled, settings: EvaluationSettings, seed: int
) -> list[_PlannedCurves]:
    mean = profiled.layers[layer.name].mean.float()
    values = {MEAN: mean, ZERO: torch.zeros(len(mean), 1), BIAS: profiled.bias.get(layer.name), OPTIMAL: mean}
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
            optimal = to_measure.replacement == OPTIMAL
            tasks.append(AblationTask(to_measure.case, to_measure.layer.name, to_measure.values, part, optimal))
    answers = iter(zip(tasks, workers.ablated(tasks, images), strict=True))
    curves = []
    for to_measure in planned:
        effects: dict[tuple[int, ...], Effect] = {}
        while len(effects) < len(to_measure.sets):
            task, task_effects = next(answers)
            effects |= dict(zip(task.sets, task_effects, strict=True))
        curves.append(to_measure.curves(effects))
    return curves
