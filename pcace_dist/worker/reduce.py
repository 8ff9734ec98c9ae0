"""Reduce: from the accepted attempts to the rankings. A pure function of a ledger prefix (docs/protocol.md, item 9).

`reduce_block` is the task: it reads one block of channels from every accepted attempt, adds up, solves, and returns
scores. `rank_batch` ranks them. Memory of a task is one block over all groups, whatever the number of workers. Knows
the store and the statistic, not Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce as reduce_pairs
from itertools import accumulate, chain
from typing import Any, TypeAlias

import numpy as np
import torch

from pcace_dist.artifacts.attempt import BlockPart, ChannelBlock, read_attempt_file, read_block, read_rows, read_samples
from pcace_dist.artifacts.block_scores import BlockScores, each_result
from pcace_dist.artifacts.drift import Ends
from pcace_dist.artifacts.transforms import pick_transforms
from pcace_dist.ledger.ledger import Receipt
from pcace_dist.statistics.ace import ace
from pcace_dist.statistics.order.ranks import Ranks, rank_channels
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.samples import SampleRows
from pcace_dist.statistics.score import OK, ChannelScores
from pcace_dist.statistics.solve import one_thread
from pcace_dist.storage.store import Store
from pcace_dist.worker.block_sums import BlockSums

PAIRS_AT_A_TIME = 1 << 22  # of channels, compared in one task

RankInput: TypeAlias = "tuple[np.ndarray, np.ndarray, np.ndarray]"  # score_squared, pseudo-values, ok


def reduce_block(
    store: Store,
    plan: Plan,
    block: ChannelBlock,
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
    with_block = [receipt for receipt in receipts if block.file in receipt.files]
    layer = plan.layer(block.layer).block(block.channels)
    ends: dict[str, Ends] = {}

    def parts() -> Iterator[BlockPart]:
        for receipt in with_block:
            attempt_ends = Ends()
            for part in block_parts(store, plan, block, [receipt]):
                attempt_ends.add(part, layer, receipt.attempt)
                yield part
            ends[receipt.attempt] = attempt_ends  # in a further pass the same again

    scores = score_block(plan, block, parts, penalty=penalty, memory=memory)
    scores = replace(scores, ends=reduce_pairs(Ends.plus, ends.values(), Ends()))
    return scores if estimator == "gram" else _by_ace(scores, store, plan, with_block)


def block_parts(store: Store, plan: Plan, block: ChannelBlock, receipts: Iterable[Receipt]) -> Iterator[BlockPart]:
    """What the attempts hold of one block, attempt by attempt. Raises CorruptAttempt."""
    for receipt in receipts:
        if block.file in receipt.files:
            rows = read_rows(_read(store, receipt, "rows.arrow"))
            yield from read_block(block, plan.components, _read(store, receipt, block.file), *rows)


def score_block(
    plan: Plan, block: ChannelBlock, *parts: Callable[[], Iterable[BlockPart]], penalty: float, memory: int
) -> BlockScores:
    """Add up and score the parts of one block, wherever they come from; each of the `parts` has other groups, and may
    be called several times."""
    layer = plan.layer(block.layer).block(block.channels)
    began = time.perf_counter()
    solving = 0.0
    sums = BlockSums(plan, block, memory=memory)
    scores, effects = {}, {}
    for group, group_sums in chain.from_iterable(sums.groups(of_groups) for of_groups in parts):
        start = time.perf_counter()
        effects[group] = sums.score_effects(group, group_sums)
        scores[group] = sums.score(group, group_sums, layer, penalty=penalty)
        solving += time.perf_counter() - start
        group_sums.clear()  # before the next pass fills its memory
    seconds = {"sums": time.perf_counter() - began - solving, "solve": solving}
    curves = pick_transforms(plan, block.layer, block.start, scores)
    plain = {group: [s.without_transforms() for s in by_target] for group, by_target in scores.items()}
    return BlockScores(block, plain, effects, curves, seconds=seconds)


def _read(store: Store, receipt: Receipt, name: str) -> bytes:
    return read_attempt_file(store, receipt.attempt, name, receipt.files[name])


def _by_ace(scores: BlockScores, store: Store, plan: Plan, receipts: Sequence[Receipt]) -> BlockScores:
    """The paper's own estimate in place of ours, from the sample rows of the same attempts."""
    block = scores.block
    samples: dict[Any, list[SampleRows]] = {}
    for receipt in receipts:
        files = (_read(store, receipt, "samples.arrow"), _read(store, receipt, block.sample_file))
        for group, rows in read_samples(block, plan, *files):
            samples.setdefault(group, []).append(rows)
    ordered = {group: SampleRows.cat(parts).ordered() for group, parts in samples.items()}
    by_ace = {
        group: [_ace_scores(gram_scores, ordered[group], block, index) for index, gram_scores in enumerate(by_target)]
        for group, by_target in scores.scores.items()
    }
    return replace(scores, scores=by_ace)


