"""Sums of one block of channels, group by group, within a budget of memory.

Parts come in any order from attempts (Grams, codes) or from kept codes. A group is held as codes while these are
smaller than its Gram, then as a Gram. Groups that do not fit into memory wait for another pass over the same parts,
which takes more time and gives the same bits. Knows the statistic only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pcace_dist.artifacts.attempt import BlockPart, ChannelBlock
from pcace_dist.artifacts.plan_metadata import solver_of
from pcace_dist.datasets.groups import group_order, name_of
from pcace_dist.statistics.effects.scores import EffectScores, score_effects
from pcace_dist.statistics.effects.sums import EffectSums, sums_bytes
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.group_accumulator import RowCodes, add_codes, add_effects
from pcace_dist.statistics.plan import LayerCodes, LayerPlan, Plan, TargetPlan
from pcace_dist.statistics.score import ChannelScores, score_channels, scores_of_few_rows

TARGET_BYTES = 256 << 20  # of one Gram's x-y sums: so many targets are solved together


@dataclass
class GroupSums:
    """One group's rows: held as codes, added up in a Gram, or some of both."""

    gram: Gram | None = None
    effects: EffectSums | None = None
    codes: list[LayerCodes] = field(default_factory=list)
    rows: list[RowCodes] = field(default_factory=list)
    code_bytes: int = 0

    @property
    def nbytes(self) -> int:
        return self.code_bytes + sum(sums.nbytes for sums in (self.gram, self.effects) if sums is not None)

    def clear(self) -> None:
        """Lets go of the rows, which may be views of what a whole pass holds."""
        self.gram, self.effects, self.codes, self.rows, self.code_bytes = None, None, [], [], 0

    def fold_rows(self, folds: int) -> npt.NDArray[np.int64]:
        """Rows in each fold: int64 (folds,)."""
        total = np.zeros(folds, np.int64)
        if self.gram is not None:
            total += self.gram.rows.cpu().numpy()
        for part in self.rows:
            total += np.bincount(part.folds.numpy(), minlength=folds)
        return total


def code_row_bytes(plan: Plan, block: ChannelBlock) -> int:
    """Bytes of one row of a block, held as codes."""
    return (block.stop - block.start) * (plan.components + 2 + 2 * plan.effect_targets)


def most_code_rows(plan: Plan, block: ChannelBlock) -> int:
    """With more rows than these, a group's sums of a block are smaller than its codes."""
    return _sums_bytes(plan, block) // code_row_bytes(plan, block)


def _sums_bytes(plan: Plan, block: ChannelBlock) -> int:
    channels = block.stop - block.start
    gram = Gram.packed_bytes(channels, plan.components, len(plan.targets), plan.knots, plan.folds)
    return gram + sums_bytes(channels, plan.effect_targets, plan.folds)


