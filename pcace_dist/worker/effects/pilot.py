"""The pilot's part for effects: the mean gradient for each key, and all that the plan freezes of them.

A key is an image's label, its group, or one for all images. The axis of a key is the mean gradient of its first
`effect.images` images among the pilot's rows. Where these leave too many rows without an axis, MORE times as many rows
are read, and the axes are theirs. Knows models, batches and the statistic; no store, no Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcace_dist.config.sections import Effect
from pcace_dist.datasets.loader import Batch
from pcace_dist.errors import ModelError
from pcace_dist.models.device import is_out_of_memory
from pcace_dist.models.effects.gradients import Found, PlaceGradients
from pcace_dist.models.effects.places import Place, tap_name
from pcace_dist.models.targets import target_tensor
from pcace_dist.statistics.effects.axes import AxisMaker, PilotTable
from pcace_dist.statistics.effects.grid import NO_UNIT, grid_of
from pcace_dist.statistics.effects.plan import EVERY, EffectPlan, EffectTarget, LayerEffects
from pcace_dist.statistics.effects.positions import block_count, block_sizes, block_sums
from pcace_dist.statistics.effects.scores import MIN_BEHIND, NO_GRADIENT, OFF, TOO_FEW_IMAGES, WITH_AXIS
from pcace_dist.worker.effects.choice import MEAN, MORE, PATH, EffectChoice
from pcace_dist.worker.effects.keys import Key, RowKeys

log = logging.getLogger(__name__)

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Makers: TypeAlias = Sequence[Mapping[str, AxisMaker]]  # by target, then by layer

FEWEST = 4  # images behind an axis
MOST_BYTES = 256 << 20  # of all axes
GRADIENT_ROWS = 16  # images whose gradients are computed together
GRID_ROWS = 256  # images by whose own gradients the grid of l is chosen


@dataclass(frozen=True, eq=False)
class EffectPilot:
    """What the pilot gives for effects.

    watched: float64 (n, W), the values of the functions whose effects are asked for, of the n usable rows. passes:
    gives the block sums (n, C, D) of every layer, by `tap_name`. batches: the rows as they were read, and which are
    usable. outputs: how many the model has. model: in float32; places, shapes (of the maps' positions) and channels: by
    layer. prepare: from images uint8 to what the model takes. more: gives about so many rows, in batches; None where
    the pilot took all. check: is called before every batch of gradients.
    """

    watched: Floats
    passes: Callable[[], Iterator[Mapping[str, Tensor]]]
    batches: Callable[[], Iterable[tuple[Batch, Tensor]]]
    outputs: int
    model: nn.Module
    places: Mapping[str, Place]
    shapes: Mapping[str, tuple[int, ...]]
    channels: Mapping[str, int]
    prepare: Callable[[Tensor], Tensor]
    more: Callable[[int], Iterable[Batch]] | None
    check: Callable[[], None]


class _NoEffects(Exception):
    """There are none, with the status and the reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def make_effects(
    choice: EffectChoice, effect: Effect, pilot: EffectPilot, *, folds: int, group_by: str | None, rows: int
) -> EffectPlan:
    """The effects' part of a plan. rows: statistics.pilot.

    Raises ModelError for axes that are too large, where effect.gradient asks for them by name.
    """
    empty = EffectPlan(
        gradient=choice.gradient,
        at=effect.at,
        images=effect.images,
        targets=(),
        statuses=dict(choice.statuses),
        axes_by=group_by,
        group_by=group_by,
        rankings=(EVERY,),
        places={layer: place.to_json() for layer, place in pilot.places.items()},
        layers=(),
        note=choice.reason,
    )
    try:
        return _Making(choice, effect, pilot, folds, rows).finish(empty) if choice.watched else empty
    except _NoEffects as error:
        log.warning("effect: %s", error)
        statuses = dict.fromkeys((own.name for own in choice.watched), error.status)
        return replace(empty, gradient=OFF, statuses={**choice.statuses, **statuses}, note=str(error))


class _Making:
    """The passes of statistics/effects/axes.py, over all targets and layers together."""

    def __init__(self, choice: EffectChoice, effect: Effect, pilot: EffectPilot, folds: int, rows: int) -> None:
        self._choice = choice
        self._effect = effect
        self._pilot = pilot
        self._folds = folds
        self._most_rows = MORE * rows
        self._known = RowKeys.cat([RowKeys.of(batch, _places(mask), folds) for batch, mask in pilot.batches()])
        self._reads_more = False
        self._lost: set[tuple[int, str]] = set()  # targets, by number, and layers in which they have no gradient

    def finish(self, empty: EffectPlan) -> EffectPlan:
        """The plan that begins as `empty`."""
        grouped = empty.group_by is not None and self._known.groups is not None
        names = sorted(set(self._known.groups or ())) if grouped else []
        keys = self._choose_keys(names)
        tables = [self._table(index, own, names) for index, own in enumerate(keys)]
        makers = [
            {name: AxisMaker(table, self._pilot.channels[name], block_count(shape)) for name, shape in self._shapes}
            for table in tables
        ]
        self._each_part(partial(self._add_maps, makers))
        if not self._choice.of_images:
            self._add_gradients(makers, keys)
        targets = self._targets(makers, keys)
        layers = [self._layer(name, [own[name] for own in makers]) for name, _ in self._shapes]
        if self._choice.of_images:
            self._add_own_gradients(makers, layers)
        else:
            self._each_part(partial(self._add_projected, makers, layers, targets))
        rankings = (EVERY, *(names[group] for group in tables[0].ranked_groups))
        finished = tuple(self._finished(layer, [own[layer.name] for own in makers]) for layer in layers)
        return replace(empty, targets=targets, rankings=rankings, layers=finished)

    @property
    def _shapes(self) -> Iterable[tuple[str, tuple[int, ...]]]:
        return self._pilot.shapes.items()

    # -- keys

    def _choose_keys(self, groups: Sequence[str]) -> list[Sequence[Key]]:
        """The keys that may get an axis, for each target; decides whether more rows are read than the pilot's."""
        universe: dict[str, Sequence[Key]] = {"one": [0], "group": groups, "label": range(self._pilot.outputs)}
        kinds = [own.kind for own in self._choice.watched]
        counts = [self._known.count(kind, universe[kind]) for kind in kinds]
        fewest = [_fewest(own, own) for own in counts]
        self._reads_more = any(least < MIN_BEHIND for least in fewest) and self._pilot.more is not None
        keys: list[Sequence[Key]] = []
        for kind, count, least in zip(kinds, counts, fewest, strict=True):
            known = count > 0 if self._reads_more and kind != "label" else count >= (0 if self._reads_more else least)
            keys.append([universe[kind][number] for number in np.flatnonzero(known).tolist()])
        if not all(keys):
            raise _NoEffects(TOO_FEW_IMAGES, f"no class or group has {FEWEST} images in the pilot")
        self._refuse_large(sum(map(len, keys)))
        return keys

    def _refuse_large(self, axes: int) -> None:
        size = axes * sum(4 * self._pilot.channels[name] * block_count(shape) for name, shape in self._shapes)
        if self._choice.gradient != MEAN or size <= MOST_BYTES:
            return
        what = f"{axes:,} axes of {len(self._pilot.places)} layers take {size / 2**20:,.0f} MiB of {MOST_BYTES >> 20}"
        if self._effect.gradient == MEAN:
            raise ModelError(f"effect.gradient mean: {what}; name fewer layers, or use effect.gradient: image or off")
        raise _NoEffects(OFF, f"gradient auto is off, for {what}; fewer layers would have effects")

    def _table(self, index: int, keys: Sequence[Key], names: Sequence[str]) -> PilotTable:
        own = self._choice.watched[index]
        rows = len(self._known.folds)
        return PilotTable(
            y=self._pilot.watched[:, index],
            keys=self._known.number(own.kind, keys),
            groups=self._known.number("group", names) if names else np.full(rows, -1, np.int64),
            folds=self._known.folds,
            count=len(keys),
            fold_count=self._folds,
        )

    # -- passes over the pilot's maps

    def _each_part(self, add: Callable[[Mapping[str, Tensor], slice], None]) -> None:
        first = 0
        for maps in self._pilot.passes():
            rows = len(next(iter(maps.values())))
            add(maps, slice(first, first + rows))
            first += rows

    def _add_maps(self, makers: Makers, maps: Mapping[str, Tensor], rows: slice) -> None:
        for of_layers in makers:
            for name, maker in of_layers.items():
                maker.add_maps(maps[tap_name(name)], rows)

    def _add_projected(
        self,
        makers: Makers,
        layers: Sequence[LayerEffects],
        targets: Sequence[EffectTarget],
        maps: Mapping[str, Tensor],
        rows: slice,
    ) -> None:
        own, count = self._known.take(rows), rows.stop - rows.start
        axes = torch.stack([target.axes_of(own.labels, own.groups, count) for target in targets], 1)
        for layer in layers:
            sums = maps[tap_name(layer.name)]
            values = layer.to(sums.device).project(sums, axes.to(sums.device))
            for index, of_layers in enumerate(makers):
                of_layers[layer.name].add_projected(values[:, :, index], sums, rows)

    # -- gradients

    def _add_gradients(self, makers: Makers, keys: Sequence[Sequence[Key]]) -> None:
        """The gradients of the first images of each key, a few at a time."""
        left = [np.full(len(own), self._effect.images) for own in keys]
        for batch, rows in self._candidates():
            row_keys = RowKeys.of(batch, rows, self._folds)
            numbers = [
                _first(row_keys.number(own.kind, of), remaining)
                for own, of, remaining in zip(self._choice.watched, keys, left, strict=True)
            ]
            wanted = np.flatnonzero(np.any([own >= 0 for own in numbers], axis=0))
            for start in range(0, len(wanted), GRADIENT_ROWS):
                self._pilot.check()
                some = wanted[start : start + GRADIENT_ROWS]
                _, found = self._gradients_of(batch, rows[some])
                self._note_lost(found)
                for of_layers, own, by_layer in zip(makers, numbers, found, strict=True):
                    self._add_found(of_layers, by_layer, own[some], row_keys.folds[some])
            if not any(own.any() for own in left):
                break
        if not all(maker.images.any() for of_layers in makers for maker in of_layers.values()):
            raise _NoEffects(NO_GRADIENT, "no image has a finite gradient")
        if self._lost:
            named = ", ".join(sorted({name for _, name in self._lost}))
            log.warning("effect: no gradient (detached, under torch.no_grad, or not used for the target): %s", named)

    def _add_own_gradients(self, makers: Makers, layers: Sequence[LayerEffects]) -> None:
        """l of some images by their own gradients, for the grids."""
        means = {layer.name: layer.mean_of_positions for layer in layers} if self._choice.gradient == PATH else None
        left = GRID_ROWS
        for batch, mask in self._pilot.batches():
            rows = _places(mask)[:left]
            left -= len(rows)
            for start in range(0, len(rows), GRADIENT_ROWS):
                self._pilot.check()
                maps, found = self._gradients_of(batch, rows[start : start + GRADIENT_ROWS], means)
                self._note_lost(found)
                for of_layers, by_layer in zip(makers, found, strict=True):
                    for layer in layers:
                        own = by_layer[layer.name]
                        if own is not None:
                            on_device = layer.to(own.device)
                            of_layers[layer.name].add_values(on_device.along(maps[layer.name], own).nan_to_num())
            if not left:
                break

    def _candidates(self) -> Iterator[tuple[Batch, Integers]]:
        """The rows that axes may be taken from."""
        if self._reads_more and self._pilot.more is not None:
            for batch in self._pilot.more(self._most_rows):
                yield batch, np.arange(len(batch))
            return
        for batch, mask in self._pilot.batches():
            yield batch, _places(mask)

    def _gradients_of(
        self, batch: Batch, rows: Integers, means: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], list[Found]]:
        """Maps and, by target, gradients of some rows of a batch; with `means` along a path. Raises _NoEffects where
        the model has none."""
        labels = None if batch.labels is None else batch.labels[rows]
        columns = {name: values[rows] for name, values in batch.columns.items()}
        watched = [partial(target_tensor, own.of, labels=labels, columns=columns) for own in self._choice.watched]
        gradients = PlaceGradients(self._pilot.model, self._pilot.places)
        images = self._pilot.prepare(batch.images[torch.from_numpy(rows)])
        try:
            if means is None:
                return gradients(images, watched)[1:]
            return gradients.along_path(images, watched, means)[1:]
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            text = next(iter(str(error).strip().splitlines()), "")
            cause = f"{type(error).__name__}: {text}; does it compute under torch.no_grad(), or detach?"
            raise _NoEffects(NO_GRADIENT, f"the model has no gradient: {cause}") from None

    def _note_lost(self, found: Sequence[Found]) -> None:
        self._lost |= {(index, name) for index, own in enumerate(found) for name, one in own.items() if one is None}

    def _add_found(self, makers: Mapping[str, AxisMaker], found: Found, keys: Integers, folds: Integers) -> None:
        """Add what is finite in all layers, of rows with a key; 0 where a layer has no gradient."""
        known = [torch.isfinite(own).flatten(1).all(1).cpu() for own in found.values() if own is not None]
        finite = torch.stack(known).all(0).numpy() if known else np.ones(len(keys), np.bool_)
        rows = np.flatnonzero(finite & (keys >= 0))
        for name, maker in makers.items():
            shape, own = tuple(self._pilot.shapes[name]), found[name]
            if own is None:
                means = torch.zeros(len(keys), self._pilot.channels[name], block_count(shape))
            else:
                means = block_sums(own.float(), shape).cpu() / block_sizes(shape)
            maker.add_gradients(means[torch.from_numpy(rows)], keys[rows], folds[rows])

    # -- what is frozen

    def _targets(self, makers: Makers, keys: Sequence[Sequence[Key]]) -> tuple[EffectTarget, ...]:
        targets: list[EffectTarget] = []
        start = 0
        for index, (own, of_layers) in enumerate(zip(self._choice.watched, makers, strict=True)):
            maker = next(iter(of_layers.values()))
            kept = self._with_axis(maker)
            (centre,), (unit,) = grid_of(torch.from_numpy(self._pilot.watched[:, index])[:, None])
            of_images = self._choice.of_images
            every = len(self._known.folds)
            targets.append(
                EffectTarget(
                    name=own.name,
                    of=own.of.name,
                    kind=own.kind,
                    keys=tuple(keys[index][key] for key in kept),
                    images=(every,) if of_images else tuple(maker.images[kept].tolist()),
                    start=start,
                    behind=(every,) * len(maker.behind()) if of_images else tuple(maker.behind()),
                    centre=float(centre),
                    unit=float(unit),
                )
            )
            start += len(kept)
        return tuple(targets)

    def _with_axis(self, maker: AxisMaker) -> Integers:
        """The numbers of the keys that have enough images."""
        if self._choice.of_images:
            return np.array([0])
        return np.flatnonzero(maker.images >= _fewest(maker.images, maker.rows_of_keys))

    def _layer(self, name: str, makers: Sequence[AxisMaker]) -> LayerEffects:
        """A layer that can project; its grids and noise follow."""
        kept = [torch.from_numpy(self._with_axis(maker)) for maker in makers]
        return LayerEffects(
            name=name,
            shape=tuple(self._pilot.shapes[name]),
            axes=torch.cat([maker.axes[own] for maker, own in zip(makers, kept, strict=True)]),
            offsets=torch.cat([maker.offsets[own] for maker, own in zip(makers, kept, strict=True)]),
            units=torch.zeros(0),
            noise=torch.zeros(0),
            mean_maps=makers[0].mean_maps,
        )

    def _finished(self, layer: LayerEffects, makers: Sequence[AxisMaker]) -> LayerEffects:
        units = torch.stack([own.units for own in makers])
        for index in range(len(makers)):
            if (index, layer.name) in self._lost:
                units[index] = NO_UNIT
        return replace(layer, units=units, noise=torch.stack([own.noise() for own in makers]))


def _fewest(images: Integers, rows: Integers) -> int:
    """Images from which a key gets an axis: as many as a ranking takes, where most rows have keys of so many; else
    FEWEST. images, rows: of each key."""
    return MIN_BEHIND if rows[images >= MIN_BEHIND].sum() >= WITH_AXIS * rows.sum() else FEWEST


def _places(mask: Tensor) -> Integers:
    return np.flatnonzero(mask.numpy())


def _first(numbers: Integers, left: Integers) -> Integers:
    """The keys of the first rows of each key, as many as `left` says, which is lowered; -1 for the others."""
    result = np.full(len(numbers), -1, np.int64)
    for row, key in enumerate(numbers.tolist()):
        if key >= 0 and left[key] > 0:
            result[row] = key
            left[key] -= 1
    return result
