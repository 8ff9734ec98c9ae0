"""Who is in the true top: exact cases, planted truth, and how often it is right (marker statistics)."""

from __future__ import annotations

import numpy as np
import pytest

from pcace_dist.statistics.order.membership import DRAWS, InTop, Membership, membership
from tests.statistics.helpers import Array
from tests.statistics.order.top import SETTINGS, Setting, measure

FOLDS = 16
RANGES = ((0, 0.1), (0.05, 0.35), (0.35, 0.65), (0.6, 0.95), (0.9, 1))  # of the share in the truth, by bin


def estimates(truth: Array, noise: float, *, shared: float = 0.0, seed: int = 0) -> tuple[Array, Array]:
    """Estimates (C,) with errors of standard deviation `noise`, and their pseudo-values by fold (C, F)."""
    rng = np.random.default_rng(seed)
    own, common = rng.normal(size=(len(truth), FOLDS)), rng.normal(size=(1, FOLDS))
    errors = noise * np.sqrt(FOLDS) * (np.sqrt(1 - shared) * own + np.sqrt(shared) * common)
    pseudo = truth[:, None] + errors
    return pseudo.mean(axis=1), pseudo


def known(truth: Array, noise: float, top: int, *, plan: float = 0.0, shared: float = 0.0) -> Membership:
    squared, pseudo = estimates(truth, noise, shared=shared)
    residual = plan * np.sqrt(FOLDS) * np.random.default_rng(1).normal(size=pseudo.shape)
    return membership(squared, pseudo, residual - residual.mean(axis=1, keepdims=True), top)


def test_without_noise_the_top_is_sure() -> None:
    found = known(np.linspace(0, 1, 20), 1e-6, 5)
    assert found.in_top.tolist() == [InTop.NO] * 15 + [InTop.SURELY] * 5
    assert found.probability[:15].max() < 0.01 and found.probability[15:].min() > 0.99


def test_probabilities_sum_to_the_size_of_the_top_and_are_the_same_every_time() -> None:
    one, again = (known(np.linspace(0, 1, 40), 0.1, 10) for _ in range(2))
    assert one.probability.sum() == pytest.approx(10)
    assert (one.probability * DRAWS == np.round(one.probability * DRAWS)).all()
    assert one.probability.tolist() == again.probability.tolist() and one.in_top.tolist() == again.in_top.tolist()


def test_a_top_of_all_is_sure() -> None:
    found = known(np.linspace(0, 1, 4), 0.5, 4)
    assert found.probability.tolist() == [1.0] * 4 and set(found.in_top) == {InTop.SURELY}


def test_pairs_at_the_border_are_possible_and_the_rest_is_sure() -> None:
    truth = np.array([0.9, 0.8, 0.5001, 0.5, 0.1, 0.05])
    found = known(truth, 0.005, 3)
    assert found.in_top.tolist() == ["surely", "surely", "possibly", "possibly", "no", "no"]
    assert found.probability[2:4] == pytest.approx([0.5, 0.5], abs=0.45)


def test_what_all_channels_have_in_common_counts_for_nothing() -> None:
    """The same own errors, with a shared part a hundred times larger: channels are seen on the same images."""
    squared, pseudo = estimates(np.linspace(0, 1, 30), 0.02)
    shift = 2 * np.random.default_rng(2).normal(size=(1, FOLDS))
    nothing = np.full_like(pseudo, np.nan)
    alone = membership(squared, pseudo, nothing, 5)
    with_common = membership(squared + shift.mean(), pseudo + shift, nothing, 5)
    assert with_common.probability == pytest.approx(alone.probability, abs=1e-3)


def test_another_pilot_makes_it_less_sure() -> None:
    truth = np.linspace(0, 1, 30)
    given_plan, another = known(truth, 0.01, 10), known(truth, 0.01, 10, plan=0.05)
    surely = [(found.in_top == InTop.SURELY).sum() for found in (given_plan, another)]
    possibly = [(found.in_top != InTop.NO).sum() for found in (given_plan, another)]
    assert surely[0] > surely[1] and possibly[0] < possibly[1]


def test_empty_folds_count_for_nothing() -> None:
    squared, pseudo = estimates(np.linspace(0, 1, 12), 0.05)
    wider = np.concatenate([pseudo, np.full((12, 3), np.nan)], axis=1)
    found, same = (membership(squared, values, np.full_like(values, np.nan), 4) for values in (wider, pseudo))
    assert found.probability.tolist() == same.probability.tolist()


@pytest.mark.parametrize("squared", [np.zeros(6), np.array([0.5, 0.5, 0.5, 0.2, 0.1, 0.1])], ids=["equal", "ties"])
def test_ties_without_noise_are_no_error(squared: Array) -> None:
    found = membership(squared, np.repeat(squared[:, None], 4, axis=1), np.full((6, 4), np.nan), 2)
    assert found.probability.sum() == pytest.approx(2) and np.isfinite(found.probability).all()


# -- how often it is right


@pytest.mark.statistics
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.law}-{setting.channels}-{setting.noise}")
def test_the_sets_hold_and_the_probabilities_are_calibrated(setting: Setting) -> None:
    """80 repetitions: the Monte-Carlo error of 95 % is 2.4 points; of 10 % of the channels in a bin 1 to 5 points."""
    measured = measure(setting, 80)
    assert measured.right_in >= 0.95 - 2 * 0.024
    assert measured.right_out >= 0.85
    assert abs(measured.expected - measured.right) <= 0.12 * setting.top
    for (share, right), (low, high) in zip(measured.bins, RANGES, strict=True):
        if share >= 0.05:
            assert low - 0.03 <= right <= high + 0.03
