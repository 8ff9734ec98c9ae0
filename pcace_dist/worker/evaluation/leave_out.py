"""The ranking that does not know the images of some folds: solved anew from the sums of the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from pcace_dist.artifacts.attempt import BlockPart, ChannelBlock
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.ledger.ledger import Receipt
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import Store
from pcace_dist.worker.reduce import block_parts, score_block


def rank_without(
    store: Store,
    plan: Plan,
    block: ChannelBlock,
    receipts: Sequence[Receipt],
    held_out: Sequence[int],
    *,
    penalty: float,
    memory: int,
) -> BlockScores:
    """Scores of one block from the accepted attempts, as if the held folds' images had not been there.

    The plan alone knows them: its axes and knots come from a pilot of all folds.
    """

    def parts() -> Iterable[BlockPart]:
        return (without_folds(part, held_out) for part in block_parts(store, plan, block, receipts))

    return score_block(plan, block, parts, penalty=penalty, memory=memory)


def without_folds(part: BlockPart, held_out: Sequence[int]) -> BlockPart:
    """A part of the sums without the rows of some folds."""
    codes, rows, gram, effects = part.codes, part.rows, part.gram, part.effects
    if codes is not None:
        ranked = ~torch.isin(rows.folds, torch.tensor(list(held_out), dtype=rows.folds.dtype))
        codes, rows = codes.take(ranked), rows.take(ranked)
    return BlockPart(
        part.group,
        codes,
        rows,
        None if gram is None else gram.without(held_out),
        None if effects is None else effects.without(held_out),
    )
