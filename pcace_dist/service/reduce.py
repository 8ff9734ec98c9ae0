"""Reduce: from the accepted attempts to the rankings. A pure function of a ledger prefix (docs/protocol.md, item 9).

`reduce_block` is the task: it reads one block of channels from every accepted attempt, adds up, solves, and returns
scores. `rankings_table` puts the blocks together and ranks. Memory of a task is one block over all groups, whatever
the number of workers. Knows the store and the statistic, not Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce as reduce_pairs
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from pcace_dist.service.attempt import Block, BlockPart, read_block, read_checked, read_rows, read_samples
from pcace_dist.service.curves import BlockCurves, pick_curves
from pcace_dist.service.drift import Ends
from pcace_dist.service.ledger import Receipt
from pcace_dist.service.store import Store
from pcace_dist.service.sums import BlockSums, group_order
from pcace_dist.statistics.ace import ace
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.ranks import Ranks, rank_channels
from pcace_dist.statistics.samples import SampleRows
from pcace_dist.statistics.score import OK, ChannelScores

NUMBERS = (
    "score",
    "score_squared",
    "score_low",
    "score_high",
    "score_in_sample",
    "score_first_component",
    "pearson",
    "mean_activation",
    "activation_variance",
    "weight_norm",
    "clamped",
)


PAIRS_AT_A_TIME = 1 << 20  # of channels, compared in one task

RankInput: TypeAlias = "tuple[np.ndarray, np.ndarray, np.ndarray]"  # score_squared, pseudo-values, ok


@dataclass(frozen=True)
class BlockScores:
    """Scores of one block: for each group a list with a ChannelScores per target; the transforms to publish; and how
    many codes lie at the ends of the knots."""

    block: Block
    scores: Mapping[Any, Sequence[ChannelScores]]
    curves: Sequence[BlockCurves] = ()
    ends: Ends = field(default_factory=Ends)
    seconds: Mapping[str, float] = field(default_factory=dict)  # reading and adding up sums; solving


def reduce_block(
    store: Store,
    plan: Plan,
    block: Block,
    receipts: Sequence[Receipt],
    *,
    penalty: float,
    memory: int,
    estimator: str = "gram",
) -> BlockScores:
    """Add up one block over all accepted attempts and score it, group by group, in about `memory` bytes.

    Raises CorruptAttempt when a file is missing or not what its receipt says; StatisticsError when a group has more
    rows than the estimator takes.
    """
    held_by = [receipt for receipt in receipts if block.file in receipt.files]
    layer = plan.layer(block.layer).block(block.channels)
    ends: dict[str, Ends] = {}

    def parts() -> Iterator[BlockPart]:
        for receipt in held_by:
            own = Ends()
            rows = read_rows(_read(store, receipt, "rows.arrow"))
            for part in read_block(block, plan.components, _read(store, receipt, block.file), *rows):
                own.add(part, layer, receipt.attempt)
                yield part
            ends[receipt.attempt] = own  # in a further pass the same again

    found = score_block(plan, block, parts, penalty=penalty, memory=memory)
    found = replace(found, ends=reduce_pairs(Ends.plus, ends.values(), Ends()))
    return found if estimator == "gram" else _by_ace(found, store, plan, held_by)


def score_block(
    plan: Plan, block: Block, parts: Callable[[], Iterable[BlockPart]], *, penalty: float, memory: int
) -> BlockScores:
    """Add up and score the parts of one block, wherever they come from; `parts()` may be called several times."""
    layer = plan.layer(block.layer).block(block.channels)
    began = time.perf_counter()
    solving = 0.0
    sums = BlockSums(plan, block, memory=memory)
    scores = {}
    for group, held in sums.groups(parts):
        start = time.perf_counter()
        scores[group] = sums.score(held, layer, penalty=penalty)
        solving += time.perf_counter() - start
    seconds = {"sums": time.perf_counter() - began - solving, "solve": solving}
    curves = pick_curves(plan, block.layer, block.start, scores)
    plain = {group: [s.without_transforms() for s in held] for group, held in scores.items()}
    return BlockScores(block, plain, curves, seconds=seconds)


def _read(store: Store, receipt: Receipt, name: str) -> bytes:
    return read_checked(store, receipt.attempt, name, receipt.files[name])


def _by_ace(found: BlockScores, store: Store, plan: Plan, receipts: Sequence[Receipt]) -> BlockScores:
    """The paper's own estimate in place of ours, from the sample rows of the same attempts."""
    block = found.block
    samples: dict[Any, list[SampleRows]] = {}
    for receipt in receipts:
        files = (_read(store, receipt, "samples.arrow"), _read(store, receipt, block.sample_file))
        for group, rows in read_samples(block, plan, *files):
            samples.setdefault(group, []).append(rows)
    ordered = {group: SampleRows.cat(parts).ordered() for group, parts in samples.items()}
    return BlockScores(
        block,
        {
            group: [_ace_scores(one, ordered[group], block, index) for index, one in enumerate(scores)]
            for group, scores in found.scores.items()
        },
        found.curves,
        found.ends,
        found.seconds,
    )