class BlockSums:
    """Everything that is added up for one block under one plan."""

    def __init__(self, plan: Plan, block: ChannelBlock, *, memory: int, as_codes: bool = False) -> None:
        """memory: bytes that all groups together may hold, but at least one group is held. as_codes: groups stay codes
        whatever their size, because their knots are still to be chosen."""
        self._plan = plan
        self._block = block
        self._channels = block.stop - block.start
        self._memory = memory
        self._as_codes = as_codes
        self._gram_bytes = _sums_bytes(plan, block)
        self._spare: Gram | None = None  # in which groups that are held as codes are added up, one after the other
        self.passes = 0

    def groups(self, parts: Callable[[], Iterable[BlockPart]]) -> Iterator[tuple[Any, GroupSums]]:
        """Every group once, with the sums of all its parts; `parts()` is called anew for every pass."""
        done: set[Any] = set()
        incomplete = True
        while incomplete:
            self.passes += 1
            groups, incomplete = self._one_pass(parts(), done)
            for group in sorted(groups, key=group_order):
                done.add(group)
                yield group, groups.pop(group)

    def _one_pass(self, parts: Iterable[BlockPart], done: set[Any]) -> tuple[dict[Any, GroupSums], bool]:
        """Groups that fit, complete; and whether others must wait for another pass."""
        groups: dict[Any, GroupSums] = {}
        postponed: set[Any] = set()
        total = 0
        for part in parts:
            if part.group in done or part.group in postponed:
                continue
            sums = groups.setdefault(part.group, GroupSums())
            total -= sums.nbytes
            self._add(sums, part)
            total += sums.nbytes
            while total > self._memory and len(groups) > 1:
                largest = max(groups, key=lambda group: groups[group].nbytes)
                total -= groups.pop(largest).nbytes
                postponed.add(largest)
        return groups, bool(postponed)

    def _add(self, sums: GroupSums, part: BlockPart) -> None:
        if part.gram is not None:
            sums.gram = part.gram if sums.gram is None else sums.gram.merge([part.gram])
        if part.effects is not None:
            sums.effects = part.effects if sums.effects is None else sums.effects.merge([part.effects])
        if part.codes is None:
            return
        sums.codes.append(part.codes)
        sums.rows.append(part.rows)
        sums.code_bytes += part.codes.nbytes
        if sums.code_bytes >= self._gram_bytes and not self._as_codes:
            sums.gram = self.add_up(sums, slice(0, len(self._plan.targets)))
            self._spare = None  # it is the group's now
            sums.effects = self.add_up_effects(sums)
            sums.codes, sums.rows, sums.code_bytes = [], [], 0

    def add_up(self, sums: GroupSums, targets: slice) -> Gram:
        """The Gram of all of a group's rows for some of the targets.

        For all targets it is the group's own Gram, where there is one; the group's codes are then added to it. Without
        one it stands until the next group is added up.
        """
        all_targets = targets == slice(0, len(self._plan.targets))
        if sums.gram is not None:
            total = sums.gram if all_targets else sums.gram.select_targets(targets)
        else:
            plan = self._plan
            count = len(range(*targets.indices(len(plan.targets))))
            if self._spare is None or self._spare.targets != count:
                self._spare = Gram(self._channels, plan.components, count, plan.knots, plan.folds)
            total = self._spare.clear()
        if sums.codes:
            rows = RowCodes.cat(sums.rows)
            add_codes(total, LayerCodes.cat(sums.codes), rows if all_targets else rows.select_targets(targets))
        return total

    def add_up_effects(self, sums: GroupSums) -> EffectSums | None:
        """The sums of effects of all of a group's rows; None where the plan has none."""
        plan = self._plan
        if not plan.effect_targets:
            return None
        total = sums.effects or EffectSums(self._channels, plan.effect_targets, plan.folds)
        for codes, rows in zip(sums.codes, sums.rows, strict=True):
            add_effects(total, codes, rows)
        return total

    def score_effects(self, group: Any, sums: GroupSums) -> list[EffectScores]:
        """Effects of the block's channels in the ranking of a group, one per target. To be asked before `score`."""
        plan = self._plan
        return score_effects(
            plan.effects,
            self.add_up_effects(sums),
            [target.name for target in plan.targets],
            layer=self._block.layer,
            channels=self._block.channels,
            group=name_of(group),
            images=int(sums.fold_rows(plan.folds).sum()),
            folds=plan.folds,
        )

    def score(
        self,
        group: Any,
        sums: GroupSums,
        layer: LayerPlan,
        *,
        penalty: float,
        targets: Sequence[TargetPlan] | None = None,
    ) -> list[ChannelScores]:
        """Scores of the block's channels in the ranking of a group, one per target. Uses `sums` up.

        `layer` is the plan of these channels; `targets` are the targets' plans where they are not the plan's.
        """
        plans = self._plan.targets if targets is None else targets
        unranked_scores = scores_of_few_rows(
            sums.fold_rows(self._plan.folds), layer, len(plans), knots=self._plan.knots
        )
        if unranked_scores is not None:
            return unranked_scores
        count = len(self._plan.targets)
        scores: list[ChannelScores] = []
        step = max(1, min(count, int(TARGET_BYTES * count // max(1, self._gram_bytes))))
        for start in range(0, count, step):
            chunk = slice(start, min(count, start + step))
            noise = [self._plan_noise(target.name, group) for target in plans[chunk]]
            gram, solver = self.add_up(sums, chunk), solver_of(self._plan)
            scores += score_channels(gram, layer, plans[chunk], penalty=penalty, noise=noise, solver=solver)
        return scores

    def _plan_noise(self, target: str, group: Any) -> npt.NDArray[np.float64] | None:
        """What another pilot would change in the block's scores, (channels, F)."""
        plan, block = self._plan, self._block
        if plan.noise is None:
            return None
        return plan.noise.of(target, block.layer, block.channels, name_of(group), plan.folds)
