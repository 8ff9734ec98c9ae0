"""The activation maps of the pilot's usable rows, for as many passes as the plan takes.

The maps of the first pass are kept where they fit into a share of the free memory; else every pass forwards the rows
again. Knows models and batches; no files, no Ray.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from queue import SimpleQueue
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.groups import name_of
from pcace_dist.datasets.loader import Batch
from pcace_dist.datasets.values.labels import NO_ROWS
from pcace_dist.errors import ModelError
from pcace_dist.models.device import retry_on_oom
from pcace_dist.models.effects.places import tap_name
from pcace_dist.models.forward import Forward
from pcace_dist.models.targets import target_values
from pcace_dist.statistics.pca import usual_passes
from pcace_dist.statistics.plan import LayerPlan
from pcace_dist.worker.admission import CHECK_ROWS, CheckRows
from pcace_dist.worker.pilot_cache import CachedBatch
from pcace_dist.worker.pilot_labels import check_labels, seen_labels
from pcace_dist.worker.pilot_rows import PilotMeter
from pcace_dist.worker.spec import WorkSpec

log = logging.getLogger(__name__)

SHARE_OF_FREE_MEMORY = 0.25  # for the pilot's activation maps; other workers may share the node
PASSES_BESIDE_AXES = 2  # the first one, and the one that projects
ROWS_AT_ONCE = 32  # whose maps of all layers are held together, or one forward pass where that takes more

_ForwardRows = Callable[[Forward, Batch, Collection[str]], tuple[dict[str, Tensor], Tensor]]


@dataclass(frozen=True, eq=False)
class PilotBatch:
    """A batch of n rows with its maps (n, C, D) by layer and its outputs (n, O)."""

    batch: Batch
    maps: Mapping[str, Tensor]
    outputs: Tensor


class PilotMaps:
    """The pilot's usable rows: their targets, and passes over their activation maps.

    After `read`: targets float64 (rows, T); outputs, the number of the model's outputs; by layer the shape of the maps'
    positions and the number of channels; labels, the range of the class indices; cached, every batch as it was
    forwarded, where that was asked for and kept.
    """

    def __init__(
        self,
        forwards: Sequence[Forward],
        spec: WorkSpec,
        check: Callable[[], None],
        watched: Sequence[TargetSpec] = (),
        *,
        meter: PilotMeter | None = None,
    ) -> None:
        """forwards: of copies of the one model; as many batches are forwarded at the same time. `check` is called
        before every batch of a pass; `meter` is told how far it is. watched: functions of the model whose effects are
        asked for; `self.watched` has their values, float64 (rows, W), NaN where a row has none."""
        self.forward = forwards[0]
        self._forwards = forwards
        self._spec = spec
        self._check = check
        self._meter = meter or PilotMeter()
        self._watched = watched
        self._taps = tuple(map(tap_name, self.forward.places))
        self._names: Collection[str] = (*spec.layers, *self._taps)
        self._needed: Collection[str] = spec.layers
        self._usable: list[tuple[Batch, Tensor]] = []  # batches with usable rows, and the mask of these
        self._first_usable = 0  # the number of the first of these among all batches
        self._maps: list[dict[str, Tensor]] | None = []
        self._channels_last: set[str] = set()
        self._cached: list[list[CachedBatch]] = []  # by batch
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.channels: dict[str, int] = {}
        self.targets = np.empty((0, len(spec.targets)))
        self.watched = np.empty((0, len(watched)))
        self.outputs = 0
        self.labels = NO_ROWS
        self.predicted: list[np.ndarray[Any, np.dtype[np.int64]]] = []  # by batch, of every row

    @property
    def cached(self) -> list[CachedBatch]:
        return [cached for batch in self._cached for cached in batch]

    def read(self, batches: Iterable[Batch], rows: int, *, cache: bool) -> None:
        """The first pass over every row, of which there are at most `rows`: outputs, targets, finite maps.

        `cache`: keep what was forwarded for the main pass, where the maps are kept. Raises DatasetError or ModelError.
        """
        targets: list[np.ndarray] = []
        watched: list[np.ndarray] = []
        problems: Counter[str] = Counter()
        self._meter.begin(rows)
        for number, pilot_batch in enumerate(self._forward_all(self._parts(batches), self._names, self._run)):
            batch, maps = pilot_batch.batch, pilot_batch.maps
            self.outputs = int(pilot_batch.outputs.shape[1])
            self.labels |= seen_labels(batch.labels)
            self._meter.expect(PASSES_BESIDE_AXES + max(usual_passes(prod(shape)) for shape in self.shapes.values()))
            self._meter.add(len(batch))
            self.predicted.append(pilot_batch.outputs.argmax(1).cpu().numpy())
            if number == 0 and _nbytes(maps) / len(batch) * rows > _budget():
                self._maps = None
            values, usable = self._usable_rows(pilot_batch, problems)
            if cache and self._maps is not None:
                self._cached.append(self._as_cached(pilot_batch))
            if bool(usable.any()):
                self._first_usable = self._first_usable if self._usable else number
                targets.append(values[usable.numpy()])
                seen, _ = target_values(self._watched, pilot_batch.outputs, batch.labels, batch.columns)
                watched.append(seen[usable.numpy()])
                self._usable.append((batch, usable))
                if self._maps is not None:
                    self._maps.append(_take(maps, usable))
        check_labels(self._spec, self.labels, self.outputs)
        if not targets:
            raise ModelError(f"no row of the pilot can be used: {problems.most_common(1)[0][0]}; see model and target")
        self.targets, self.watched = np.concatenate(targets), np.concatenate(watched)
        log.info(
            "pilot: %d rows, activation maps %s",
            len(self.targets),
            "forwarded again for every pass" if self._maps is None else "kept in memory",
        )

    def _usable_rows(self, pilot_batch: PilotBatch, problems: Counter[str]) -> tuple[np.ndarray, Tensor]:
        """Targets (n, T) and the mask (n,) of the rows with finite maps and targets. `problems` counts the rest."""
        batch = pilot_batch.batch
        values, reasons = target_values(self._spec.targets, pilot_batch.outputs, batch.labels, batch.columns)
        maps = [pilot_batch.maps[name] for name in self._spec.layers]
        finite = torch.stack([torch.isfinite(m).flatten(1).all(1).cpu() for m in maps]).all(0)
        problems.update(reasons.values())
        problems["an activation is NaN or infinite"] += int((~finite).sum())
        return values, finite & torch.from_numpy(np.isfinite(values).all(1))

    def group_sizes(self) -> Counter[Any]:
        """Usable rows by group; without group_by there is one group, None."""
        sizes: Counter[Any] = Counter()
        for batch, usable in self._usable:
            groups = batch.groups or (None,) * len(batch)
            sizes.update(group for group, counts in zip(groups, usable.tolist(), strict=True) if counts)
        return sizes

    def usable_batches(self) -> Iterator[tuple[Batch, Tensor]]:
        """The batches that have usable rows, and the mask of these."""
        yield from self._usable

    def keys_and_groups(self) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], list[str] | None]:
        """Fold keys and names of groups of the usable rows; no groups without group_by."""
        keys = [batch.fold_keys[usable.numpy()] for batch, usable in self._usable]
        rows = [(batch.groups, np.flatnonzero(usable.numpy())) for batch, usable in self._usable]
        names = [name_of(groups[row]) for groups, places in rows if groups is not None for row in places]
        return np.concatenate(keys), names or None

    def need(self, layers: Collection[str]) -> None:
        """Name the layers whose maps the following passes must give. The others are then not copied."""
        self._needed = tuple(layers)

    def passes(self) -> Iterator[Mapping[str, Tensor]]:
        """A fresh pass over the layers' maps (rows, channels, positions) of the usable rows, always in the same
        order."""
        return self._passes(self._spec.layers, self._needed)

    def effect_passes(self) -> Iterator[Mapping[str, Tensor]]:
        """The same over the maps that effects are taken from, by their names (`tap_name`): sums over blocks."""
        return self._passes(self._taps, self._taps)

    def _passes(self, names: Collection[str], needed: Collection[str]) -> Iterator[Mapping[str, Tensor]]:
        self._meter.next_pass()
        if self._maps is not None:
            for maps, (_, usable) in zip(self._maps, self._usable, strict=True):
                self._check()
                yield {name: maps[name] for name in names}
                self._meter.add(len(usable))
            return

        def run(forward: Forward, batch: Batch, layers: Collection[str]) -> tuple[dict[str, Tensor], Tensor]:
            return retry_on_oom(partial(self._run, forward, batch, layers), forward.device, forward.batch_size)

        forwarded = self._forward_all((batch for batch, _ in self._usable), needed, run)
        for pilot_batch, (_, usable) in zip(forwarded, self._usable, strict=True):
            yield _take(pilot_batch.maps, usable)
            self._meter.add(len(usable))

    def repeats(self) -> bool:
        """Whether another copy of the model gives the first batch the same bits again. False where there is none, the
        batch was not kept, or it cannot be forwarded again (for example for want of memory)."""
        if len(self._forwards) == 1 or not self._cached:
            return False
        forward, (batch, _) = self._forwards[-1], self._usable[0]
        first, kept = next(batch.split(forward.batch_size)), self._cached[self._first_usable][0]
        try:
            maps, outputs = retry_on_oom(
                partial(self._run, forward, first, self._spec.layers), forward.device, forward.batch_size
            )
        except (RuntimeError, MemoryError) as error:
            log.info("the pilot's first batch was not forwarded again: %s", error)
            return False
        return torch.equal(outputs, kept.outputs) and all(torch.equal(maps[name], kept.maps[name]) for name in maps)

    def check_rows(self, layers: Mapping[str, LayerPlan]) -> CheckRows:
        """The first usable rows, at most one batch of them, for the admission of workers."""
        batch, usable = self._usable[0]
        images = batch.images[usable][:CHECK_ROWS].contiguous()
        cached = self._cached[self._first_usable] if self._cached else []
        if cached and bool(usable.all()) and len(batch) <= CHECK_ROWS:
            parts = iter(cached)
            return CheckRows.compute(
                images, lambda part, receive: next(parts).forward(part, receive), layers, self.forward.batch_size
            )
        return CheckRows.compute(images, self.forward, layers, self.forward.batch_size)

    def _parts(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Smaller batches: what is read at a time may be much more than what goes through the model at a time."""
        rows = max(ROWS_AT_ONCE, self.forward.batch_size)
        for batch in batches:
            yield from batch.split(rows)

    def _as_cached(self, pilot_batch: PilotBatch) -> list[CachedBatch]:
        """The batches as they went through the model; their pixels are not needed again."""
        size = self.forward.batch_size
        return [
            CachedBatch(
                replace(part, images=part.images.new_empty((len(part), 0))),
                {name: maps[index * size : (index + 1) * size] for name, maps in pilot_batch.maps.items()},
                self.shapes,
                self._channels_last,
                pilot_batch.outputs[index * size : (index + 1) * size],
                size,
            )
            for index, part in enumerate(pilot_batch.batch.split(size))
        ]

    def _forward_all(
        self, batches: Iterable[Batch], layers: Collection[str], run: _ForwardRows
    ) -> Iterator[PilotBatch]:
        """Batches in order, each forwarded by one of the models; as many at the same time as there are models, but no
        more than two whose maps would not fit into the budget."""
        idle: SimpleQueue[Forward] = SimpleQueue()
        for forward in self._forwards:
            idle.put(forward)

        def forwarded(batch: Batch) -> PilotBatch:
            forward = idle.get()
            try:
                return PilotBatch(batch, *run(forward, batch, layers))
            finally:
                idle.put(forward)

        if len(self._forwards) == 1:
            yield from map(forwarded, batches)
            return
        running: deque[Future[PilotBatch]] = deque()
        at_once = 2  # until the size of the maps is known
        torch_threads = torch.get_num_threads()
        with ThreadPoolExecutor(
            len(self._forwards), "pcace-pilot", initializer=torch.set_num_threads, initargs=(torch_threads,)
        ) as pool:
            try:
                for batch in batches:
                    running.append(pool.submit(forwarded, batch))
                    if len(running) > at_once:
                        pilot_batch = running.popleft().result()
                        fitting = int(_budget() // max(1, _nbytes(pilot_batch.maps)))
                        at_once = max(2, min(fitting, len(self._forwards)))
                        yield pilot_batch
                while running:
                    yield running.popleft().result()
            finally:
                for future in running:
                    future.cancel()

    def _run(self, forward: Forward, batch: Batch, layers: Collection[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Maps of some of the layers and the outputs, in as many passes as the batch takes."""
        self._check()
        maps: dict[str, list[Tensor]] = {name: [] for name in layers}
        outputs = []
        for images in torch.split(batch.images, forward.batch_size):
            rows = len(images)

            def receive(name: str, layer_maps: Tensor, shape: tuple[int, ...], rows: int = rows) -> None:
                self.channels[name], self.shapes[name] = int(layer_maps.shape[1]), shape
                if layer_maps.transpose(1, 2).is_contiguous():
                    self._channels_last.add(name)
                if name in maps:  # copied: the next layer may work in place
                    maps[name].append(layer_maps[:rows].clone(memory_format=torch.contiguous_format))

            outputs.append(forward(images, receive))
        return {name: torch.cat(maps.pop(name)) for name in layers}, torch.cat(outputs)  # never all of them twice


def _take(maps: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The maps of some rows; without a copy where it is all of them."""
    return dict(maps) if bool(rows.all()) else {name: m[rows.to(m.device)] for name, m in maps.items()}


def _nbytes(maps: Mapping[str, Tensor]) -> int:
    return sum(m.numel() * m.element_size() for m in maps.values())


def _budget() -> float:
    """Bytes that the maps may take."""
    return SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available