def _ace_scores(scores: ChannelScores, rows: SampleRows, block: Block, target: int) -> ChannelScores:
    """Sample-level ACE of one group: without interval and without bias correction."""
    ok = scores.status == OK
    summed, first = np.full(len(ok), np.nan), np.full(len(ok), np.nan)
    if ok.any():
        components = rows.components[block.layer][:, torch.from_numpy(ok)].numpy()
        found = ace(components, rows.targets[:, target].numpy())
        summed[ok], first[ok] = found.score, found.first_component
    none = np.full(len(ok), np.nan)
    return replace(
        scores,
        score=summed,
        score_squared=summed**2,
        score_low=none,
        score_high=none,
        score_in_sample=summed,
        score_first_component=first,
        pseudo=np.full_like(scores.pseudo, np.nan),
    )


def rankings_table(
    plan: Plan,
    blocks: Sequence[BlockScores],
    ranks: Sequence[Ranks],
    weight_norms: Mapping[str, Sequence[float | None]],
    group_type: pa.DataType,
) -> pa.Table:
    """rankings.parquet: a row per target x group x layer x channel, sorted so (README, What comes out).

    ranks: those of `rank_tasks`, in its order.
    """
    ordered = sorted(blocks, key=lambda b: b.block.index)
    layers = np.concatenate([np.repeat(b.block.layer, b.block.stop - b.block.start) for b in ordered])
    channels = np.concatenate([np.arange(b.block.start, b.block.stop, dtype=np.int32) for b in ordered])
    norms = np.concatenate([np.asarray(weight_norms[name], np.float64) for name in (y.name for y in plan.layers)])
    return pa.concat_tables(
        _ranking(target, group, group_type, layers, channels, norms, scores, own)
        for (target, group, scores), own in zip(each_ranking(plan, ordered), ranks, strict=True)
    )


def is_any_ranked(blocks: Iterable[BlockScores]) -> bool:
    """Whether there is a channel with a score, for any target and group."""
    every = (scores for block in blocks for of_group in block.scores.values() for scores in of_group)
    return any(bool((scores.status == OK).any()) for scores in every)


def rank_tasks(plan: Plan, blocks: Sequence[BlockScores]) -> list[list[RankInput]]:
    """What is ranked, in the order of rankings.parquet, in batches of about a second's work each."""
    batches: list[list[RankInput]] = [[]]
    cost = 0
    for _, _, scores in each_ranking(plan, blocks):
        if cost >= PAIRS_AT_A_TIME:
            batches.append([])
            cost = 0
        batches[-1].append((scores.score_squared, scores.pseudo, scores.status == OK))
        cost += len(scores.status) ** 2
    return batches


def rank_batch(inputs: Sequence[RankInput]) -> list[Ranks]:
    """One task: ranks and their intervals of some rankings."""
    return [rank_channels(*one) for one in inputs]


def each_ranking(plan: Plan, blocks: Sequence[BlockScores]) -> Iterator[tuple[str, Any, ChannelScores]]:
    """Target, group and the scores of all channels, in the order of rankings.parquet."""
    ordered = sorted(blocks, key=lambda b: b.block.index)
    groups = sorted({group for b in ordered for group in b.scores}, key=group_order)
    for index, target in enumerate(plan.targets):
        for group in groups:
            yield target.name, group, ChannelScores.cat([b.scores[group][index] for b in ordered])


def _ranking(
    target: str,
    group: Any,
    group_type: pa.DataType,
    layers: np.ndarray,
    channels: np.ndarray,
    norms: np.ndarray,
    scores: ChannelScores,
    ranks: Ranks,
) -> pa.Table:
    ok = scores.status == OK
    sure = ok & np.isfinite(scores.pseudo).any(axis=1)  # sample-level ACE gives no intervals
    count = len(channels)
    numbers = {name: getattr(scores, name) for name in NUMBERS if name != "weight_norm"} | {"weight_norm": norms}
    return pa.table(
        {
            "target": pa.array([target] * count, pa.string()),
            "group": pa.array([group] * count, group_type),
            "layer": pa.array(layers.tolist(), pa.string()),
            "channel": pa.array(channels, pa.int32()),
            "images": pa.array(scores.images, pa.int64()),
            "rank": pa.array(ranks.rank, pa.int32(), mask=~ok),
            "layer_rank": pa.array(_layer_ranks(layers, ranks.rank, ok), pa.int32(), mask=~ok),
            "rank_low": pa.array(ranks.low, pa.int32(), mask=~sure),
            "rank_high": pa.array(ranks.high, pa.int32(), mask=~sure),
            **{name: pa.array(numbers[name], pa.float64(), mask=np.isnan(numbers[name])) for name in NUMBERS},
            "status": pa.array(scores.status.tolist(), pa.string()),
        }
    )


def _layer_ranks(layers: np.ndarray, rank: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Rank within the layer, from the rank over all layers."""
    result = np.zeros(len(rank), np.int32)
    for layer in np.unique(layers):
        rows = np.flatnonzero((layers == layer) & ok)
        result[rows[np.argsort(rank[rows])]] = np.arange(1, len(rows) + 1)
    return result
