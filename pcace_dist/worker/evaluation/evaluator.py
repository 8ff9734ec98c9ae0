"""One worker's part of an evaluation: profiles of channels, and the effects of their ablation.

Images are read once per worker and kept. A task's result depends on the job, the plan and the task alone, not on the
worker that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.config.targets import LABEL, PREDICTED, TargetSpec, have_classes
from pcace_dist.datasets.device_images import decoder_of
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import pilot_rows
from pcace_dist.errors import DatasetError
from pcace_dist.models import layouts
from pcace_dist.models.ablation.optimal import optimal_shifts
from pcace_dist.models.ablation.profile import Profile, Profiler
from pcace_dist.models.ablation.replacement import Ablation, Effect, bias_values, effect
from pcace_dist.models.forward import Forward
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.outputs import as_matrix
from pcace_dist.models.targets import target_tensor, target_values
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.sets.carried import removal_order
from pcace_dist.worker.effects.rows import EffectRows
from pcace_dist.worker.engine import Engine
from pcace_dist.worker.evaluation.rows import EvaluationRows

Floats: TypeAlias = npt.NDArray[np.float64]

FITTED = 512  # images at most from which the replacement `optimal` is chosen


@dataclass(frozen=True)
class EvaluationSpec:
    """What is evaluated, the same for all tasks.

    listing: of the run's images. elsewhere: a listing of other images; where there is one, effects are measured on them
    and not on those of the held folds. images: rows that are read of each listing. held_out: the held-out folds, whose
    images the ranking does not use. targets: whose change is the effect, one for each target of the plan.
    """

    listing: Listing
    elsewhere: Listing | None
    images: int
    held_out: tuple[int, ...]
    targets: tuple[TargetSpec, ...]


@dataclass(frozen=True)
class Case:
    """One ranking: a target of the plan, by its index, and a group."""

    target: int
    group: Any


@dataclass(frozen=True, eq=False)
class Profiled:
    """Profiles of all layers over the ranking's images, and the values (C, 1) of the replacement `bias` by layer.

    images: rows behind the profiles; held_out: rows on which effects will be measured. greedy: (C,) by layer, larger
    for channels that enter the greedy set earlier; none where the target has no effects.
    """

    layers: Mapping[str, Profile]
    bias: Mapping[str, Tensor]
    greedy: Mapping[str, Floats]
    images: int
    held_out: int


@dataclass(frozen=True, eq=False)
class AblationTask:
    """Sets of channels of one layer, each replaced by `values` (C, D) or (C, 1); optimal: plus what changes the target
    least on the ranking's images, set by set."""

    case: Case
    layer: str
    values: Tensor
    sets: tuple[tuple[int, ...], ...]
    optimal: bool = False


