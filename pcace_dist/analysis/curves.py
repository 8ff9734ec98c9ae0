"""Ablation curves: how much a target loses as more and more channels are replaced, in several orders; areas, bands.

Pure: arrays and small objects in, an Arrow table and JSON out. Knows neither images nor models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.models.ablation import Effect

Floats: TypeAlias = npt.NDArray[np.float64]

BEST = "pcace"
WORST = "worst"
RANDOM = "random"
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

    def lost(self, name: str) -> Floats:
        """(draws, sizes): 1 - r^2 along the curves of an order."""
        of_order = [effects for (order, _), effects in sorted(self.effects.items()) if order == name]
        return np.array([[effect.lost for effect in effects] for effects in of_order])

    def area(self, name: str) -> float:
        """Mean of 1 - r^2 over k = 1, 2, 4, ...: the area under the curve over log k. For random orders, their mean."""
        return float(self.lost(name).mean())

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.effects))

    @property
    def band(self) -> tuple[float, float]:
        """Percentiles of the areas of the random orders."""
        low, high = np.percentile(self.lost(RANDOM).mean(axis=1), BAND)
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
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
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
                numbers = (curves.images, effect.lost, effect.change, effect.accuracy)
                for name, value in zip(_COLUMNS, (*values, *numbers), strict=True):
                    rows[name].append(value)
    table = {name: pa.array(rows[name], kind) if kind else pa.array(rows[name]) for name, kind in _COLUMNS.items()}
    accuracy = np.array(rows["accuracy"], dtype=np.float64)
    return pa.table(table | {"accuracy": pa.array(accuracy, pa.float64(), mask=np.isnan(accuracy))})


_COLUMNS: dict[str, pa.DataType | None] = {
    "target": pa.string(),
    "group": None,
    "layer": pa.string(),
    "replacement": pa.string(),
    "order": pa.string(),
    "draw": pa.int32(),
    "k": pa.int32(),
    "images": pa.int64(),
    "lost": pa.float64(),
    "change": pa.float64(),
    "accuracy": pa.float64(),
}


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
            "random_band": list(curves.band),
        }
        for curves in all_curves
    ]


@dataclass(frozen=True)
class Standing:
    """One order in all curves of a replacement. area: mean; won, lost: the numbers of curves in which the ranking's
    area is larger or smaller than this order's; beyond_random: the number of curves in which this order's area is above
    the band of random orders."""

    order: str
    area: float
    won: int
    lost: int
    beyond_random: int
    curves: int


def standings(all_curves: Sequence[Curves], replacement: str) -> Iterator[Standing]:
    """Every order in comparison with the ranking, the largest area first."""
    of_replacement = [curves for curves in all_curves if curves.replacement == replacement]
    names = list(dict.fromkeys(name for curves in of_replacement for name in curves.names))
    rows = []
    for name in names:
        with_order = [curves for curves in of_replacement if name in curves.names]
        differences = [curves.area(BEST) - curves.area(name) for curves in with_order]
        rows.append(
            Standing(
                order=name,
                area=float(np.mean([curves.area(name) for curves in with_order])),
                won=sum(difference > 0 for difference in differences),
                lost=sum(difference < 0 for difference in differences),
                beyond_random=sum(curves.area(name) > curves.band[1] for curves in with_order),
                curves=len(with_order),
            )
        )
    yield from sorted(rows, key=lambda row: -row.area)


def _descending(scores: Floats) -> tuple[int, ...]:
    order = np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind="stable")
    return tuple(int(channel) for channel in order)
