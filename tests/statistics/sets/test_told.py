from __future__ import annotations

import numpy as np
import pytest

from pcace_dist.statistics.sets.told import telling_order
from tests.statistics.sets.laws import Floats, best_subset, hats, told_by, told_of_rows

N, K = 3000, 9


def covariance_of(y: Floats, parts: Floats) -> Floats:
    return np.cov(np.column_stack([hats(y, K), parts]).T, bias=True)


def test_two_independent_parts_of_a_normal_output_are_in_closed_form() -> None:
    """y = a + 2 b + noise of variance 5: a tells 1/10, b 4/10, both together 5/10."""
    random = np.random.default_rng(0)
    a, b, noise = random.normal(size=(3, 200_000))
    covariance = covariance_of(a + 2 * b + np.sqrt(5) * noise, np.stack([a, b], 1))
    order = telling_order(covariance, K, 2)
    assert order.tolist() == [1, 0]
    assert np.allclose(told_by(covariance, K, order), [0.4, 0.5], atol=0.01)


def test_of_copies_one_is_chosen_and_the_other_never() -> None:
    random = np.random.default_rng(1)
    strong, weak, noise = random.normal(size=(3, N))
    covariance = covariance_of(2 * strong + weak + noise, np.stack([strong, strong, weak], 1))
    order = telling_order(covariance, K, 3)
    assert order.tolist() == [0, 2]


def test_a_team_tells_more_than_its_members() -> None:
    random = np.random.default_rng(2)
    signal, mask, other = random.normal(size=(3, N))
    parts = np.stack([0.8 * signal + other, signal + 3 * mask, mask], 1)
    covariance = covariance_of(signal, parts)
    assert told_by(covariance, K, np.array([1]))[0] < 0.15 and told_by(covariance, K, np.array([2]))[0] < 0.05
    assert told_by(covariance, K, np.array([1, 2]))[1] > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_what_a_set_tells_is_that_of_its_rows_and_greedy_is_near_the_best_of_all_subsets(seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = random.normal(size=(N, 3)) @ random.normal(size=(3, 6)) + random.normal(size=(N, 6))
    y = np.tanh(parts @ random.normal(size=6) / 3) + random.normal(size=N) / 2
    covariance = covariance_of(y, parts)
    order = telling_order(covariance, K, 6)
    told = told_by(covariance, K, order)
    for size in range(1, 7):
        # the constant's direction carries the solver's ridge
        assert told[size - 1] == pytest.approx(told_of_rows(hats(y, K), parts[:, order[:size]]), abs=1e-6)
        best, _ = best_subset(6, size, lambda chosen: told_of_rows(hats(y, K), parts[:, list(chosen)]))
        assert best - 0.05 < told[size - 1] < best + 1e-6


def test_channels_that_do_not_vary_are_left_out() -> None:
    random = np.random.default_rng(3)
    signal = random.normal(size=N)
    covariance = covariance_of(signal, np.stack([np.zeros(N), signal], 1))
    assert telling_order(covariance, K, 2).tolist() == [1]
    assert telling_order(np.zeros((K + 1, K + 1)), K, 1).tolist() == []