class Evaluator:
    """One worker's part of one evaluation: profiles and effects, case by case."""

    def __init__(self, engine: Engine, plan: Plan, evaluation: EvaluationSpec) -> None:
        """Reads the images. Raises DatasetError where they differ in size from the run's."""
        self._engine = engine
        self._plan = plan
        self._evaluation = evaluation
        metadata = PlanMetadata.of(plan)
        spec = engine.spec
        mean, std = spec.model.input.mean, spec.model.input.std
        layouts.keep([engine.model], metadata.channel_axes)
        self._effects = effects = EffectRows.of(plan.effects, spec.targets, engine.device)
        places = {} if effects is None else effects.places
        self._forward = Forward(
            engine.model, engine.device, metadata.batch, mean, std, spec.layers, metadata.numerics, places
        )
        self._normalise = Normalise(mean, std, engine.device)
        self._shape = metadata.image_shape
        rows = self._read(evaluation.listing)
        is_held_out = np.isin(rows.folds(plan.folds), evaluation.held_out)
        self._ranked = rows.take(~is_held_out)
        elsewhere = evaluation.elsewhere
        self._held_out = rows.take(is_held_out) if elsewhere is None else self._read(elsewhere)
        self._usable: dict[tuple[Case, bool], tuple[EvaluationRows, Floats]] = {}

    def profile(self, case: Case) -> Profiled:
        """Profiles of all layers over the images that the ranking may know."""
        rows, target = self._rows_and_target(case, held_out=False)
        _, measured = self._rows_and_target(case, held_out=True)
        if len(rows) < 2 or len(measured) < 2:
            return Profiled({}, {}, {}, len(rows), len(measured))
        layers = self._engine.spec.layers
        profiler = Profiler(self._engine.model, layers)
        for batch in self._batches(rows):
            profiler.add(self._maps(rows.images[batch]), torch.from_numpy(target[batch]))
            self._engine.images_seen += len(target[batch])
        start = self._mean_input(rows)
        for batch in self._batches(rows):
            profiler.add_gradients(self._input(rows, batch), start, partial(self._values, case, rows, batch))
            self._engine.images_seen += len(target[batch])
        bias = {name: bias_values(self._engine.model, name, self._input(rows, slice(1))) for name in layers}
        return Profiled(
            {name: profiler.profile(name) for name in layers},
            {name: values for name, values in bias.items() if values is not None},
            self._greedy(case, rows),
            len(rows),
            len(measured),
        )

    def _greedy(self, case: Case, rows: EvaluationRows) -> dict[str, Floats]:
        """Places in the greedy set, by layer, from what goes through the channels on rows that have an axis."""
        plan, effects = self._plan.effects, self._effects
        index = None if plan is None else plan.index(self._plan.targets[case.target].name)
        if effects is None or index is None:
            return {}
        parts: dict[str, list[Tensor]] = {}
        values: list[Floats] = []
        for part in self._batches(rows):
            batch = rows.batch(part)
            axes = effects.axes_of(batch)
            found: dict[str, Tensor] = {}
            receive = partial(_project, effects.projector(axes), found)
            outputs = effects.pass_of(self._forward)(batch)(batch.images, receive)
            values.append(effects.values(outputs, batch, axes)[:, index])
            for name, own in found.items():
                parts.setdefault(name, []).append(own[:, :, index].cpu())
            self._engine.images_seen += len(batch)
        return {name: _places(np.concatenate(values), torch.cat(own).double().numpy()) for name, own in parts.items()}

    def ablate(self, task: AblationTask) -> list[Effect]:
        """The effect of each set of channels on the images that the ranking does not know."""
        rows, before = self._rows_and_target(task.case, held_out=True)
        effects = []
        for channels in task.sets:
            values = self._optimal(task, channels) if task.optimal else task.values
            with Ablation(self._forward.model, task.layer, channels, values):
                outputs = self._outputs(rows)
            effects.append(self._effect(task.case, rows, before, outputs))
        return effects

    def _optimal(self, task: AblationTask, channels: tuple[int, ...]) -> Tensor:
        """The values with the best constants for a set of channels."""
        rows, _ = self._rows_and_target(task.case, held_out=False)
        known = np.zeros(len(rows), dtype=bool)
        known[np.linspace(0, len(rows) - 1, min(FITTED, len(rows))).astype(int)] = True
        fitted = rows.take(known)
        parts = list(self._batches(fitted))
        shifts = optimal_shifts(
            self._engine.model,
            task.layer,
            channels,
            task.values,
            [self._input(fitted, part) for part in parts],
            lambda number, outputs: self._values(task.case, fitted, parts[number], outputs),
        )
        self._engine.images_seen += len(fitted)
        values = task.values.clone()
        values[list(channels)] += shifts.float().unsqueeze(1)
        return values

    def untouched(self, case: Case) -> Effect:
        """The model as it is, for the accuracy."""
        rows, before = self._rows_and_target(case, held_out=True)
        return self._effect(case, rows, before, self._outputs(rows))

    def _effect(self, case: Case, rows: EvaluationRows, before: Floats, outputs: Floats) -> Effect:
        after = self._target(case, rows, outputs)
        return effect(before, after, self._correct(case, rows, outputs), rows.blocks)

    def _read(self, listing: Listing) -> EvaluationRows:
        spec = self._engine.spec
        metadata = PlanMetadata.of(self._plan)
        options = replace(
            spec.loader_options(self._forward.batch_size, metadata.fold_hash),
            decoder=decoder_of(metadata.decode, self._engine.device),
        )
        batches = list(pilot_rows(listing, self._evaluation.images, options))
        if tuple(batches[0].images.shape[-2:]) != self._shape:
            raise DatasetError(
                f"--data: images are {tuple(batches[0].images.shape[-2:])}, the run's {self._shape} (height, width); "
                "set model.input.resize or model.input.crop"
            )
        return EvaluationRows.of(batches)

    def _rows_and_target(self, case: Case, *, held_out: bool) -> tuple[EvaluationRows, Floats]:
        """Rows of a case with a finite target, and the target's values; worked out once."""
        if (case, held_out) not in self._usable:
            rows = self._held_out if held_out else self._ranked
            rows = rows.take(np.array([group == case.group for group in rows.groups], dtype=bool))
            values = np.empty(0)
            if len(rows):
                outputs = self._outputs(rows)
                if self._evaluation.targets[case.target].value == PREDICTED:
                    rows = replace(rows, classes=outputs.argmax(axis=1))
                values = self._target(case, rows, outputs)
            finite = np.isfinite(values)
            self._usable[case, held_out] = rows.take(finite), values[finite]
        return self._usable[case, held_out]

    def _outputs(self, rows: EvaluationRows) -> Floats:
        parts = []
        for batch in self._batches(rows):
            parts.append(self._forward(rows.images[batch]).double().cpu().numpy())
            self._engine.images_seen += len(parts[-1])
        return np.concatenate(parts)

    def _maps(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}

        def receive(name: str, layer_maps: Tensor, _: tuple[int, ...]) -> None:
            if name in self._forward.layers:
                maps[name] = layer_maps[: len(images)].clone()  # the next layer may work in place

        self._forward(images, receive)
        return maps

    def _batches(self, rows: EvaluationRows) -> Iterator[slice]:
        step = self._forward.batch_size
        return (slice(start, start + step) for start in range(0, len(rows), step))

    def _target(self, case: Case, rows: EvaluationRows, outputs: Floats) -> Floats:
        values = target_values([self._fixed(case)], torch.from_numpy(outputs), rows.classes, rows.columns)[0]
        return values[:, 0]

    def _input(self, rows: EvaluationRows, part: slice) -> Tensor:
        """Some of the images as the model takes them."""
        return self._normalise(rows.images[part].to(self._engine.device))

    def _mean_input(self, rows: EvaluationRows) -> Tensor:
        """The mean image, as the model takes images."""
        total = torch.stack([self._input(rows, part).double().sum(0) for part in self._batches(rows)]).sum(0)
        return (total / len(rows)).float()

    def _values(self, case: Case, rows: EvaluationRows, part: slice, outputs: Any) -> Tensor:
        """The target of some of the rows (n,), with its graph."""
        batch = rows.batch(part)
        classes = None if rows.classes is None else rows.classes[part]
        return target_tensor(self._fixed(case), as_matrix(outputs), classes, batch.columns)

    def _correct(self, case: Case, rows: EvaluationRows, outputs: Floats) -> Floats | None:
        """For each row 1 or 0, NaN without a label; None where the model's outputs are no classes."""
        classes = have_classes([self._evaluation.targets[case.target]])
        return _correct(rows.labels, outputs) if classes else None

    def _fixed(self, case: Case) -> TargetSpec:
        """The target of `EvaluationRows.classes`: what an ablated model predicts is another class's output."""
        spec = self._evaluation.targets[case.target]
        return replace(spec, value=LABEL) if spec.value == PREDICTED else spec


def _correct(labels: npt.NDArray[np.int64] | None, outputs: Floats) -> Floats | None:
    if labels is None or outputs.shape[1] < 2:
        return None
    has_label = (labels >= 0) & (labels < outputs.shape[1])
    return np.where(has_label, outputs.argmax(axis=1) == labels, np.nan)


def _project(
    project: Callable[[str, Tensor, dict[str, Tensor]], None],
    found: dict[str, Tensor],
    name: str,
    maps: Tensor,
    _: tuple[int, ...],
) -> None:
    project(name, maps, found)


def _places(target: Floats, values: Floats) -> Floats:
    """Scores (C,) of the greedy set, from the target (n,) and what goes through each channel (n, C)."""
    known = np.isfinite(target) & np.isfinite(values).all(axis=1)
    if known.sum() < 2:
        return np.full(values.shape[1], np.nan)
    order = removal_order(np.cov(target[known], values[known], rowvar=False))
    places = np.empty(len(order))
    places[order] = np.arange(len(order), 0, -1)
    return places
