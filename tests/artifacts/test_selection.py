"""The rows of a selection, group by group, from codes that are read part by part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch

from pcace_dist.artifacts.selection import Selection
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes

KEPT, PART, FOLDS = 500, 64, 4
GROUPS = ["few", "many", None, "some", "nobody"]


@pytest.fixture(scope="module")
def codes() -> LayerCodes:
    """Of every kept row; its first code and mean say which row it is."""
    random = np.random.default_rng(0)
    values = random.integers(0, 249, (KEPT, 3, 2)).astype(np.uint8)
    means, effects = np.arange(KEPT * 3).reshape(KEPT, 3), random.integers(-9, 9, (KEPT, 3, 1))
    return LayerCodes(*(torch.from_numpy(part) for part in (values, means.astype(np.int16), effects.astype(np.int16))))


@pytest.fixture(scope="module", params=[True, False], ids=["every row", "some rows"])
def selection(request: pytest.FixtureRequest) -> Selection:
    random = np.random.default_rng(1)
    positions = np.arange(KEPT) if request.param else np.flatnonzero(random.random(KEPT) < 0.4)
    positions = positions if request.param else positions[(positions < 128) | (positions >= 192)]  # none of a part
    rows, groups = len(positions), random.choice(4, len(positions), p=[0.02, 0.6, 0.18, 0.2])
    of_rows = RowCodes(
        torch.from_numpy(random.integers(0, FOLDS, rows).astype(np.uint8)),
        torch.from_numpy(random.integers(0, 249, (rows, 1)).astype(np.uint8)),
        torch.from_numpy(positions[:, None].astype(np.int16)),
    )
    return Selection(positions, groups.astype(np.int32), pa.array(GROUPS), of_rows)


def read(codes: LayerCodes) -> Iterator[LayerCodes]:
    return (codes.take(slice(first, first + PART)) for first in range(0, KEPT, PART))


@pytest.mark.parametrize("longest", [0, 40, KEPT])
def test_every_row_of_a_batch_is_in_a_part_of_its_group(selection: Selection, codes: LayerCodes, longest: int) -> None:
    batch = np.array([True, True, False, True, True])
    rows_of: dict[object, list[int]] = {}
    for part in selection.parts(read(codes), batch, longest):
        assert part.codes is not None
        rows = part.rows.target_fixed[:, 0].long()  # positions
        for own, kept in zip(part.codes.tensors(), codes.tensors(), strict=True):
            assert torch.equal(own, kept[rows])
        at = np.searchsorted(selection.positions, rows.numpy())
        assert torch.equal(part.rows.folds, selection.rows.folds[at])
        assert torch.equal(part.rows.target_codes, selection.rows.target_codes[at])
        rows_of.setdefault(part.group, []).extend(rows.tolist())
    for index, group in enumerate(GROUPS):
        expected = selection.positions[selection.group_of == index].tolist() if batch[index] else []
        assert sorted(rows_of.get(group, [])) == expected, group


def test_a_group_that_is_gathered_is_one_part_fold_after_fold(selection: Selection, codes: LayerCodes) -> None:
    parts = list(selection.parts(read(codes), np.ones(5, bool), KEPT))
    assert [part.group for part in parts] == GROUPS[:4]
    assert all((part.rows.folds.diff() >= 0).all() for part in parts)


def test_batches_hold_no_more_rows_than_asked_for_but_a_group_at_least(selection: Selection) -> None:
    counts = np.bincount(selection.group_of, minlength=5)
    assert len(selection.batches(KEPT, KEPT)) == 1
    for most, longest in ((0, KEPT), (60, KEPT), (60, 30), (1, 0)):
        batches = selection.batches(most, longest)
        assert np.array_equal(np.sum(batches, axis=0), np.ones(5)), "each group once"
        for batch in batches:
            assert batch.sum() == 1 or np.minimum(counts[batch], longest).sum() <= most
    assert len(selection.batches(1, 0)) == 1, "larger ones are not held"
