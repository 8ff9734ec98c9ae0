"""A second run beside this one: ranks and scores of the channels that both have. Arrays only.

Which channels moved is `analysis.compare`'s judgement. Runs that it does not hold comparable are still laid side by
side, with its reasons; a channel then counts as moved where the intervals of its two ranks do not meet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from pcace_dist.analysis.compare import compare_runs
from pcace_dist.errors import UserError
from pcace_dist.report.source import Ranking, Source


@dataclass(frozen=True, eq=False)
class Compared:
    """One target and group of this run against the same of the other: arrays (channels,) in this run's order."""

    target: int
    group: int
    rank: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    moved: npt.NDArray[np.bool_]
    spearman: float


@dataclass(frozen=True)
class AgainstRun:
    """The other run, the targets and groups that both have, and how it was judged what moved."""

    path: str
    blocks: tuple[Compared, ...]
    judged: str


def compare(source: Source, other: Source, groups: tuple[int, ...]) -> AgainstRun:
    """Every target and group that both runs have. Raises UserError where they share none, or no layer."""
    blocks = _blocks(source, other, groups)
    try:
        judgement = compare_runs(other.run, source.run)
        reasons = list(judgement.reasons)
    except UserError as error:  # a run of an earlier version holds less than the judgement needs
        reasons = [str(error)]
    if reasons:
        judged = "the 95 % intervals of the two ranks do not meet. The runs are not comparable: " + "; ".join(reasons)
        return AgainstRun(other.run.path, tuple(blocks), judged)
    table = judgement.channels.filter(judgement.channels["moved"])
    keys = zip(*(table[name].to_pylist() for name in ("target", "group", "layer", "channel")), strict=True)
    moved = {(target, str(group), layer, channel) for target, group, layer, channel in keys}
    judged = f"the score moved, at a false discovery rate of {100 * judgement.settings.level:g} %"
    return AgainstRun(other.run.path, tuple(replace(b, moved=_moved(source.ranking, b, moved)) for b in blocks), judged)


def _moved(ranking: Ranking, block: Compared, moved: set[tuple[str, str, str, int]]) -> npt.NDArray[np.bool_]:
    target, group = ranking.targets[block.target], str(ranking.groups[block.group])
    return np.array(
        [(target, group, layer, channel) in moved for layer, count in ranking.layers for channel in range(count)]
    )


def _blocks(source: Source, other: Source, groups: tuple[int, ...]) -> list[Compared]:
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
