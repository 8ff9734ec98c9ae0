"""The rule of `stop`: small exact cases, then how often it is wrong (marker statistics)."""

from __future__ import annotations

import numpy as np
import pytest

from pcace_dist.statistics.order.settled import check_settled, prefixes, spent
from tests.statistics import mnist
from tests.statistics.order.settling import BORDERS, Border, level_of, naive, random_orders, simulate


def test_prefixes_double_from_a_64th_to_all() -> None:
    assert prefixes(640) == [10, 20, 40, 80, 160, 320, 640]
    assert prefixes(64) == [1, 2, 4, 8, 16, 32, 64]
    assert prefixes(100) == [2, 4, 7, 13, 25, 50, 100]
    assert prefixes(3) == [1, 2, 3]
    assert prefixes(1) == [1] and prefixes(0) == []


def test_looks_spend_no_more_than_alpha_together() -> None:
    assert spent(0.05, 6, 6) == 0.025
    assert [spent(0.64, look, 3) for look in (1, 2, 3)] == pytest.approx([0.08, 0.16, 0.32])
    assert all(sum(spent(0.05, look, looks) for look in range(1, looks + 1)) < 0.05 for looks in range(1, 20))


def scores(values: list[float], noise: float, folds: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared scores with pseudo-values around them, whose noise is independent between channels."""
    random = np.random.default_rng(0).standard_normal((len(values), folds))
    squared = np.square(values)
    pseudo = squared[:, None] + noise * (random - random.mean(axis=1, keepdims=True))
    return squared, pseudo, np.ones(len(values), bool)


def test_a_wide_gap_is_settled_and_a_narrow_one_is_open() -> None:
    wide = check_settled(*scores([0.9, 0.8, 0.4, 0.3], 0.1), top=2, level=0.01, tolerance=0)
    assert wide.settled and wide.open_pairs == 0
    narrow = check_settled(*scores([0.9, 0.61, 0.6, 0.3], 0.1), top=2, level=0.01, tolerance=0)
    assert not narrow.settled and narrow.open_pairs == 1
    assert (wide.surely, wide.possibly) == (2, 2)
    assert (narrow.surely, narrow.possibly) == (1, 3)


def test_a_tolerance_settles_ties_once_the_noise_is_below_it() -> None:
    values = [0.9, 0.6, 0.6, 0.3]
    assert not check_settled(*scores(values, 1e-3), top=2, level=0.01, tolerance=0).settled
    assert check_settled(*scores(values, 1e-3), top=2, level=0.01, tolerance=0.01).settled
    assert not check_settled(*scores(values, 0.1), top=2, level=0.01, tolerance=0.01).settled


def test_one_side_of_the_top_needs_no_settling() -> None:
    """Who is first among the top does not matter, nor who is last of all."""
    assert check_settled(*scores([0.9, 0.9, 0.9, 0.2, 0.2], 0.05), top=3, level=0.01, tolerance=0).settled


def test_channels_without_a_score_are_neither_inside_nor_outside() -> None:
    squared, pseudo, ok = scores([0.9, 0.5, 0.49, 0.1], 0.1)
    squared[2], pseudo[2], ok[2] = np.nan, np.nan, False
    assert check_settled(squared, pseudo, ok, top=2, level=0.01, tolerance=0).settled
    assert check_settled(squared, pseudo, ok, top=3, level=0.01, tolerance=0).settled, "no more than three are left"


def test_empty_folds_count_for_nothing_and_a_single_fold_settles_nothing() -> None:
    squared, pseudo, ok = scores([0.9, 0.1], 0.01)
    pseudo[:, 4:] = np.nan
    assert check_settled(squared, pseudo, ok, top=1, level=0.01, tolerance=0).settled
    pseudo[:, 1:] = np.nan
    assert check_settled(squared, pseudo, ok, top=1, level=0.01, tolerance=0).open_pairs == 1


def test_many_channels_are_judged_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked = scores(list(np.linspace(0.9, 0.1, 300)), 0.02)
    whole = check_settled(*ranked, top=50, level=0.01, tolerance=0.01)
    monkeypatch.setattr("pcace_dist.statistics.order.settled._TILE_FLOATS", 1)
    assert check_settled(*ranked, top=50, level=0.01, tolerance=0.01) == whole


# -- how often it is wrong


@pytest.mark.statistics
@pytest.mark.parametrize("border", BORDERS, ids=lambda border: border.name)
def test_at_most_one_stop_in_twenty_is_wrong(border: Border) -> None:
    """2,000 runs: the Monte-Carlo error of 5 % is half a point."""
    assert simulate(border, 2000, level_of).wrong <= 0.05 + 2 * 0.005


@pytest.mark.statistics
def test_naive_looks_would_be_wrong_far_more_often() -> None:
    tied = BORDERS[0]
    by_rule, by_naive = simulate(tied, 2000, level_of), simulate(tied, 2000, naive)
    assert by_rule.wrong <= 0.05 < 0.10 < by_naive.wrong


@pytest.mark.statistics
@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
def test_on_mnist_the_top_ten_are_right_in_95_of_100_orders() -> None:
    orders_right = random_orders(mnist.TRAIN, 200)
    assert orders_right.images == 60_000
    assert orders_right.right >= 0.95
