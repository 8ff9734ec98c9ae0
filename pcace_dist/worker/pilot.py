"""The pilot: about 2,048 rows, read evenly across all shards, from which the plan is made once and then frozen.

Runs on one worker. The activation maps are kept in memory where they fit and forwarded again, pass by pass, where
they do not. What is wrong with the job and shows only on real rows (labels beyond the outputs, images that differ in
size, a filter that keeps nothing) is found here and ends the run with exit code 2. Knows models and data sets, not
Ray.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from pcace_dist.artifacts.plan_metadata import Facts
from pcace_dist.artifacts.plan_store import plan_of_run
from pcace_dist.datasets.device_images import GPU, choose_decoder, decoder_of, memory_beside
from pcace_dist.datasets.groups import name_of
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import SLABS, Batch, WholeUnits, pilot_rows, takes_all
from pcace_dist.datasets.units import make_units, rows_per_unit
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
from pcace_dist.models.forward import Forward, numeric_class
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.layers import weight_norm
from pcace_dist.models.layouts import settle
from pcace_dist.models.precision import AUTO, FLOAT32, Numerics, choose_numerics
from pcace_dist.models.steadiness import check_steady
from pcace_dist.models.targets import target_values
from pcace_dist.statistics.folds import key_of_bytes, key_of_value
from pcace_dist.statistics.plan import LayerPlan, Plan, TargetPlan, build_plan
from pcace_dist.statistics.score import required_images
from pcace_dist.worker.admission import CHECK_ROWS, CheckRows
from pcace_dist.worker.pilot_cache import CachedBatch, CachedUnit
from pcace_dist.worker.spec import WorkSpec

log = logging.getLogger(__name__)

SHARE_OF_FREE_MEMORY = 0.25  # for the pilot's activation maps; other workers may share the node
SHOWN = 5  # groups that a message names
MORE_IMAGES = "take more images, fewer statistics.components or knots"
ROWS_AT_ONCE = 32  # whose maps of all layers are held together, or one forward pass where that takes more

_Passed = tuple[Batch, dict[str, Tensor], Tensor]  # with its maps by layer and its outputs
_Run = Callable[[Forward, Batch, Collection[str]], tuple[dict[str, Tensor], Tensor]]


@dataclass(frozen=True, eq=False)
class Piloted:
    """What a pilot gives: the plan, the rows by which workers are admitted to it, and, where the pilot took every row
    and kept the maps, all units as they have been forwarded."""

    plan: Plan
    check: CheckRows
    units: Mapping[str, CachedUnit]


def make_plan(
    models: Sequence[nn.Module],
    spec: WorkSpec,
    listing: Listing,
    *,
    device: torch.device,
    weights: str,
    check: Callable[[], None] = lambda: None,
) -> Piloted:
    """Read the pilot, choose the batch, build the plan; and the rows by which workers are admitted to it.

    models: copies of the one model, by which as many batches are forwarded at the same time. Deterministic for the same
    job, model and machine class, whatever their number. With `spec.plan` the plan is another run's, and only the
    rows for admission are read. `check` is called for every batch of every pass; what it raises ends the pilot.

    Raises DatasetError or ModelError for what only real rows show.
    """
    given = None if spec.plan is None else plan_of_run(spec.plan, spec.storage)
    asked = spec.batch or (None if given is None else Facts.of(given).batch)
    decode = choose_decoder(spec.decode, device) if given is None else Facts.of(given).decode
    largest = asked or largest_batch(device)
    with closing(_Source(spec, listing, largest, given is not None, device, decode, check)) as source:
        image = source.first.images[:1]
        numerics = _numerics(models[0], spec, device, image) if given is None else Facts.of(given).numerics
        two = _two_images(spec, device, source.first.images)
        check_steady(models[0], two)
        axes = settle(models, spec.layers, spec.layouts, two)
        if axes:
            log.info(
                "channels are not where their kind says in %s", ", ".join(f"{k} ({v} axis)" for k, v in axes.items())
            )
        pilot = _looked_at(models, spec, device, numerics, source, asked, decode, check)
    batch = pilot.forward.batch_size
    height, width = (int(n) for n in image.shape[-2:])
    facts = Facts(
        batch=batch,
        precision=numerics.precision,
        layout=numerics.layout,
        image_shape=(height, width),
        outputs=pilot.outputs,
        weights=weights,
        numeric_class=numeric_class(device, numerics=numerics, batch_size=batch, threads=spec.threads, decode=decode),
        weight_norms={name: _norms(models[0], name, pilot.channels[name]) for name in spec.layers},
        decode=decode,
        channel_axes=dict(axes),
    )
    settings = spec.statistics
    names = [target.name for target in spec.targets]
    if given is not None:
        plan = _adopt(given, spec, pilot, facts)
    else:
        plan = build_plan(
            pilot.passes,
            pilot.shapes,
            {name: pilot.targets[:, i] for i, name in enumerate(names)},
            components=settings.components,
            knots=settings.knots,
            folds=settings.folds,
            scale=settings.scale,
            facts=facts.to_json(),
            needs=pilot.need,
        )
    if source.took_all and settings.estimator == "gram":
        _refuse_too_few(plan, pilot.group_sizes(), grouped=spec.dataset.group_by)
    layers = {layer.name: layer.to(device) for layer in plan.layers}
    return Piloted(plan, pilot.check_rows(layers), source.units_of(pilot.forwarded))


def _refuse_too_few(plan: Plan, sizes: Mapping[Any, int], *, grouped: str | None) -> None:
    """Raise DatasetError where it is known that no group has the images that a single channel takes."""
    live = [int(count) for layer in plan.layers for count in layer.live.sum(1).tolist() if count]
    needed = required_images(min(live, default=1), plan.knots)
    if any(images >= needed for images in sizes.values()):
        return
    if grouped is None:
        images = sum(sizes.values())
        raise DatasetError(
            f"dataset: {images} images are too few for a ranking, which takes {needed} at least; {MORE_IMAGES}"
        )
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:SHOWN]
    named = ", ".join(f"{name_of(group)} {images}" for group, images in largest)
    raise DatasetError(
        f"group_by {grouped}: none of the {len(sizes)} groups has the {needed} images that a ranking takes at least; "
        f"the largest: {named}; {MORE_IMAGES}, or larger groups"
    )


def _two_images(spec: WorkSpec, device: torch.device, images: Tensor) -> Tensor:
    """A batch of two as the model takes it, in float32; of one image twice where there is no other."""
    two = images[:2] if len(images) > 1 else images.expand(2, *images.shape[1:])
    return Normalise(spec.mean, spec.std, device)(to_device(two, device))


def _numerics(model: nn.Module, spec: WorkSpec, device: torch.device, image: Tensor) -> Numerics:
    """What compute.precision means here; with auto, a model that cannot run in bfloat16 runs in float32."""
    numerics = choose_numerics(spec.precision, device, model)
    if numerics.precision == FLOAT32:
        return numerics
    try:
        Forward(model, device, 2, spec.mean, spec.std, (), numerics)(image.expand(2, *image.shape[1:]))
    except ModelError as error:
        if spec.precision != AUTO:
            raise ModelError(
                f"compute.precision {spec.precision}: {error}; or use compute.precision: float32"
            ) from None
        log.warning("compute.precision auto is float32: in bfloat16 %s", error)
        return replace(numerics, precision=FLOAT32)
    return numerics


class _Source:
    """The pilot's batches, read while they are forwarded; kept, so that they can be gone through again.

    Where the pilot takes every row, its batches are those of the main pass, unit by unit (on processors: there a
    pilot's batches are as large as any).
    """

    def __init__(
        self,
        spec: WorkSpec,
        listing: Listing,
        batch: int,
        given: bool,
        device: torch.device,
        decode: str,
        check: Callable[[], None],
    ) -> None:
        self._check = check
        self._all = listing.rows
        self._whole: WholeUnits | None = None
        self.rows = min(listing.rows, CHECK_ROWS if given else spec.statistics.pilot)  # at most
        common: dict[str, Any] = {"image_spec": spec.images, "storage": spec.storage, "batch_size": batch}
        common |= {"threads": spec.threads, "fold_bytes": key_of_bytes, "fold_value": key_of_value}
        if not given and device.type == "cpu" and takes_all(listing, spec.statistics.pilot):
            units = make_units(listing, rows_per_unit(listing))
            self._whole = WholeUnits(units, spec.dataset, **common)
            self._coming: Generator[Batch] = self._whole.batches()
        else:
            common |= {"fold_bytes": lambda _: 0, "fold_value": lambda _: 0}  # a pilot has no folds
            common["decoder"] = decoder_of(decode, device)
            self._coming = pilot_rows(listing, spec.dataset, self.rows, **common)
        self._read: list[Batch] = []
        self.first = next(iter(self))

    @property
    def took_all(self) -> bool:
        """Whether every row was read, once the batches are exhausted."""
        return self._whole is not None or sum(map(len, self._read)) == self._all

    @property
    def leaves(self) -> bool:
        """Whether the main pass can use what was forwarded."""
        return self._whole is not None

    def close(self) -> None:
        """Stop reading."""
        self._coming.close()

    def __iter__(self) -> Iterator[Batch]:
        at = 0
        while True:
            while at < len(self._read):
                yield self._read[at]
                at += 1
            self._check()
            following = next(self._coming, None)
            if following is None:
                return
            self._read.append(following)

    def units_of(self, forwarded: Sequence[Sequence[CachedBatch]]) -> dict[str, CachedUnit]:
        """By unit id, where the pilot took every row and `forwarded` is all of it or nothing."""
        if self._whole is None or not forwarded:
            return {}
        passes = (one for part in forwarded for one in part)
        return {
            unit.id: CachedUnit(
                batches=tuple(_of_rows(passes, rows)),
                bad=tuple(stream.bad),
                filtered=stream.filtered,
                bytes_read=stream.bytes_read,
            )
            for unit, stream, rows in self._whole.read
        }


def _of_rows(passes: Iterator[CachedBatch], rows: int) -> Iterator[CachedBatch]:
    """The next ones, of so many rows together."""
    while rows > 0:
        one = next(passes)
        rows -= len(one.batch)
        yield one


def _looked_at(
    models: Sequence[nn.Module],
    spec: WorkSpec,
    device: torch.device,
    numerics: Numerics,
    source: _Source,
    asked: int | None,
    decode: str,
    check: Callable[[], None],
) -> PilotMaps:
    """The pilot after its first look, with the batch size that the plan will have.

    Asked for by name, a batch must fit (JobError); else the largest that does: as worked out from one image and what
    the machine has, and halved where memory runs out all the same.
    """

    def look(batch: int) -> PilotMaps:
        forwards = [Forward(model, device, batch, spec.mean, spec.std, spec.layers, numerics) for model in models]
        pilot = PilotMaps(forwards, spec, check)
        pilot.look(source, source.rows, leave=source.leaves)
        return pilot

    if asked is not None:
        return retry_on_oom(lambda: look(asked), device, asked)
    image = source.first.images[:1]
    batch = retry_on_oom(lambda: _batch_that_fits(models[0], spec, device, numerics, image, decode), device, 1)
    while batch > 1:
        try:
            return look(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("compute.batch auto: %d images run out of memory; trying half", batch)
        batch //= 2
        empty(device)
    return retry_on_oom(lambda: look(1), device, 1)


def _batch_that_fits(
    model: nn.Module, spec: WorkSpec, device: torch.device, numerics: Numerics, image: Tensor, decode: str
) -> int:
    """Images in a forward pass where the job says auto."""
    try:
        return _batch_by(1, model, spec, device, numerics, image, decode)
    except ModelError:  # a model may lose an axis of one element (squeeze)
        return _batch_by(2, model, spec, device, numerics, image.expand(2, *image.shape[1:]), decode)


def _batch_by(
    size: int, model: nn.Module, spec: WorkSpec, device: torch.device, numerics: Numerics, images: Tensor, decode: str
) -> int:
    """Images in a forward pass, by what a pass of so many takes."""
    forward = Forward(model, device, size, spec.mean, spec.std, spec.layers, numerics)
    values = 0

    def receive(_: str, maps: Tensor, __: tuple[int, ...]) -> None:
        nonlocal values
        values += maps[0].numel()

    def plan_bytes() -> int:
        return 4 * values * (2 * spec.statistics.components + 1)  # weights, as stored and as multiplied

    found = footprint(forward.model, lambda: forward(images, receive), plan_bytes)
    if decode == GPU:
        found = replace(found, waiting=SLABS * images.nbytes, decoding=memory_beside(spec.threads))
    return choose_batch(found, device, worker_memory(device, spec.threads))


def _adopt(given: Plan, spec: WorkSpec, pilot: PilotMaps, facts: Facts) -> Plan:
    """The part of another run's plan that this job asks for; with the same weights its facts stay what they are.

    Raises ModelError where this model's maps do not fit the plan's axes.
    """
    for name in spec.layers:
        layer = given.layer(name)
        mine = (pilot.channels[name], *pilot.shapes[name])
        if mine != (layer.channels, *layer.shape):
            raise ModelError(
                f"statistics.plan {spec.plan}: layer {name} has maps of {_shape(mine)} here, "
                f"{_shape((layer.channels, *layer.shape))} in the plan; leave the key out"
            )
    names = {target.name for target in spec.targets}
    known = Facts.of(given)
    norms = {name: known.weight_norms[name] for name in spec.layers}
    kept = known.to_json() | {"weight_norms": norms}
    return replace(
        given,
        layers=tuple(layer for layer in given.layers if layer.name in spec.layers),
        targets=tuple(sorted((t for t in given.targets if t.name in names), key=_order_of(spec))),
        facts=kept if known.weights == facts.weights else facts.to_json(),
    )


def _order_of(spec: WorkSpec) -> Callable[[TargetPlan], int]:
    names = [target.name for target in spec.targets]
    return lambda target: names.index(target.name)


def _shape(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


class PilotMaps:
    """The pilot's usable rows: their targets, and passes over their activation maps.

    The maps of the first look are kept where they fit into a share of the free memory; else every pass forwards again.
    """

    def __init__(self, forwards: Sequence[Forward], spec: WorkSpec, check: Callable[[], None]) -> None:
        """`forwards`: alike, for as many batches at the same time; `check` is called before every batch of a pass."""
        self.forward = forwards[0]
        self._forwards = forwards
        self._spec = spec
        self._check = check
        self._needed = spec.layers
        self._kept: list[tuple[Batch, Tensor]] = []  # batches, and the mask of their usable rows
        self._first = 0  # how many batches came before the first of these
        self._maps: list[dict[str, Tensor]] | None = []
        self.forwarded: list[list[CachedBatch]] = []  # what was read, as it was forwarded, where it is to be left
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._channels_last: set[str] = set()
        self.channels: dict[str, int] = {}
        self.targets = np.empty((0, len(spec.targets)))
        self.outputs = 0

    def look(self, batches: Iterable[Batch], rows: int, *, leave: bool) -> None:
        """First look at every row, of which there are at most `rows`: outputs, targets, finite maps. `leave`: what was
        forwarded is kept for the main pass, where the maps are kept. Raises DatasetError or ModelError."""
        values: list[np.ndarray] = []
        problems: Counter[str] = Counter()
        parts = self._parts(batches)
        for number, (batch, maps, outputs) in enumerate(self._passed(parts, self._spec.layers, self._run)):
            self.outputs = int(outputs.shape[1])
            self._check_labels(batch)
            if number == 0 and _bytes(maps) / len(batch) * rows > _budget():
                self._maps = None
            target, reasons = target_values(self._spec.targets, outputs, batch.labels, batch.columns)
            finite = torch.stack([torch.isfinite(m).flatten(1).all(1).cpu() for m in maps.values()]).all(0)
            keep = finite & torch.from_numpy(np.isfinite(target).all(1))
            problems.update(reasons.values())
            problems["an activation is NaN or infinite"] += int((~finite).sum())
            if leave and self._maps is not None:
                self.forwarded.append(self._as_forwarded(batch, maps, outputs))
            if bool(keep.any()):
                self._first = self._first if self._kept else number
                values.append(target[keep.numpy()])
                self._kept.append((batch, keep))
                if self._maps is not None:
                    self._maps.append(_rows(maps, keep))
        if not values:
            raise ModelError(f"no row of the pilot can be used: {problems.most_common(1)[0][0]}; see model and target")
        self.targets = np.concatenate(values)
        log.info(
            "pilot: %d rows, activation maps %s",
            len(self.targets),
            "forwarded again for every pass" if self._maps is None else "kept in memory",
        )

    def group_sizes(self) -> Counter[Any]:
        """Usable rows by group; without group_by there is one group, None."""
        sizes: Counter[Any] = Counter()
        for batch, keep in self._kept:
            groups = batch.groups or (None,) * len(batch)
            sizes.update(group for group, kept in zip(groups, keep.tolist(), strict=True) if kept)
        return sizes

    def _parts(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """What was read together may be much more than what goes through the model together."""
        rows = max(ROWS_AT_ONCE, self.forward.batch_size)
        for batch in batches:
            yield from batch.split(rows)

    def need(self, layers: Collection[str]) -> None:
        """The layers whose maps the following passes must give: the others are not copied where they are not kept."""
        self._needed = tuple(layers)

    def passes(self) -> Iterator[Mapping[str, Tensor]]:
        """A fresh pass over the maps (rows, channels, positions) of the usable rows, always in the same order."""
        if self._maps is not None:
            for kept in self._maps:
                self._check()
                yield kept
            return

        def run(forward: Forward, batch: Batch, layers: Collection[str]) -> tuple[dict[str, Tensor], Tensor]:
            return retry_on_oom(partial(self._run, forward, batch, layers), forward.device, forward.batch_size)

        passed = self._passed((batch for batch, _ in self._kept), self._needed, run)
        for (_, maps, _), (_, keep) in zip(passed, self._kept, strict=True):
            yield _rows(maps, keep)

    def _as_forwarded(self, batch: Batch, maps: Mapping[str, Tensor], outputs: Tensor) -> list[CachedBatch]:
        """The batches that went through the model; their pixels are not needed again."""
        size = self.forward.batch_size
        return [
            CachedBatch(
                replace(part, images=part.images.new_empty((len(part), 0))),
                {name: held[at * size : (at + 1) * size] for name, held in maps.items()},
                self.shapes,
                self._channels_last,
                outputs[at * size : (at + 1) * size],
                size,
            )
            for at, part in enumerate(batch.split(size))
        ]

    def check_rows(self, layers: Mapping[str, LayerPlan]) -> CheckRows:
        """The first usable rows, at most one batch of them, for the admission of workers."""
        batch, keep = self._kept[0]
        images = batch.images[keep][:CHECK_ROWS].contiguous()
        seen = self.forwarded[self._first] if self.forwarded else []
        if seen and bool(keep.all()) and len(batch) <= CHECK_ROWS:
            parts = iter(seen)
            return CheckRows.compute(
                images, lambda part, receive: next(parts).forward(part, receive), layers, self.forward.batch_size
            )
        return CheckRows.compute(images, self.forward, layers, self.forward.batch_size)

    def _passed(self, batches: Iterable[Batch], layers: Collection[str], run: _Run) -> Iterator[_Passed]:
        """Batches in order, each run by one of the `Forward`s; several at the same time where there are several."""
        idle: SimpleQueue[Forward] = SimpleQueue()
        for forward in self._forwards:
            idle.put(forward)

        def passed(batch: Batch) -> _Passed:
            forward = idle.get()
            try:
                return (batch, *run(forward, batch, layers))
            finally:
                idle.put(forward)

        if len(self._forwards) == 1:
            yield from map(passed, batches)
            return
        running: deque[Future[_Passed]] = deque()
        torch_threads = torch.get_num_threads()
        with ThreadPoolExecutor(
            len(self._forwards), "pcace-pilot", initializer=torch.set_num_threads, initargs=(torch_threads,)
        ) as pool:
            try:
                for batch in batches:
                    running.append(pool.submit(passed, batch))
                    if len(running) > len(self._forwards):
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                for waiting in running:
                    waiting.cancel()

    def _run(self, forward: Forward, batch: Batch, layers: Collection[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Maps of some of the layers and the outputs, in as many passes as the batch takes."""
        self._check()
        maps: dict[str, list[Tensor]] = {name: [] for name in layers}
        outputs = []
        for images in torch.split(batch.images, forward.batch_size):
            rows = len(images)

            def receive(name: str, seen: Tensor, shape: tuple[int, ...], rows: int = rows) -> None:
                self.channels[name], self.shapes[name] = int(seen.shape[1]), shape
                if seen.transpose(1, 2).is_contiguous():
                    self._channels_last.add(name)
                if name in maps:  # copied: the next layer may work in place
                    maps[name].append(seen[:rows].clone(memory_format=torch.contiguous_format))

            outputs.append(forward(images, receive))
        return {name: torch.cat(maps.pop(name)) for name in layers}, torch.cat(outputs)  # never all of them twice

    def _check_labels(self, batch: Batch) -> None:
        if batch.labels is None or not any(target.needs_label for target in self._spec.targets):
            return
        beyond = batch.labels[batch.labels >= self.outputs]
        if len(beyond):
            raise DatasetError(
                f"dataset.label {self._spec.dataset.label}: label {int(beyond[0])} is beyond the model's "
                f"{self.outputs} outputs (classes are 0 to the number of outputs less 1); check dataset.label and "
                "model.kwargs"
            )


def _rows(maps: Mapping[str, Tensor], keep: Tensor) -> dict[str, Tensor]:
    return dict(maps) if bool(keep.all()) else {name: m[keep.to(m.device)] for name, m in maps.items()}


def _bytes(maps: Mapping[str, Tensor]) -> int:
    return sum(m.numel() * m.element_size() for m in maps.values())


def _budget() -> float:
    return SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available


def _norms(model: nn.Module, layer: str, channels: int) -> list[float | None]:
    """L2 norm of each channel's weights; None for a layer without weights."""
    norms = weight_norm(model, layer)
    return [None] * channels if norms is None else [float(n) for n in norms]
