"""A finished run's rankings by layer and digit, as arrays, and the statistics that the figures need.

rankings.parquet ranks all channels of all layers together; the paper ranks within a layer. The intervals within a layer
come from the run's jackknife.parquet, by the same test (docs/method.md, section 4), and hold another pilot as the
run's do. No drawing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.analysis.agreement import agreement
from pcace_dist.artifacts.jackknife import by_fold
from pcace_dist.artifacts.run import Run
from pcace_dist.statistics.order.ranks import rank_channels
from pcace_dist.statistics.plan_noise import ANOTHER

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int32]

SHUFFLES = 20_000


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer in one group: a value for each channel. Ranks are from 1, within the layer; 0 where not ranked."""

    images: int
    squared: Floats
    score: Floats
    low: Floats
    high: Floats
    first: Floats
    rank: Ints
    rank_low: Ints
    rank_high: Ints

    @property
    def channels(self) -> int:
        return len(self.score)

    @property
    def open(self) -> float:
        """Mean width of the rank intervals as a share of the widest: 0 if all ranks are settled, 1 if none."""
        return float(np.mean((self.rank_high - self.rank_low) / (self.channels - 1)))


@dataclass(frozen=True)
class Overlap:
    """common: the number of channels that the tops of two groups have in common, mean over all pairs of groups. chance:
    its expectation if every group's ranking were shuffled independently. p_value: the probability of at least as many
    in common then."""

    common: float
    chance: float
    p_value: float


@dataclass(frozen=True, eq=False)
class Shared:
    """In how many groups each channel (C,) is among the layer's best `top`: by its rank (`seen`), for sure (the whole
    interval of its rank is in the top), and possibly (its interval reaches the top)."""

    top: int
    groups: int
    seen: Ints
    sure: Ints
    possible: Ints
    by_rank: Overlap
    settled: Overlap


def layers_of(run: Run) -> dict[str, dict[str, Layer]]:
    """Layer name -> group -> values. Groups are in the order of the run, channels in the order of the layer."""
    table = run.with_jackknife()
    by_layer: dict[str, dict[str, Layer]] = {}
    for layer in pc.unique(table["layer"]).to_pylist():
        part = table.filter(pc.equal(table["layer"], layer))
        for group in pc.unique(part["group"]).to_pylist():
            by_layer.setdefault(layer, {})[str(group)] = _layer(part.filter(pc.equal(part["group"], group)))
    return by_layer


def _layer(rows: pa.Table) -> Layer:
    def numbers(name: str) -> Floats:
        return np.asarray(rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)

    pseudo = by_fold(rows, "pseudo_values") + ANOTHER * np.nan_to_num(by_fold(rows, "plan_noise"))
    ok = np.array([status == "ok" for status in rows["status"].to_pylist()])
    squared = numbers("score_squared")
    ranks = rank_channels(squared, pseudo, ok)
    return Layer(
        images=int(rows["images"][0].as_py()),
        squared=squared,
        score=numbers("score"),
        low=numbers("score_low"),
        high=numbers("score_high"),
        first=numbers("score_first_component"),
        rank=ranks.rank,
        rank_low=ranks.low,
        rank_high=ranks.high,
    )


def spearman(scores_a: Floats, scores_b: Floats) -> float:
    """Rank correlation of two scores of the same channels."""
    return agreement(scores_a, scores_b).spearman


def shared(groups: Sequence[Layer], top: int) -> Shared:
    """What the tops of all groups have in common, by rank and for the settled places."""
    inside = np.array([(group.rank >= 1) & (group.rank <= top) for group in groups])
    sure = np.array([(group.rank >= 1) & (group.rank_high <= top) for group in groups])
    possible = np.array([(group.rank >= 1) & (group.rank_low <= top) for group in groups])
    return Shared(
        top=top,
        groups=len(groups),
        seen=inside.sum(0, dtype=np.int32),
        sure=sure.sum(0, dtype=np.int32),
        possible=possible.sum(0, dtype=np.int32),
        by_rank=_overlap(inside),
        settled=_overlap(sure),
    )


def _overlap(inside: npt.NDArray[np.bool_]) -> Overlap:
    """The overlap of tops, bool (groups, channels). Shuffles keep the number of channels in each group's top."""
    common = float(_in_common(inside[None])[0])
    shuffled = _in_common(np.random.default_rng(0).permuted(np.tile(inside, (SHUFFLES, 1, 1)), axis=2))
    beyond = int((shuffled >= common - 1e-9).sum())
    return Overlap(common, float(shuffled.mean()), (1 + beyond) / (1 + SHUFFLES))


def _in_common(inside: npt.NDArray[np.bool_]) -> Floats:
    """The number of channels that two groups share, mean over all pairs: bool (n, groups, channels) -> (n,)."""
    counts = inside.sum(1)
    pairs = inside.shape[1] * (inside.shape[1] - 1) / 2
    return np.asarray((counts * (counts - 1) / 2).sum(1) / pairs, np.float64)


def pairwise(groups: Sequence[Layer]) -> Floats:
    """Spearman's correlation of the scores of every two groups (digits): (pairs,)."""
    return np.array([spearman(group_a.squared, group_b.squared) for group_a, group_b in combinations(groups, 2)])


def twins(groups: Mapping[str, Layer]) -> list[tuple[Layer, Layer]]:
    """The two samples of every digit, from groups named `3 a` and `3 b`."""
    return [(sample_a, groups[f"{name[:-2]} b"]) for name, sample_a in groups.items() if name.endswith(" a")]


def quarter(channels: int) -> int:
    """The size of a layer's top: a quarter of its channels, so by chance a channel is in it for a quarter of digits."""
    return max(1, channels // 4)
