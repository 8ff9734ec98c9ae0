"""The alternatives to the jackknife's correction are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.statistics.small_samples import FOLDS, SECOND_ORDER, Replicates, measure


def test_the_second_order_removes_both_terms_of_the_bias() -> None:
    def expected(share: float) -> float:
        return 0.5 + 3 / (300 * share) + 70 / (300 * share) ** 2

    assert SECOND_ORDER @ [expected(1), expected(15 / 16), expected(1 / 2)] == pytest.approx(0.5)


def test_halves_have_half_of_the_folds() -> None:
    replicates = Replicates(torch.full((FOLDS,), 10))
    assert replicates.n[0] == 160 and set(replicates.n[1:17].tolist()) == {150} and len(replicates.n) == 32
    assert replicates.n[17:].mean() == pytest.approx(80, abs=10)


def test_all_are_near_the_value_in_a_few_samples() -> None:
    candidates = {candidate: values[:, 0].mean() - value for candidate, value, values in measure("a jump, p=1", 8)}
    assert len(candidates) == 4 and np.abs(list(candidates.values())).max() < 0.12
