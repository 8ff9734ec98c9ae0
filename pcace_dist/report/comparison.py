"""A second run beside this one: ranks and scores of the channels that both have. Arrays only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from pcace_dist.errors import UserError
from pcace_dist.report.source import Ranking, Source


@dataclass(frozen=True, eq=False)
class Compared:
    """One target and group of this run against the same of the other: numbers (channels,) in this run's order."""

    target: int
    group: int
    rank: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    settled: npt.NDArray[np.bool_]
    spearman: float


def compare(source: Source, other: Source, groups: tuple[int, ...]) -> list[Compared]:
    """Every target and group that both runs have; settled: the intervals of the ranks do not meet.

    Raises UserError where they share none, or no layer.
    """
    found = []
    places = _places(source.ranking, other.ranking)
    if not (places >= 0).any():
        raise UserError(f"--against {other.run.path}: has none of this run's layers")
    names = [str(group) for group in other.ranking.groups]
    for t, target in enumerate(source.ranking.targets):
        for g in groups:
            if target in other.ranking.targets and str(source.ranking.groups[g]) in names:
                block = other.ranking.targets.index(target), names.index(str(source.ranking.groups[g]))
                found.append(_compared(source.ranking, other.ranking, (t, g), block, places))
    if not found:
        raise UserError(f"--against {other.run.path}: has none of this run's targets and groups")
    return found


def _compared(
    mine: Ranking, theirs: Ranking, here: tuple[int, int], there: tuple[int, int], places: npt.NDArray[np.int64]
) -> Compared:
    def of(name: str) -> npt.NDArray[np.float64]:
        return np.where(places >= 0, theirs.numbers(*there, name)[places], np.nan)

    rank = of("rank")
    own = mine.numbers(*here, "rank")
    with np.errstate(invalid="ignore"):
        apart = (of("rank_high") < mine.numbers(*here, "rank_low")) | (
            of("rank_low") > mine.numbers(*here, "rank_high")
        )
    both = np.isfinite(rank) & np.isfinite(own)
    spearman = float(stats.spearmanr(rank[both], own[both]).statistic) if both.sum() > 2 else float("nan")
    return Compared(*here, rank, of("score"), apart, spearman)


def _places(mine: Ranking, theirs: Ranking) -> npt.NDArray[np.int64]:
    """For every channel of this run its place in the other's blocks, -1 where it has none."""
    sizes = dict(theirs.layers)
    parts = []
    for name, count in mine.layers:
        known = np.arange(count) < sizes.get(name, 0)
        parts.append(np.where(known, np.arange(count) + (theirs.start(name) if name in sizes else 0), -1))
    return np.concatenate(parts)
