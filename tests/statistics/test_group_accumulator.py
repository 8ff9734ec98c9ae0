from __future__ import annotations

import numpy as np
import pytest
import torch

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import code_buffer, group_accumulator
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.group_accumulator import GroupAccumulator, RowCodes
from pcace_dist.statistics.plan import LayerCodes, Plan
from tests.statistics.helpers import codes_of, plan_of

N = 1500


@pytest.fixture(scope="module")
def rows() -> tuple[Plan, LayerCodes, RowCodes]:
    rng = np.random.default_rng(0)
    maps, y = rng.normal(size=(N, 4, 6)), rng.normal(size=N)
    plan = plan_of(maps, {"y": y}, components=2, folds=4)
    return plan, *codes_of(plan, maps, {"y": y}, rng.integers(0, 4, N))


def fill(plan: Plan, own: LayerCodes, shared: RowCodes, cuts: list[int]) -> GroupAccumulator:
    group = GroupAccumulator(plan)
    for start, stop in zip([0, *cuts], [*cuts, N], strict=True):
        part, row = own.take(slice(start, stop)), shared.take(slice(start, stop))
        group.append({"layer": part}, row.target_codes, row.target_fixed, row.folds)
    return group


def whole(plan: Plan, own: LayerCodes, shared: RowCodes) -> Gram:
    gram = Gram(own.codes.shape[1], 2, 1, 9, 4)
    return group_accumulator.add_codes(gram, own, shared)


@pytest.mark.parametrize("cuts", [[], [1], [350], [0, 100, 100, 101, 1200], list(range(10, N, 10))])
def test_total_equals_the_gram_however_rows_are_split(rows: tuple[Plan, LayerCodes, RowCodes], cuts: list[int]) -> None:
    plan, own, shared = rows
    group = fill(plan, own, shared, cuts)
    assert group.images == N
    assert group.total("layer").to_bytes() == whole(*rows).to_bytes()


def test_codes_become_a_gram_when_they_outgrow_it(rows: tuple[Plan, LayerCodes, RowCodes]) -> None:
    plan, own, shared = rows
    limit = group_accumulator.gram_bytes(plan) / group_accumulator.row_bytes(plan)
    assert 50 < limit < N
    group = GroupAccumulator(plan)
    for row in range(N):
        part, line = own.take(slice(row, row + 1)), shared.take(slice(row, row + 1))
        group.append({"layer": part}, line.target_codes, line.target_fixed, line.folds)
        assert (group.gram("layer") is not None) == (row + 1 >= limit)
    gram = group.gram("layer")
    assert gram is not None and gram.images + group.rows.rows == N
    assert group.nbytes == group_accumulator.gram_bytes(plan) + group.rows.rows * group_accumulator.row_bytes(plan)


@pytest.mark.parametrize("chunks_from", [1 << 30, 0])
def test_rows_are_folded_some_at_a_time(
    rows: tuple[Plan, LayerCodes, RowCodes], chunks_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, own, shared = rows
    added: list[tuple[int, int]] = []
    add = group_accumulator.add_codes

    def counting(gram: Gram, codes: LayerCodes, common: RowCodes, channels: slice | None = None) -> Gram:
        if channels is not None:
            added.append((channels.start, codes.rows))
        return add(gram, codes, common, channels)

    monkeypatch.setattr(code_buffer, "CHUNK_ROWS", 40)
    monkeypatch.setattr(code_buffer, "CHUNKS_FROM", chunks_from)
    monkeypatch.setattr(code_buffer, "BLOCK_CHANNELS", 3)
    monkeypatch.setattr(group_accumulator, "add_codes", counting)
    limit = -(-group_accumulator.gram_bytes(plan) // group_accumulator.row_bytes(plan))
    group = GroupAccumulator(plan)
    for row in range(limit):
        line = shared.take(slice(row, row + 1))
        group.append({"layer": own.take(slice(row, row + 1))}, line.target_codes, line.target_fixed, line.folds)
    assert group.gram("layer") is not None and group.codes("layer") is None
    assert group.nbytes == group_accumulator.gram_bytes(plan)
    for first in (0, 3) if chunks_from == 0 else (0,):  # as they came: a layer at once
        counts = [count for start, count in added if start == first]
        assert sum(counts) == limit and all(20 <= count <= 60 for count in counts)
    rest = shared.take(slice(limit, N))
    folded = group_accumulator.add_codes(Gram(4, 2, 1, 9, 4), own.take(slice(0, limit)), shared.take(slice(0, limit)))
    assert group.total("layer").to_bytes() == folded.to_bytes()
    group.append({"layer": own.take(slice(limit, N))}, rest.target_codes, rest.target_fixed, rest.folds)
    assert group.total("layer").to_bytes() == whole(*rows).to_bytes()


def test_a_small_group_stays_codes(rows: tuple[Plan, LayerCodes, RowCodes]) -> None:
    plan, own, shared = rows
    few = shared.take(slice(0, 20))
    group = GroupAccumulator(plan).append(
        {"layer": own.take(slice(0, 20))}, few.target_codes, few.target_fixed, few.folds
    )
    codes = group.codes("layer")
    assert group.gram("layer") is None and codes is not None
    assert torch.equal(codes.codes, own.codes[:20]) and torch.equal(group.rows.folds, shared.folds[:20])
    assert group.nbytes == 20 * (4 * (2 + 2) + 3 + 1) == codes.nbytes + 20 * 4


def test_layers_must_be_those_of_the_plan(rows: tuple[Plan, LayerCodes, RowCodes]) -> None:
    plan, own, shared = rows
    with pytest.raises(StatisticsError, match="layers"):
        GroupAccumulator(plan).append({"other": own}, shared.target_codes, shared.target_fixed, shared.folds)
    with pytest.raises(StatisticsError, match="rows"):
        GroupAccumulator(plan).append(
            {"layer": own.take(slice(1, N))}, shared.target_codes, shared.target_fixed, shared.folds
        )


def test_an_empty_group_has_no_rows(rows: tuple[Plan, LayerCodes, RowCodes]) -> None:
    group = GroupAccumulator(rows[0])
    assert group.rows.rows == 0 and group.nbytes == 0 and group.total("layer").images == 0
