"""The pilot: about 2,048 rows, read evenly across all shards, from which the plan is made once and then frozen.

Runs on one worker. Mistakes of the job that only real rows show (labels beyond the outputs, images that differ in size,
a filter that keeps nothing) are found here and end the run with exit code 2. pilot_rows.py reads, pilot_maps.py
forwards. Knows models and data sets, not Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.plan_store import plan_of_run
from pcace_dist.artifacts.rankings import enough_for
from pcace_dist.checks.finding import Finding
from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.device_images import GPU, choose_decoder, memory_beside
from pcace_dist.datasets.groups import name_of
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import BUFFERS
from pcace_dist.errors import DatasetError, ModelError
from pcace_dist.models.device import (
    choose_batch,
    empty,
    footprint,
    is_out_of_memory,
    largest_batch,
    retry_on_oom,
    to_device,
    worker_memory,
)
from pcace_dist.models.effects.places import Place, find_places, tap_name
from pcace_dist.models.forward import Forward, numeric_class
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.layers import weight_norm
from pcace_dist.models.layouts import settle
from pcace_dist.models.precision import AUTO, FLOAT32, Numerics, choose_numerics
from pcace_dist.models.steadiness import check_steady
from pcace_dist.statistics.effects.plan import EffectPlan
from pcace_dist.statistics.effects.scores import NOT_OF_THE_MODEL, OFF
from pcace_dist.statistics.folds import FOLD_HASH
from pcace_dist.statistics.lanes import solver_for
from pcace_dist.statistics.plan import Plan, TargetPlan, build_plan
from pcace_dist.statistics.plan_noise.half_samples import HalfSamples
from pcace_dist.statistics.plan_noise.noise import PlanNoise
from pcace_dist.statistics.score import required_images
from pcace_dist.worker.admission import CheckRows
from pcace_dist.worker.effects.choice import EffectChoice, choose_effects
from pcace_dist.worker.effects.pilot import EffectPilot, make_effects
from pcace_dist.worker.pilot_cache import CachedUnit
from pcace_dist.worker.pilot_maps import PilotMaps
from pcace_dist.worker.pilot_rows import PilotMeter, PilotRows
from pcace_dist.worker.pilot_warnings import pilot_warnings
from pcace_dist.worker.spec import WorkSpec

log = logging.getLogger(__name__)

GROUPS_NAMED = 5  # in a message


@dataclass(frozen=True, eq=False)
class Piloted:
    """What a pilot gives: the plan, the rows by which workers are admitted to it, and, where the pilot took every row
    and kept the maps, all units as they were forwarded. warnings: what its rows say about the job. repeats: whether
    two copies of the model were seen to give the same bits."""

    plan: Plan
    check: CheckRows
    units: Mapping[str, CachedUnit]
    warnings: tuple[Finding, ...] = ()
    repeats: bool = False


@dataclass(frozen=True, eq=False)
class _Setting:
    """What a pilot works with: copies of the one model, the job, and how this machine computes it."""

    models: Sequence[nn.Module]
    spec: WorkSpec
    device: torch.device
    decode: str
    numerics: Numerics
    check: Callable[[], None] = lambda: None
    meter: PilotMeter | None = None
    effects: EffectChoice = EffectChoice(OFF)  # noqa: RUF009 (frozen)
    places: Mapping[str, Place] = field(default_factory=dict)

    def forward(self, model: nn.Module, batch: int) -> Forward:
        spec = self.spec
        mean, std = spec.model.input.mean, spec.model.input.std
        return Forward(model, self.device, batch, mean, std, spec.layers, self.numerics, self.places)

    @property
    def threads(self) -> int:
        """How many may work at the same time: those of a worker, for each model."""
        return len(self.models) * self.spec.threads

    @property
    def watched(self) -> list[TargetSpec]:
        """The functions of the model whose effects are asked for."""
        return [own.of for own in self.effects.watched]

    def numeric_class(self, batch: int) -> dict[str, str | int]:
        return numeric_class(
            self.device,
            numerics=self.numerics,
            batch_size=batch,
            threads=self.spec.threads,
            decode=self.decode,
        )


def make_plan(
    models: Sequence[nn.Module],
    spec: WorkSpec,
    listing: Listing,
    *,
    device: torch.device,
    weights: str,
    check: Callable[[], None] = lambda: None,
    meter: PilotMeter | None = None,
) -> Piloted:
    """Read the pilot, choose the batch size, build the plan and the rows by which workers are admitted to it.

    models: copies of the one model, by which as many batches are forwarded at the same time. Deterministic for the same
    job, model and machine class, whatever their number. With `spec.plan` the plan is another run's, and only the
    rows for admission are read. `check` is called for every batch of every pass; what it raises ends the pilot.
    `meter` is told how far it is.

    Raises DatasetError or ModelError for what only real rows show.
    """
    given_plan = None if spec.plan is None else plan_of_run(spec.plan, spec.storage)
    given_metadata = None if given_plan is None else PlanMetadata.of(given_plan)
    fixed_batch = spec.compute.fixed_batch or (None if given_metadata is None else given_metadata.batch)
    decode = choose_decoder(spec.model.input.decode, device) if given_metadata is None else given_metadata.decode
    hash_name = FOLD_HASH if given_metadata is None else given_metadata.fold_hash
    rows = PilotRows(
        spec,
        listing,
        batch=fixed_batch or largest_batch(device),
        has_plan=given_plan is not None,
        device=device,
        decode=decode,
        hash_name=hash_name,
        check=check,
        threads=len(models) * spec.threads,
    )
    with closing(rows):
        image = rows.first.images[:1]
        numerics = _numerics(models[0], spec, device, image) if given_metadata is None else given_metadata.numerics
        setting = _Setting(models, spec, device, decode, numerics, check, meter)
        axes = _steady_axes(setting, rows.first.images)
        if given_plan is None:
            setting = _with_effects(setting, rows.first.images, listing.rows)
        pilot = first_pass(setting, rows, fixed_batch)
    solver = _solver(spec, pilot, listing.rows) if given_metadata is None else given_metadata.solver
    metadata = replace(_metadata(setting, pilot, image, weights, axes), fold_hash=hash_name, solver=solver)
    with ThreadPoolExecutor(1, "pcace-repeat", torch.set_num_threads, (spec.threads,)) as beside:
        repeats = beside.submit(pilot.repeats)  # while one thread works on the warnings and the axes
        warnings = pilot_warnings(spec, list(rows), pilot.predicted, pilot.outputs)
        if given_plan is None:
            plan = _build(setting, pilot, metadata)
            plan = replace(plan, effects=_effects(setting, pilot, rows))
        else:
            plan = _adopt(given_plan, spec, pilot, metadata)
    if rows.took_all and spec.statistics.estimator == "gram":
        _refuse_too_few(plan, pilot.group_sizes(), grouped=spec.dataset.group_by)
    layers = {layer.name: layer.to(device) for layer in plan.layers}
    return Piloted(
        plan, pilot.check_rows(layers), rows.by_unit(pilot.cached), tuple(warnings), repeats=repeats.result()
    )


def _solver(spec: WorkSpec, pilot: PilotMaps, rows: int) -> str:
    """What solves the rankings of a new plan, for so many rows."""
    settings = spec.statistics
    channels = sum(pilot.channels[name] for name in spec.layers)
    return solver_for(rows, channels, settings.components * settings.knots)


def _steady_axes(setting: _Setting, images: Tensor) -> Mapping[str, str]:
    """Layers whose channels are not where their kind says, with the axis. Raises ModelError where the model gives
    something else for the same images each time."""
    two_images = _two_images(setting.spec, setting.device, images)
    check_steady(setting.models[0], two_images)
    axes = settle(setting.models, setting.spec.layers, setting.spec.layouts, two_images)
    if axes:
        named = ", ".join(f"{layer} ({axis})" for layer, axis in axes.items())
        log.info("layers whose channel axis is not the one of their kind: %s", named)
    return axes


def _with_effects(setting: _Setting, images: Tensor, rows: int) -> _Setting:
    """The setting with the effects that the job asks for, and where they are taken from. rows: of the data set."""
    spec = setting.spec
    if spec.effect is None or spec.effect.gradient == OFF:
        return setting
    choice = choose_effects(
        spec.effect, spec.targets, group_by=spec.dataset.group_by, rows=rows, pilot=spec.statistics.pilot
    )
    if choice.reason is not None:
        log.info("effect.gradient auto leaves out %s", choice.reason)
    outside = [name for name, status in choice.statuses.items() if status == NOT_OF_THE_MODEL]
    if outside and spec.effect.gradient != AUTO:
        log.warning(
            "effect: %s is no function of the model and has no effects; effect.of: {logit: label} takes one that is",
            ", ".join(outside),
        )
    if not choice.watched:
        return replace(setting, effects=choice)
    two_images = _two_images(spec, setting.device, images)
    places = find_places(setting.models[0], spec.layers, two_images, at=spec.effect.at)
    return replace(setting, effects=choice, places=places)


def _effects(setting: _Setting, pilot: PilotMaps, rows: PilotRows) -> EffectPlan | None:
    """The effects' part of the plan; None where the job wants none."""
    spec = setting.spec
    if spec.effect is None or spec.effect.gradient == OFF:
        return None
    normalise = Normalise(spec.model.input.mean, spec.model.input.std, setting.device)
    given = EffectPilot(
        watched=pilot.watched,
        passes=pilot.effect_passes,
        batches=pilot.usable_batches,
        outputs=pilot.outputs,
        model=setting.models[0],
        places=setting.places,
        shapes={layer: pilot.shapes[tap_name(layer)] for layer in setting.places},
        channels={layer: pilot.channels[layer] for layer in setting.places},
        prepare=lambda images: normalise(to_device(images, setting.device)),
        more=None if rows.took_all else partial(rows.more, decode=setting.decode, device=setting.device),
        check=setting.check,
    )
    settings = spec.statistics
    return make_effects(
        setting.effects, spec.effect, given, folds=settings.folds, group_by=spec.dataset.group_by, rows=settings.pilot
    )