def _ace_scores(scores: ChannelScores, rows: SampleRows, block: ChannelBlock, target: int) -> ChannelScores:
    """Sample-level ACE of one group: without interval and without bias correction."""
    ok = scores.status == OK
    summed, first = np.full(len(ok), np.nan), np.full(len(ok), np.nan)
    if ok.any():
        components = rows.components[block.layer][:, torch.from_numpy(ok)].numpy()
        estimate = ace(components, rows.targets[:, target].numpy())
        summed[ok], first[ok] = estimate.score, estimate.first_component
    none = np.full(len(ok), np.nan)
    return replace(
        scores,
        score=summed,
        score_squared=summed**2,
        score_low=none,
        score_high=none,
        score_low_given_plan=none,
        score_high_given_plan=none,
        score_in_sample=summed,
        score_first_component=first,
        support=none,
        pseudo=np.full_like(scores.pseudo, np.nan),
        plan_noise=np.full_like(scores.pseudo, np.nan),
    )


def rank_tasks(plan: Plan, blocks: Sequence[BlockScores]) -> list[list[RankInput]]:
    """What is ranked, in the order of rankings.parquet, in batches of about a second's work each; `each_ranked` takes
    the results."""
    batches: list[list[RankInput]] = [[]]
    cost = 0
    for _, _, scores, effects in each_result(plan, blocks):
        has_effect = effects.status == OK
        for ranking in (
            (scores.score_squared, scores.pseudo_of_another, scores.status == OK),
            (scores.score_squared, scores.pseudo, scores.status == OK),
            (effects.effect, effects.pseudo if has_effect.any() else np.empty((0, 0)), has_effect),
        ):
            if cost >= PAIRS_AT_A_TIME:
                batches.append([])
                cost = 0
            batches[-1].append(ranking)
            cost += int(ranking[2].sum()) ** 2
    return batches


def rank_batch(inputs: Sequence[RankInput], threads: int = 1) -> list[Ranks]:
    """One task: ranks and their intervals of some rankings, `threads` of them at a time. One that is the same as the
    one before it is not computed again: so it is with intervals given the plan, where the plan's noise is not known."""
    is_new = [not index or not _are_equal(ranking, inputs[index - 1]) for index, ranking in enumerate(inputs)]
    new = [ranking for ranking, counts in zip(inputs, is_new, strict=True) if counts]
    with one_thread(), ThreadPoolExecutor(threads, "pcace-rank", torch.set_num_threads, (1,)) as pool:
        ranks = list(pool.map(lambda ranking: rank_channels(*ranking), new))
    return [ranks[number - 1] for number in accumulate(is_new)]


def _are_equal(one: RankInput, other: RankInput) -> bool:
    return all(np.array_equal(mine, theirs, equal_nan=True) for mine, theirs in zip(one, other, strict=True))
