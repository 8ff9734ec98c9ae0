"""Agreement of two rankings, against values known in closed form and against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcace_dist.analysis.agreement import agreement, rank_biased_overlap

PERMUTATIONS = st.integers(2, 40).flatmap(lambda n: st.permutations(range(n)))


def test_equal_rankings_agree_wholly() -> None:
    scores = np.array([0.9, 0.1, 0.5, 0.3])
    agreed = agreement(scores, scores * 2, top=2)
    assert (agreed.channels, agreed.kendall, agreed.spearman, agreed.overlap) == pytest.approx((4, 1.0, 1.0, 1.0))
    assert agreed.rbo == pytest.approx(1.0)


def test_a_reversed_ranking_disagrees_wholly() -> None:
    scores = np.arange(10.0)
    agreed = agreement(scores, -scores, top=5)
    assert (agreed.kendall, agreed.spearman, agreed.overlap) == pytest.approx((-1.0, -1.0, 0.0))


@settings(deadline=None)  # time is not what is tested
@given(PERMUTATIONS)
def test_kendall_is_concordant_less_discordant_pairs(order: list[int]) -> None:
    scores_a, scores_b = np.arange(len(order), dtype=float), np.array(order, dtype=float)
    pairs = [(i, j) for i in range(len(order)) for j in range(i)]
    signs = [np.sign(scores_a[i] - scores_a[j]) * np.sign(scores_b[i] - scores_b[j]) for i, j in pairs]
    assert agreement(scores_a, scores_b).kendall == pytest.approx(np.mean(signs))


@settings(deadline=None)  # time is not what is tested
@given(PERMUTATIONS, st.floats(0.1, 0.95))
def test_rank_biased_overlap_is_the_weighted_mean_of_the_overlaps(order: list[int], p: float) -> None:
    plain = list(range(len(order)))
    shares = [len(set(plain[:d]) & set(order[:d])) / d for d in range(1, len(order) + 1)]
    weights = [(1 - p) * p ** (d - 1) for d in range(1, len(order) + 1)]
    expected = np.dot(weights, shares) + p ** len(order) * shares[-1]  # what was seen last goes on
    assert rank_biased_overlap(plain, order, persistence=p) == pytest.approx(expected)


def test_rank_biased_overlap_of_lists_without_a_common_entry_is_0() -> None:
    assert rank_biased_overlap([0, 1, 2], [3, 4, 5]) == 0.0


def test_swaps_at_the_top_cost_more_than_swaps_at_the_end() -> None:
    plain = list(range(20))
    at_top, at_end = [1, 0, *plain[2:]], [*plain[:18], 19, 18]
    assert rank_biased_overlap(plain, at_top) < rank_biased_overlap(plain, at_end) < 1


def test_channels_that_are_not_ranked_count_on_neither_side() -> None:
    scores_a = np.array([3.0, 2.0, np.nan, 1.0])
    scores_b = np.array([3.0, np.nan, 2.0, 1.0])
    agreed = agreement(scores_a, scores_b, top=2)
    assert (agreed.channels, agreed.kendall, agreed.overlap) == pytest.approx((2, 1.0, 0.5))


def test_nothing_in_common_is_nan_and_no_error() -> None:
    nothing = np.full(3, np.nan)
    agreed = agreement(nothing, np.arange(3.0))
    assert agreed.channels == 0
    assert np.isnan([agreed.kendall, agreed.spearman, agreed.overlap, agreed.rbo]).all()
