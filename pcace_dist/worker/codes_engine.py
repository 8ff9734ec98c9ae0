"""A worker that ranks from kept codes: no model, no images, one block of channels at a time.

Knows the store, the codes and the statistic, not Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from pcace_dist.artifacts.attempt import BlockPart, ChannelBlock, read_attempt_file
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.codes.stored import open_codes
from pcace_dist.artifacts.selection import SELECTION_FILE, Groups, Selection
from pcace_dist.errors import OutputError
from pcace_dist.ledger.ledger import Receipt
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.statistics.recode import LEVELS, Recoding, histograms, refit
from pcace_dist.storage.store import Store
from pcace_dist.worker.block_sums import BlockSums, GroupSums, code_row_bytes, most_code_rows
from pcace_dist.worker.memory import memory_of
from pcace_dist.worker.reduce import score_block
from pcace_dist.worker.spec import CodesSpec


class CodesEngine:
    """Opens the kept codes once. `count` and `reduce` may then be called any number of times."""

    def __init__(self, spec: CodesSpec, store: Store) -> None:
        kept_codes = open_codes(spec.codes, spec.storage)
        if kept_codes is None:
            raise OutputError(f"{spec.codes}: its kept codes are gone")
        self._kept_codes = kept_codes
        self._spec = spec
        self._store = store
        self._memory = memory_of(spec)
        self._selections: dict[str, Selection] = {}
        self.weights = kept_codes.index.weights

    def count(self, block: ChannelBlock, receipt: Receipt) -> Tensor:
        """How often each code occurs in the selected rows: int64 (channels, p, 256)."""
        total = torch.zeros(block.stop - block.start, self._kept_codes.plan.components, LEVELS, dtype=torch.int64)
        kept = (self._asked(part, None) for part in self._kept_codes.read_block(block))
        for _, codes in self._selection(receipt).selected(kept):
            total += histograms(codes.codes)
        return total

    def reduce(self, plan: Plan, block: ChannelBlock, receipt: Receipt) -> BlockScores:
        """Add up and score one block of the selected rows, group by group."""
        if self._spec.statistics.knots_from == "group":
            return self._reduce_by_own_knots(plan, block, receipt)
        recode, longest = self._recoding(plan, block), most_code_rows(plan, block)
        parts = self._passes(plan, block, receipt, longest, lambda codes: replace(codes, codes=recode(codes.codes)))
        return score_block(plan, block, *parts, penalty=self._spec.statistics.penalty, memory=self._memory)

    def _reduce_by_own_knots(self, plan: Plan, block: ChannelBlock, receipt: Receipt) -> BlockScores:
        """Each group on knots at the quantiles of its own rows."""
        kept_layer = self._kept_codes.plan.layer(block.layer).block(block.channels).first_components(plan.components)
        sums = BlockSums(plan, block, memory=self._memory, as_codes=True)
        scores, effects = {}, {}
        parts = self._passes(plan, block, receipt, self._kept_codes.index.rows, lambda codes: codes)
        for group, group_sums in chain.from_iterable(sums.groups(of_pass) for of_pass in parts):
            effects[group] = sums.score_effects(group, group_sums)  # knots make no difference to them
            rows = RowCodes.cat(group_sums.rows)
            layer, targets, codes, rows = refit(
                kept_layer, plan.targets, LayerCodes.cat(group_sums.codes), rows, plan.knots, plan.tails
            )
            refitted = GroupSums(codes=[codes], rows=[rows])
            by_target = sums.score(group, refitted, layer, penalty=self._spec.statistics.penalty, targets=targets)
            scores[group] = [scored.without_transforms() for scored in by_target]  # no other group has their knots
            group_sums.clear()  # before the next pass fills its memory
        return BlockScores(block, scores, effects)

    def _recoding(self, plan: Plan, block: ChannelBlock) -> Callable[[Tensor], Tensor]:
        """From the kept codes to the codes on the plan's knots."""
        kept_knots = self._kept_codes.plan.layer(block.layer).knots[block.channels, : plan.components]
        plan_knots = plan.layer(block.layer).knots[block.channels]
        return (
            (lambda codes: codes) if torch.equal(kept_knots, plan_knots) else Recoding.between(kept_knots, plan_knots)
        )

    def _passes(
        self,
        plan: Plan,
        block: ChannelBlock,
        receipt: Receipt,
        longest: int,
        change: Callable[[LayerCodes], LayerCodes],
    ) -> list[Callable[[], Iterator[BlockPart]]]:
        """The selected rows of a block: their parts in every pass over the codes, each for groups that fit into memory.
        longest: rows of a group up to which it is held as codes; change: of the codes that are read."""
        selection = self._selection(receipt)

        def parts(batch: Groups) -> Iterator[BlockPart]:
            kept = (change(self._asked(part, plan)) for part in self._kept_codes.read_block(block))
            return selection.parts(kept, batch, longest)

        most = self._memory // code_row_bytes(plan, block)
        return [partial(parts, batch) for batch in selection.batches(most, longest)]

    def _asked(self, codes: LayerCodes, plan: Plan | None) -> LayerCodes:
        """The first components, and l of the targets with effects: those of the plan, none where there is no plan."""
        kept = self._kept_codes.plan.effects
        if plan is None or plan.effects is None or kept is None or codes.effects is None:
            components = self._kept_codes.plan.components if plan is None else plan.components
            return LayerCodes(codes.codes[:, :, :components], codes.means)
        effects = codes.effects[:, :, kept.numbers_of(plan.effects)]
        return LayerCodes(codes.codes[:, :, : plan.components], codes.means, effects if plan.effect_targets else None)

    def _selection(self, receipt: Receipt) -> Selection:
        if receipt.attempt not in self._selections:
            data = read_attempt_file(self._store, receipt.attempt, SELECTION_FILE, receipt.files[SELECTION_FILE])
            self._selections[receipt.attempt] = Selection.from_bytes(data)
        return self._selections[receipt.attempt]