def _metadata(
    setting: _Setting, pilot: PilotMaps, image: Tensor, weights: str, axes: Mapping[str, str]
) -> PlanMetadata:
    """What the plan says of model, images and machine."""
    height, width = (int(n) for n in image.shape[-2:])
    batch = pilot.forward.batch_size
    model = setting.models[0]
    return PlanMetadata(
        batch=batch,
        precision=setting.numerics.precision,
        layout=setting.numerics.layout,
        image_shape=(height, width),
        outputs=pilot.outputs,
        weights=weights,
        numeric_class=setting.numeric_class(batch),
        weight_norms={name: _norms(model, name, pilot.channels[name]) for name in setting.spec.layers},
        decode=setting.decode,
        channel_axes=dict(axes),
    )


def _build(setting: _Setting, pilot: PilotMaps, metadata: PlanMetadata) -> Plan:
    settings = setting.spec.statistics
    return build_plan(
        pilot.passes,
        {name: pilot.shapes[name] for name in setting.spec.layers},
        {target.name: pilot.targets[:, i] for i, target in enumerate(setting.spec.targets)},
        components=settings.components,
        knots=settings.knots,
        tails=settings.tails,
        folds=settings.folds,
        scale=settings.scale,
        facts=metadata.to_json(),
        needs=pilot.need,
        noise=None if settings.estimator == "ace" else _half_samples(setting, pilot),
    )


