"""Sample rows come out in one order, however they were sharded."""

from __future__ import annotations

import pytest
import torch

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.samples import SampleRows, row_key


def rows(count: int) -> SampleRows:
    generator = torch.Generator().manual_seed(0)
    keys = torch.tensor([row_key(f"a.parquet#{i}") for i in range(count)])
    targets = torch.randn(count, 2, dtype=torch.float64, generator=generator)
    return SampleRows(keys, targets, {"conv": torch.randn(count, 3, 4, generator=generator)})


def test_order_does_not_depend_on_the_partition() -> None:
    whole = rows(20)
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    parts = [whole.take(shuffled[:7]), whole.take(shuffled[7:8]), whole.take(shuffled[8:])]
    at_once, from_parts = whole.ordered(), SampleRows.cat(parts).ordered()
    assert torch.equal(at_once.keys, from_parts.keys)
    assert torch.equal(at_once.targets, from_parts.targets)
    assert torch.equal(at_once.components["conv"], from_parts.components["conv"])


def test_a_row_that_comes_twice_is_refused() -> None:
    with pytest.raises(StatisticsError, match="twice"):
        SampleRows.cat([rows(3), rows(2)]).ordered()


def test_row_keys_are_fixed_64_bit_numbers() -> None:
    assert row_key("a.parquet#0") == row_key("a.parquet#0") != row_key("a.parquet#1")
    assert -(2**63) <= row_key("x") < 2**63
