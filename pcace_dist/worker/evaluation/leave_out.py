"""The ranking that does not know the images of some folds: solved anew from the sums of the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from pcace_dist.artifacts.attempt import BlockPart, ChannelBlock, read_attempt_file, read_block, read_rows
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.ledger.ledger import Receipt
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import Store
from pcace_dist.worker.reduce import score_block


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
    with_block = [receipt for receipt in receipts if block.file in receipt.files]

    def parts() -> Iterable[BlockPart]:
        for receipt in with_block:
            rows, data = (
                read_attempt_file(store, receipt.attempt, name, receipt.files[name])
                for name in ("rows.arrow", block.file)
            )
            for part in read_block(block, plan.components, data, *read_rows(rows)):
                yield without_folds(part, held_out)

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
        None if gram is None else gram_without(gram, held_out),
        None if effects is None else effects.without(held_out),
    )


def gram_without(gram: Gram, held_out: Sequence[int]) -> Gram:
    """A copy whose sums by fold are 0 for some folds.

    Sums that are not kept by fold (for Pearson's correlation and mean activations) are 0 altogether.
    """
    ranked = gram.copy()
    folds = list(held_out)
    for total in (ranked.mean_sum, ranked.mean_square, ranked.mean_target, ranked.target_sum, ranked.target_square):
        total.zero_()
    ranked.rows[folds] = 0
    ranked.xx[:, folds] = 0
    ranked.xy[:, :, folds] = 0
    ranked.yy[:, folds] = 0
    return ranked
