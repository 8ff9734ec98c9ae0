"""Ablation curves: orders of channels, how much each takes from a target as more of them are replaced, areas, bands.

Pure: arrays and small objects in, an Arrow table and JSON out. Which images, which model: not known here.
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
class Layer:
    """One layer of one ranking: scores (C,) by name, larger is more important, NaN last; `pcace` is the ranking."""

    target: str
    group: Any
    name: str
    scores: Mapping[str, Floats]

    @property
    def channels(self) -> int:
        return len(self.scores[BEST])


@dataclass(frozen=True)
class Order:
    """Channels in the order in which they are replaced. draw: number of a random order, else 0."""

    name: str
    draw: int
    channels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Curves:
    """One layer's curves for one replacement: the effect of the first k channels of every order."""

    layer: Layer
    replacement: str
    images: int
    sizes: tuple[int, ...]
    effects: Mapping[tuple[str, int], tuple[Effect, ...]] = field(repr=False)

    def lost(self, name: str) -> Floats:
        """(draws, sizes): 1 - r^2 along the curves of an order."""
        found = [effects for (order, _), effects in sorted(self.effects.items()) if order == name]
        return np.array([[one.lost for one in effects] for effects in found])

    def area(self, name: str) -> float:
        """Mean of 1 - r^2 over k = 1, 2, 4, ...: the area under the curve over log k. Of random orders: their mean."""
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
    """How many channels are replaced: 1, 2, 4, ... below all of them (all is the same in any order)."""
    found = [1 << power for power in range(channels.bit_length()) if 1 << power < channels]
    return tuple(found) or (1,)


def orders(layer: Layer, draws: int, seed: int) -> list[Order]:
    """The ranking best first and worst first, every baseline best first, and `draws` random orders."""
    found = [Order(name, 0, _descending(scores)) for name, scores in layer.scores.items()]
    found.insert(1, Order(WORST, 0, found[0].channels[::-1]))
    rng = np.random.default_rng([seed, layer.channels])
    return found + [Order(RANDOM, draw, tuple(rng.permutation(layer.channels).tolist())) for draw in range(draws)]


def sets_of(found: Sequence[Order], counts: Sequence[int]) -> list[tuple[int, ...]]:
    """The different sets of channels among the first k of all orders, each sorted."""
    return list(dict.fromkeys(first(order, count) for order in found for count in counts))


def first(order: Order, count: int) -> tuple[int, ...]:
    return tuple(sorted(order.channels[:count]))


def curves_table(found: Sequence[Curves]) -> pa.Table:
    """evaluation.parquet: a row per curve and k."""
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for one in found:
        for (order, draw), effects in one.effects.items():
            for count, effect in zip(one.sizes, effects, strict=True):
                values = (one.layer.target, one.layer.group, one.layer.name, one.replacement, order, draw, count)
                numbers = (one.images, effect.lost, effect.change, effect.accuracy)
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


def areas(found: Sequence[Curves]) -> list[dict[str, Any]]:
    """A dict per layer and replacement: areas by order, and the band of the random ones."""
    return [
        {
            "target": one.layer.target,
            "group": one.layer.group,
            "layer": one.layer.name,
            "replacement": one.replacement,
            "channels": one.layer.channels,
            "images": one.images,
            "areas": {name: one.area(name) for name in one.names},
            "random_band": list(one.band),
        }
        for one in found
    ]


@dataclass(frozen=True)
class Standing:
    """One order over all curves of a replacement. area: mean; won, lost: curves in which the ranking's area is larger
    or smaller than this order's; beyond_random: curves in which this order's area lies above that of random orders."""

    order: str
    area: float
    won: int
    lost: int
    beyond_random: int
    curves: int


def standings(found: Sequence[Curves], replacement: str) -> Iterator[Standing]:
    """Every order against the ranking, the largest area first."""
    mine = [one for one in found if one.replacement == replacement]
    names = list(dict.fromkeys(name for one in mine for name in one.names))
    rows = []
    for name in names:
        held = [one for one in mine if name in one.names]
        differences = [one.area(BEST) - one.area(name) for one in held]
        rows.append(
            Standing(
                order=name,
                area=float(np.mean([one.area(name) for one in held])),
                won=sum(by > 0 for by in differences),
                lost=sum(by < 0 for by in differences),
                beyond_random=sum(one.area(name) > one.band[1] for one in held),
                curves=len(held),
            )
        )
    yield from sorted(rows, key=lambda row: -row.area)


def _descending(scores: Floats) -> tuple[int, ...]:
    order = np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind="stable")
    return tuple(int(channel) for channel in order)
