"""What a reduce task gives back: the scores of one block of channels, and all blocks ranking by ranking. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pcace_dist.artifacts.attempt import ChannelBlock
from pcace_dist.artifacts.drift import Ends
from pcace_dist.artifacts.transforms import BlockTransforms
from pcace_dist.datasets.groups import group_order
from pcace_dist.statistics.effects.scores import EffectScores
from pcace_dist.statistics.order.ranks import Ranks
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.score import OK, ChannelScores


@dataclass(frozen=True)
class BlockScores:
    """Scores of one block: for each group a list with a ChannelScores per target, and one with EffectScores; the
    transforms to publish; and how many codes lie at the ends of the knots."""

    block: ChannelBlock
    scores: Mapping[Any, Sequence[ChannelScores]]
    effects: Mapping[Any, Sequence[EffectScores]]
    curves: Sequence[BlockTransforms] = ()
    ends: Ends = field(default_factory=Ends)
    seconds: Mapping[str, float] = field(default_factory=dict)  # reading and adding up sums; solving


def is_any_ranked(blocks: Iterable[BlockScores]) -> bool:
    """Whether there is a channel with a score, for any target and group."""
    every = (scores for block in blocks for of_group in block.scores.values() for scores in of_group)
    return any(bool((scores.status == OK).any()) for scores in every)


def each_ranking(plan: Plan, blocks: Sequence[BlockScores]) -> Iterator[tuple[str, Any, ChannelScores]]:
    """Target, group and the scores of all channels, in the order of rankings.parquet."""
    for target, group, scores, _ in each_result(plan, blocks):
        yield target, group, scores


@dataclass(frozen=True)
class RankedResult:
    """One ranking: target, group, and scores, effects and ranks of all channels. given_plan: ranks by score whose
    intervals do not hold what another pilot would change."""

    target: str
    group: Any
    scores: ChannelScores
    effects: EffectScores
    by_score: Ranks
    given_plan: Ranks
    by_effect: Ranks


def each_ranked(plan: Plan, blocks: Sequence[BlockScores], ranks: Sequence[Ranks]) -> Iterator[RankedResult]:
    """Every ranking, in the order of rankings.parquet. ranks: those of `rank_tasks`, in its order."""
    for result, *of_result in zip(each_result(plan, blocks), ranks[::3], ranks[1::3], ranks[2::3], strict=True):
        yield RankedResult(*result, *of_result)


def each_result(plan: Plan, blocks: Sequence[BlockScores]) -> Iterator[tuple[str, Any, ChannelScores, EffectScores]]:
    """Target, group, and scores and effects of all channels, in the order of rankings.parquet."""
    ordered = sorted(blocks, key=lambda b: b.block.index)
    groups = sorted({group for b in ordered for group in b.scores}, key=group_order)
    for index, target in enumerate(plan.targets):
        for group in groups:
            scores = ChannelScores.cat([b.scores[group][index] for b in ordered])
            effects = EffectScores.cat([b.effects[group][index] for b in ordered])
            yield target.name, group, scores, effects
