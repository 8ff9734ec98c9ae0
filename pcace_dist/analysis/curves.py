"""Ablation curves: how much a target loses as more and more channels are replaced, in several orders; areas, bands.

Pure: arrays and small objects in, an Arrow table and JSON out. Knows neither images nor models. What the orders do
against each other: standings.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.analysis.columns import EVALUATION
from pcace_dist.models.ablation.replacement import Effect

Floats: TypeAlias = npt.NDArray[np.float64]

BEST = "pcace"
WORST = "worst"
RANDOM = "random"
LOST, CHANGED, ACCURACY = "lost", "changed", "accuracy"
MEASURES = (LOST, CHANGED, ACCURACY)
BAND = (5.0, 95.0)  # percentiles of the random orders


@dataclass(frozen=True, eq=False)
class RankedLayer:
    """One layer of one ranking: scores (C,) by name, larger is more important, NaN last. `pcace` is the ranking."""

    target: str
    group: Any
    name: str
    scores: Mapping[str, Floats]

    @property
    def channels(self) -> int:
        return len(self.scores[BEST])


@dataclass(frozen=True)
class Order:
    """Channels in the order in which they are replaced. draw: the number of a random order, else 0."""

    name: str
    draw: int
    channels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Curves:
    """One layer's curves for one replacement: the effect of the first k channels of every order."""

    layer: RankedLayer
    replacement: str
    images: int
    sizes: tuple[int, ...]
    effects: Mapping[tuple[str, int], tuple[Effect, ...]] = field(repr=False)

    def along(self, name: str, measure: str = LOST) -> Floats:
        """(draws, sizes): a measure along the curves of an order."""
        return np.array([[getattr(effect, measure) for effect in effects] for effects in self._of(name)])

    def area(self, name: str, measure: str = LOST) -> float:
        """Mean of a measure over k = 1, 2, 4, ...: the area under the curve over log k. Random orders: their mean."""
        return float(self.along(name, measure).mean())

    def areas_without(self, name: str, measure: str) -> Floats:
        """The area without each block of images in turn (blocks,)."""
        index = MEASURES.index(measure)
        every = [effect.without[index] for effects in self._of(name) for effect in effects]
        return np.asarray(np.mean(every, axis=0))

    def _of(self, name: str) -> list[tuple[Effect, ...]]:
        return [effects for (order, _), effects in sorted(self.effects.items()) if order == name]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.effects))

    @property
    def band(self) -> tuple[float, float]:
        """Percentiles of the areas of the random orders."""
        low, high = np.percentile(self.along(RANDOM).mean(axis=1), BAND)
        return float(low), float(high)


def sizes(channels: int) -> tuple[int, ...]:
    """The numbers of channels to replace: 1, 2, 4, ... below all of them (all would be the same in any order)."""
    powers = [1 << power for power in range(channels.bit_length()) if 1 << power < channels]
    return tuple(powers) or (1,)


def orders(layer: RankedLayer, draws: int, seed: int) -> list[Order]:
    """The ranking, best first and worst first; every baseline, best first; and `draws` random orders."""
    orders_made = [Order(name, 0, _descending(scores)) for name, scores in layer.scores.items()]
    orders_made.insert(1, Order(WORST, 0, orders_made[0].channels[::-1]))
    rng = np.random.default_rng([seed, layer.channels])
    return orders_made + [Order(RANDOM, draw, tuple(rng.permutation(layer.channels).tolist())) for draw in range(draws)]


def sets_of(orders: Sequence[Order], counts: Sequence[int]) -> list[tuple[int, ...]]:
    """The different sets of channels that are the first k of some order, each sorted."""
    return list(dict.fromkeys(first(order, count) for order in orders for count in counts))


def first(order: Order, count: int) -> tuple[int, ...]:
    return tuple(sorted(order.channels[:count]))


def curves_table(all_curves: Sequence[Curves]) -> pa.Table:
    """evaluation.parquet: a row per curve and k."""
    rows: dict[str, list[Any]] = {column.name: [] for column in EVALUATION.columns}
    for curves in all_curves:
        for (order, draw), effects in curves.effects.items():
            for count, effect in zip(curves.sizes, effects, strict=True):
                values = (
                    curves.layer.target,
                    curves.layer.group,
                    curves.layer.name,
                    curves.replacement,
                    order,
                    draw,
                    count,
                )
                accuracy = None if np.isnan(effect.accuracy) else effect.accuracy
                numbers = (curves.images, effect.lost, effect.change, accuracy, effect.changed)
                for column, value in zip(rows.values(), (*values, *numbers), strict=True):
                    column.append(value)
    return pa.table(rows, EVALUATION.schema(pa.array(rows["group"]).type))


def areas(all_curves: Sequence[Curves]) -> list[dict[str, Any]]:
    """A dict for each layer and replacement: areas by order, and the band of the random orders."""
    return [
        {
            "target": curves.layer.target,
            "group": curves.layer.group,
            "layer": curves.layer.name,
            "replacement": curves.replacement,
            "channels": curves.layer.channels,
            "images": curves.images,
            "areas": {name: curves.area(name) for name in curves.names},
            "areas_changed": {name: curves.area(name, CHANGED) for name in curves.names},
            "random_band": list(curves.band),
        }
        for curves in all_curves
    ]


def _descending(scores: Floats) -> tuple[int, ...]:
    order = np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind="stable")
    return tuple(int(channel) for channel in order)
