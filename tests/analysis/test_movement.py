"""Differences of scores between two runs: paired, unpaired, with other plans, with dead channels; false discoveries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from pcace_dist.analysis.movement import Side, difference, false_discovery

FOLDS = 16


def side(squared: npt.NDArray[np.float64], noise: npt.NDArray[np.float64], **more: object) -> Side:
    """A side whose pseudo-values are `noise` (C, F) about the scores."""
    centred = noise - noise.mean(axis=1, keepdims=True)
    count = len(squared)
    settings = {"images": np.full(count, 1000), "dead": np.zeros(count, dtype=bool)} | more
    return Side(squared=squared, pseudo=squared[:, None] + centred, **settings)  # type: ignore[arg-type]


def test_unpaired_is_welchs_statistic_with_the_degrees_of_freedom_of_one_side() -> None:
    rng = np.random.default_rng(0)
    side_a = side(np.array([0.3, 0.5]), rng.standard_normal((2, FOLDS)))
    side_b = side(np.array([0.9, 0.4]), 3 * rng.standard_normal((2, FOLDS)))
    moved = difference(side_a, side_b, paired=False)
    expected = stats.ttest_ind(side_b.pseudo, side_a.pseudo, axis=1, equal_var=False)
    assert moved.p_value == pytest.approx(2 * stats.t.sf(np.abs(expected.statistic), FOLDS - 1))
    assert moved.change == pytest.approx([0.6, -0.1])


def test_paired_is_the_t_test_of_the_differences() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((2, FOLDS))
    side_a = side(np.array([0.3, 0.5]), noise)
    side_b = side(np.array([0.35, 0.5]), noise + 0.1 * rng.standard_normal((2, FOLDS)))
    moved = difference(side_a, side_b, paired=True)
    expected = stats.ttest_rel(side_b.pseudo, side_a.pseudo, axis=1)
    assert moved.p_value == pytest.approx(np.asarray(expected.pvalue))
    assert (moved.error < 0.2 * difference(side_a, side_b, paired=False).error).all(), "what the folds share cancels"


def test_the_same_run_twice_has_not_moved() -> None:
    side_a = side(np.array([0.3, 0.5]), np.random.default_rng(2).standard_normal((2, FOLDS)))
    for paired in (True, False):
        moved = difference(side_a, side_a, paired=paired)
        assert (moved.change == 0).all() and (moved.p_value == 1).all()


def test_other_pilots_add_the_sampling_error_of_a_pilot() -> None:
    noise = np.random.default_rng(3).standard_normal((1, FOLDS))
    plain = side(np.array([0.3]), noise)
    with_plan = side(np.array([0.3]), noise, pilot=500)
    side_b = side(np.array([0.5]), noise)
    without = difference(plain, side_b, paired=False).error ** 2
    added = difference(with_plan, side_b, paired=False).error ** 2
    own = np.var(noise, ddof=1) / FOLDS
    assert added - without == pytest.approx([own * 1000 / 500])


def test_where_axes_hardly_turn_only_the_pilots_size_is_known() -> None:
    noise = np.random.default_rng(8).standard_normal((2, FOLDS))
    axes = np.array([[0.1], [1.0]]) * noise  # variances 0.01 and 1 of the images', which is half of the pilot's
    known, unknown = (
        side(np.full(2, 0.3), noise, pilot=500, plan_noise=own) for own in (axes, np.full_like(axes, np.nan))
    )
    assert known.pilot_alone.tolist() == [True, False]
    assert unknown.pilot_alone.all() and not side(np.full(2, 0.3), noise, plan_noise=axes).pilot_alone.any()


def test_a_channel_that_died_is_judged_against_0() -> None:
    noise = 0.01 * np.random.default_rng(4).standard_normal((2, FOLDS))
    side_a = side(np.array([0.5, 0.0001]), noise)
    dead = side(np.full(2, np.nan), np.full((2, FOLDS), np.nan), dead=np.ones(2, dtype=bool))
    for paired in (True, False):
        moved = difference(side_a, dead, paired=paired)
        assert moved.change == pytest.approx([-0.5, -0.0001])
        assert moved.p_value[0] < 1e-6 < 0.5 < moved.p_value[1]
        both = difference(dead, dead, paired=paired)
        assert (both.p_value == 1).all()


def test_a_channel_without_a_score_is_not_judged() -> None:
    noise = np.random.default_rng(5).standard_normal((1, FOLDS))
    unknown = side(np.array([np.nan]), np.full((1, FOLDS), np.nan))
    moved = difference(side(np.array([0.4]), noise), unknown, paired=False)
    assert np.isnan(moved.p_value).all() and np.isnan(moved.change).all()


def test_empty_folds_are_left_out() -> None:
    rng = np.random.default_rng(6)
    noise = rng.standard_normal((1, FOLDS))
    side_a, side_b = side(np.array([0.3]), noise), side(np.array([0.6]), rng.standard_normal((1, FOLDS)))
    side_a.pseudo[:, 3] = side_b.pseudo[:, 3] = np.nan
    folds_left = np.arange(FOLDS) != 3
    moved = difference(side_a, side_b, paired=True)
    expected = stats.ttest_1samp(
        (side_b.pseudo - side_a.pseudo)[0, folds_left] - (side_b.pseudo - side_a.pseudo)[0, folds_left].mean(),
        -moved.change[0],
    )
    assert moved.p_value[0] == pytest.approx(expected.pvalue)


def test_false_discovery_is_benjamini_and_hochbergs() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    q = false_discovery(p)
    assert q[np.isfinite(p)] == pytest.approx(stats.false_discovery_control(p[np.isfinite(p)]))
    assert np.isnan(q[1])


def test_where_nothing_moved_a_discovery_is_made_in_5_percent_of_the_pairs() -> None:
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(400):
        values = rng.standard_normal((2, 60, FOLDS))
        side_a, side_b = (Side(v.mean(axis=1), v, np.full(60, 1000), np.zeros(60, dtype=bool)) for v in values)
        q = false_discovery(difference(side_a, side_b, paired=False).p_value)
        alarms += bool((q <= 0.05).any())
    assert alarms <= 400 * 0.05 + 2 * np.sqrt(400 * 0.05 * 0.95)
