"""Sums of a block in bounded memory: several passes, slices of targets and codes held back give the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.artifacts.attempt import BlockPart, ChannelBlock
from pcace_dist.datasets.groups import group_order
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.group_accumulator import RowCodes, add_codes
from pcace_dist.statistics.lanes import LANES, LAPACK
from pcace_dist.statistics.plan import LayerCodes, Plan, build_plan
from pcace_dist.statistics.score import ChannelScores, score_channels
from pcace_dist.worker.block_sums import BlockSums

CHANNELS, COMPONENTS, ROWS = 6, 2, 1200
BLOCK = ChannelBlock(0, "layer", 0, CHANNELS)
TARGETS = ("a", "b", "c")
HUGE = 1 << 40


@pytest.fixture(scope="module")
def planned() -> tuple[Plan, LayerCodes, RowCodes, np.ndarray[Any, Any]]:
    """A plan, the codes of all rows, and the group of each: seven of very different sizes and null."""
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(ROWS, CHANNELS, 9, generator=random)
    values = {name: (maps[:, i].mean(1) + maps[:, i, 0]).double().numpy() for i, name in enumerate(TARGETS)}
    plan = build_plan(
        lambda: iter([{"layer": maps}]),
        {"layer": (3, 3)},
        values,
        components=COMPONENTS,
        knots=9,
        folds=8,
        scale="pixel",
        facts={},
    )
    layer = plan.layer("layer")
    codes = layer.encode(*layer.project(maps))
    target_codes, target_fixed = plan.encode_targets(np.stack([values[name] for name in TARGETS], 1))
    folds = torch.arange(ROWS, dtype=torch.uint8) * 7 % 8
    groups = np.searchsorted([500, 800, 950, 1050, 1100, 1150, 1190], np.arange(ROWS), side="right")
    return plan, codes, RowCodes(folds, target_codes, target_fixed), groups


def parts(planned: Any, *, as_grams: bool = False, seed: int = 0) -> Iterator[BlockPart]:
    """The rows in small parts in any order, group by group; every other part as a Gram."""
    plan, codes, rows, groups = planned
    order = np.random.default_rng(seed).permutation(ROWS)
    for number, chunk in enumerate(np.array_split(order, 6)):
        for group in range(8):
            index = torch.from_numpy(chunk[groups[chunk] == group])
            if not len(index):
                continue
            name = None if group == 7 else f"g{group}"
            held, shared = codes.take(index), rows.take(index)
            if as_grams and number % 2:
                gram = add_codes(Gram(CHANNELS, COMPONENTS, len(TARGETS), plan.knots, plan.folds), held, shared)
                yield BlockPart(name, None, rows.take(slice(0, 0)), gram)
            else:
                yield BlockPart(name, held, shared, None)


def scored(planned: Any, sums: BlockSums, **part_options: Any) -> dict[Any, list[ChannelScores]]:
    layer = planned[0].layer("layer")
    by_group = sums.groups(lambda: parts(planned, **part_options))
    return {group: sums.score(group, held, layer, penalty=0.3) for group, held in by_group}


def assert_same(left_groups: dict[Any, list[ChannelScores]], right_groups: dict[Any, list[ChannelScores]]) -> None:
    assert set(left_groups) == set(right_groups)
    for group in left_groups:
        for ours, theirs in zip(left_groups[group], right_groups[group], strict=True):
            for entry in fields(ChannelScores):
                first, second = getattr(ours, entry.name), getattr(theirs, entry.name)
                if isinstance(first, np.ndarray):
                    assert np.array_equal(first, second, equal_nan=first.dtype.kind == "f"), (group, entry.name)


@pytest.mark.parametrize("as_grams", [False, True])
@pytest.mark.parametrize("memory", [0, 8_000, 16_000])
def test_a_small_memory_takes_more_passes_and_gives_the_same_bits(planned: Any, memory: int, as_grams: bool) -> None:
    plan = planned[0]
    ample, tight = BlockSums(plan, BLOCK, memory=HUGE), BlockSums(plan, BLOCK, memory=memory)
    assert_same(scored(planned, ample), scored(planned, tight, as_grams=as_grams, seed=1))
    assert ample.passes == 1 < tight.passes <= 8


def test_every_group_comes_once_and_null_comes_last_of_its_pass(planned: Any) -> None:
    sums = BlockSums(planned[0], BLOCK, memory=HUGE)
    names = [group for group, _ in sums.groups(lambda: parts(planned))]
    assert names == sorted(names, key=group_order) and names[-1] is None and len(names) == 8


def test_targets_in_slices_are_the_targets_at_once(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned[0]
    whole = scored(planned, BlockSums(plan, BLOCK, memory=HUGE), as_grams=True)
    monkeypatch.setattr("pcace_dist.worker.block_sums.TARGET_BYTES", 1)
    assert_same(whole, scored(planned, BlockSums(plan, BLOCK, memory=HUGE), as_grams=True))


def test_codes_that_are_held_back_stay_codes_whatever_their_number(planned: Any) -> None:
    plan = planned[0]
    held_back = BlockSums(plan, BLOCK, memory=HUGE, as_codes=True)
    sizes = {group: sum(one.rows for one in held.codes) for group, held in held_back.groups(lambda: parts(planned))}
    assert sizes["g0"] == 500 and sum(sizes.values()) == ROWS
    again = BlockSums(plan, BLOCK, memory=HUGE, as_codes=True)
    assert_same(scored(planned, again), scored(planned, BlockSums(plan, BLOCK, memory=HUGE)))


def test_what_is_held_stays_within_the_memory_or_one_group(planned: Any) -> None:
    plan = planned[0]
    memory = 60_000
    gram = Gram.packed_bytes(CHANNELS, COMPONENTS, len(TARGETS), plan.knots, plan.folds)
    for group, held in BlockSums(plan, BLOCK, memory=memory).groups(lambda: parts(planned)):
        assert held.nbytes <= max(memory, 2 * gram), group


def test_a_plan_says_what_solves_its_rankings(planned: Any) -> None:
    plan, codes, rows, groups = planned
    in_lanes = replace(plan, facts={"solver": LANES})
    index = torch.from_numpy(np.flatnonzero(groups == 0))
    gram = add_codes(
        Gram(CHANNELS, COMPONENTS, len(TARGETS), plan.knots, plan.folds), codes.take(index), rows.take(index)
    )
    layer = plan.layer("layer")
    for own, solver in ((plan, LAPACK), (in_lanes, LANES)):
        sums = BlockSums(own, BLOCK, memory=HUGE)
        by_group = sums.groups(lambda: parts(planned))
        scores = {group: sums.score(group, held, layer, penalty=0.3) for group, held in by_group}
        expected = score_channels(gram, layer, plan.targets, penalty=0.3, solver=solver)
        for mine, theirs in zip(scores["g0"], expected, strict=True):
            assert np.array_equal(mine.pseudo, theirs.pseudo)