def _half_samples(setting: _Setting, pilot: PilotMaps) -> HalfSamples:
    """Makes what another pilot would change."""
    spec = setting.spec
    keys, groups = pilot.keys_and_groups()
    values = {target.name: pilot.targets[:, i] for i, target in enumerate(spec.targets)}
    settings = spec.statistics
    return HalfSamples(
        keys,
        values,
        settings.components,
        settings.knots,
        settings.penalty,
        groups,
        spec.dataset.group_by,
        settings.tails,
        setting.threads,
    )


def _refuse_too_few(plan: Plan, sizes: Mapping[Any, int], *, grouped: str | None) -> None:
    """Raise DatasetError where it is known that no group has the images that a single channel takes."""
    live = [int(count) for layer in plan.layers for count in layer.live.sum(1).tolist() if count]
    needed = required_images(min(live, default=1), plan.knots)
    if any(images >= needed for images in sizes.values()):
        return
    if grouped is None:
        images = sum(sizes.values())
        raise DatasetError(
            f"dataset: {images} images are too few for a ranking, which takes {needed} at least; "
            f"{enough_for(images, plan.components, plan.knots)}"
        )
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:GROUPS_NAMED]
    largest_names = ", ".join(f"{name_of(group)} {images}" for group, images in largest)
    raise DatasetError(
        f"group_by {grouped}: none of the {len(sizes)} groups has the {needed} images that a ranking takes at least; "
        f"the largest: {largest_names}; make larger groups, or {enough_for(largest[0][1], plan.components, plan.knots)}"
    )


