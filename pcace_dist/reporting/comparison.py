"""A second run beside this one: ranks and scores of the channels that both have. Arrays only.

`analysis.compare` decides which channels moved. Runs that it considers not comparable are shown side by side too, with
its reasons; then a channel counts as moved where the intervals of its two ranks do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from pcace_dist.analysis.compare import compare_runs
from pcace_dist.errors import UserError
from pcace_dist.reporting.source import Ranking, ReportSource


@dataclass(frozen=True, eq=False)
class Compared:
    """One target and group in both runs: the other run's values, arrays (channels,) in this run's order."""

    target: int
    group: int
    rank: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    moved: npt.NDArray[np.bool_]
    spearman: float


@dataclass(frozen=True)
class AgainstRun:
    """The other run, the targets and groups that both have, and the rule by which channels count as moved."""

    path: str
    blocks: tuple[Compared, ...]
    judged: str


def compare(source: ReportSource, other: ReportSource, groups: tuple[int, ...]) -> AgainstRun:
    """Compare every target and group that both runs have. Raises UserError where they share none, or no layer."""
    blocks = _blocks(source, other, groups)
    try:
        judgement = compare_runs(other.run, source.run)
        reasons = list(judgement.reasons)
    except UserError as error:  # a run of an earlier version lacks data for this comparison
        reasons = [str(error)]
    if reasons:
        judged = "the 95 % intervals of the two ranks do not overlap. The runs are not comparable: " + "; ".join(
            reasons
        )
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


def _blocks(source: ReportSource, other: ReportSource, groups: tuple[int, ...]) -> list[Compared]:
    compared = []
    index_of = _places(source.ranking, other.ranking)
    if not (index_of >= 0).any():
        raise UserError(f"{other.run.path}, to compare with: has none of this run's layers")
    names = [str(group) for group in other.ranking.groups]
    for t, target in enumerate(source.ranking.targets):
        for g in groups:
            if target in other.ranking.targets and str(source.ranking.groups[g]) in names:
                block = other.ranking.targets.index(target), names.index(str(source.ranking.groups[g]))
                compared.append(_compared(source.ranking, other.ranking, (t, g), block, index_of))
    if not compared:
        raise UserError(f"{other.run.path}, to compare with: has none of this run's targets and groups")
    return compared


def _compared(
    ranking: Ranking,
    other: Ranking,
    block: tuple[int, int],
    other_block: tuple[int, int],
    index_of: npt.NDArray[np.int64],
) -> Compared:
    def of(name: str) -> npt.NDArray[np.float64]:
        return np.where(index_of >= 0, other.numbers(*other_block, name)[index_of], np.nan)

    rank = of("rank")
    own_rank = ranking.numbers(*block, "rank")
    with np.errstate(invalid="ignore"):
        moved = (of("rank_high") < ranking.numbers(*block, "rank_low")) | (
            of("rank_low") > ranking.numbers(*block, "rank_high")
        )
    ranked_twice = np.isfinite(rank) & np.isfinite(own_rank)
    spearman = (
        float(stats.spearmanr(rank[ranked_twice], own_rank[ranked_twice]).statistic)
        if ranked_twice.sum() > 2
        else float("nan")
    )
    return Compared(*block, rank, of("score"), moved, spearman)


def _places(ranking: Ranking, other: Ranking) -> npt.NDArray[np.int64]:
    """For every channel of this run its index in the other run's blocks, -1 where it is not there."""
    sizes = dict(other.layers)
    indices = []
    for name, count in ranking.layers:
        is_shared = np.arange(count) < sizes.get(name, 0)
        indices.append(np.where(is_shared, np.arange(count) + (other.start(name) if name in sizes else 0), -1))
    return np.concatenate(indices)