def _two_images(spec: WorkSpec, device: torch.device, images: Tensor) -> Tensor:
    """A batch of two as the model takes it, in float32; of one image twice where there is no other."""
    pair = images[:2] if len(images) > 1 else images.expand(2, *images.shape[1:])
    return Normalise(spec.model.input.mean, spec.model.input.std, device)(to_device(pair, device))


def _numerics(model: nn.Module, spec: WorkSpec, device: torch.device, image: Tensor) -> Numerics:
    """What compute.precision means here; with auto, a model that cannot run in bfloat16 runs in float32."""
    numerics = choose_numerics(spec.compute.precision, device, model)
    if numerics.precision == FLOAT32:
        return numerics
    mean, std = spec.model.input.mean, spec.model.input.std
    try:
        Forward(model, device, 2, mean, std, (), numerics)(image.expand(2, *image.shape[1:]))
    except ModelError as error:
        if spec.compute.precision != AUTO:
            raise ModelError(
                f"compute.precision {spec.compute.precision}: {error}; or use compute.precision: float32"
            ) from None
        log.warning("compute.precision auto is float32: in bfloat16 %s", error)
        return replace(numerics, precision=FLOAT32)
    return numerics


# -- the first pass and the batch


def first_pass(setting: _Setting, rows: PilotRows, fixed_batch: int | None) -> PilotMaps:
    """The pilot after its first pass, with the batch size that the plan will have.

    fixed_batch: the batch size that the job or the plan says; it must fit (JobError). None: the largest that fits,
    worked out from one image and the machine's memory, and halved where memory runs out all the same.
    """
    device = setting.device

    def read(batch: int) -> PilotMaps:
        forwards = [setting.forward(model, batch) for model in setting.models]
        pilot = PilotMaps(forwards, setting.spec, setting.check, setting.watched, meter=setting.meter)
        pilot.read(rows, rows.most_rows, cache=rows.reads_units and not setting.effects.of_images)
        return pilot

    if fixed_batch is not None:
        return retry_on_oom(lambda: read(fixed_batch), device, fixed_batch)
    image = rows.first.images[:1]
    batch = retry_on_oom(lambda: _batch_that_fits(setting, image), device, 1)
    while batch > 1:
        try:
            return read(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("compute.batch auto: %d images run out of memory; trying half", batch)
        batch //= 2
        empty(device)
    return retry_on_oom(lambda: read(1), device, 1)


def _batch_that_fits(setting: _Setting, image: Tensor) -> int:
    """Images in a forward pass where the job says auto."""
    try:
        return _batch_by(1, setting, image)
    except ModelError:  # a model may lose an axis of one element (squeeze)
        return _batch_by(2, setting, image.expand(2, *image.shape[1:]))


def _batch_by(size: int, setting: _Setting, images: Tensor) -> int:
    """Images in a forward pass, by the memory that a pass of `size` of them takes."""
    forward = setting.forward(setting.models[0], size)
    threads = setting.spec.threads
    values = 0

    def receive(_: str, maps: Tensor, __: tuple[int, ...]) -> None:
        nonlocal values
        values += maps[0].numel()

    def plan_bytes() -> int:
        return 4 * values * (2 * setting.spec.statistics.components + 1)  # weights, as stored and as multiplied

    memory = footprint(forward.model, lambda: forward(images, receive), plan_bytes)
    if setting.decode == GPU:
        memory = replace(memory, waiting=BUFFERS * images.nbytes, decoding=memory_beside(threads))
    return choose_batch(memory, setting.device, worker_memory(setting.device, threads))


# -- another run's plan


def _adopt(given_plan: Plan, spec: WorkSpec, pilot: PilotMaps, metadata: PlanMetadata) -> Plan:
    """The part of another run's plan that this job asks for; with the same weights its facts stay as they are.

    Raises ModelError where this model's maps do not fit the plan's axes.
    """
    for name in spec.layers:
        layer = given_plan.layer(name)
        shape = (pilot.channels[name], *pilot.shapes[name])
        if shape != (layer.channels, *layer.shape):
            raise ModelError(
                f"statistics.plan {spec.plan}: layer {name} has maps of {_shape(shape)} here, "
                f"{_shape((layer.channels, *layer.shape))} in the plan; leave the key out"
            )
    names = {target.name for target in spec.targets}
    given_metadata = PlanMetadata.of(given_plan)
    norms = {name: given_metadata.weight_norms[name] for name in spec.layers}
    given_facts = given_metadata.to_json() | {"weight_norms": norms}
    return replace(
        given_plan,
        layers=tuple(layer for layer in given_plan.layers if layer.name in spec.layers),
        targets=tuple(sorted((t for t in given_plan.targets if t.name in names), key=_order_of(spec))),
        facts=given_facts if given_metadata.weights == metadata.weights else metadata.to_json(),
        effects=_adopt_effects(given_plan.effects, spec, names),
        noise=_adopt_noise(given_plan.noise, spec, names),
    )


def _adopt_effects(given: EffectPlan | None, spec: WorkSpec, targets: Collection[str]) -> EffectPlan | None:
    """The part of another run's effects that this job asks for; None where that run had none, or the job wants none."""
    if given is None or spec.effect is None or spec.effect.gradient == OFF:
        return None
    group_by, labels = spec.dataset.group_by, spec.dataset.label is not None
    known = {"one": True, "label": labels, "group": group_by == given.axes_by}
    lost = {own.name: OFF for own in given.targets if own.name in targets and not known[own.kind]}
    kept = given.select(layers=spec.layers, targets=[name for name in targets if name not in lost]).grouped_by(group_by)
    return replace(kept, statuses={**given.statuses, **lost})


def _adopt_noise(given: PlanNoise | None, spec: WorkSpec, targets: Collection[str]) -> PlanNoise | None:
    """The part of another run's noise that this job asks for."""
    if given is None:
        return None
    dataset = spec.dataset
    return given.select(layers=spec.layers, targets=targets, group_by=dataset.group_by, filtered=bool(dataset.filter))


def _order_of(spec: WorkSpec) -> Callable[[TargetPlan], int]:
    names = [target.name for target in spec.targets]
    return lambda target: names.index(target.name)


def _shape(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


def _norms(model: nn.Module, layer: str, channels: int) -> list[float | None]:
    """L2 norm of each channel's weights; None for a layer without weights."""
    norms = weight_norm(model, layer)
    return [None] * channels if norms is None else [float(n) for n in norms]
