"""How stable a ranking is said to be, against rankings of planted scores that are drawn anew."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from pcace_dist.analysis.stability import ENOUGH, SMALLER, Level, Stability, parts_of, stability_of

FOLDS, CHANNELS, IMAGES, TOP = 16, 80, 1000, 10


def drawn(rng: np.random.Generator, true: Any, error: float, times: float = 1.0) -> tuple[Any, Any]:
    """Estimates (C,) with such standard errors at IMAGES images, from `times` the images, and pseudo-values (C, F)."""
    pseudo = true[:, None] + rng.normal(size=(len(true), FOLDS)) * error * np.sqrt(FOLDS / times)
    return pseudo.mean(axis=1), pseudo


def found(squared: Any, pseudo: Any, measured: Any = None, plan_noise: Any = None, **more: Any) -> Stability:
    plan_noise = np.full((len(squared), 1), np.nan) if plan_noise is None else plan_noise
    settings = {"top": TOP, "least": 100, "seed": 0} | more
    return stability_of("y", None, IMAGES, squared, pseudo, plan_noise, measured or {}, FOLDS, **settings)


def at(stability: Stability, images: int) -> Level:
    return next(level for level in stability.levels if level.images == images)


@pytest.mark.parametrize("folds", [8, 16, 32])
def test_parts_are_as_large_as_they_say_and_do_not_overlap(folds: int) -> None:
    by_parts = parts_of(folds)
    assert set(by_parts) == {n for n in SMALLER if folds >= 2 * n}
    for n, parts in by_parts.items():
        assert all(len(part) == folds // n for part in parts)
        apart = [pair for pair in combinations(parts, 2) if not set(pair[0]) & set(pair[1])]
        assert len(apart) == (3 if n == 2 else n * (n - 1) // 2)


@pytest.mark.parametrize("error", [0.02, 0.06])
@pytest.mark.parametrize("times", [1, 4])
def test_what_is_expected_is_what_two_new_samples_give(error: float, times: int) -> None:
    rng = np.random.default_rng(7)
    expected, seen = [], []
    for _ in range(8):
        true = rng.normal(0.3, 0.1, CHANNELS)
        level = at(found(*drawn(rng, true, error)), times * IMAGES)
        expected.append((level.spearman_expected, level.overlap_expected))
        for _ in range(20):
            one, other = (drawn(rng, true, error, times)[0] for _ in range(2))
            tops = [set(np.argsort(-scores)[:TOP]) for scores in (one, other)]
            seen.append((spearmanr(one, other).statistic, len(tops[0] & tops[1]) / TOP))
    np.testing.assert_allclose(np.mean(expected, axis=0), np.mean(seen, axis=0), atol=0.05)


@pytest.mark.parametrize("times", [1, 4])
def test_another_pilot_s_part_does_not_fall_with_the_images(times: int) -> None:
    """Every sample has plan noise of its own, of which one number a fold is known."""
    rng, error, plan_error = np.random.default_rng(11), 0.03, 0.05
    expected, seen = [], []
    for _ in range(8):
        true = rng.normal(0.3, 0.1, CHANNELS)
        estimates, pseudo = drawn(rng, true + plan_error * rng.normal(size=CHANNELS), error)
        plan_noise = plan_error * np.sqrt(FOLDS) * rng.normal(size=(CHANNELS, FOLDS))
        level = at(found(estimates, pseudo, plan_noise=plan_noise - plan_noise.mean(1, keepdims=True)), times * IMAGES)
        expected.append((level.spearman_another_pilot, level.overlap_another_pilot))
        assert level.spearman_another_pilot < level.spearman_expected - 0.02
        for _ in range(20):
            pair = [drawn(rng, true + plan_error * rng.normal(size=CHANNELS), error, times)[0] for _ in range(2)]
            tops = [set(np.argsort(-scores)[:TOP]) for scores in pair]
            seen.append((spearmanr(*pair).statistic, len(tops[0] & tops[1]) / TOP))
    np.testing.assert_allclose(np.mean(expected, axis=0), np.mean(seen, axis=0), atol=0.05)


def test_errors_that_channels_share_do_not_change_their_order() -> None:
    """The same noise in all channels moves no rank."""
    rng = np.random.default_rng(3)
    true = np.linspace(0.1, 0.9, CHANNELS)
    shared = true[:, None] + 0.5 * rng.normal(size=FOLDS)
    level = at(found(shared.mean(axis=1), shared), IMAGES)
    assert level.spearman_expected > 0.999 and level.overlap_expected > 0.99


@pytest.mark.parametrize("own", [0.02, 0.05])
def test_what_is_expected_holds_where_errors_are_mostly_shared(own: float) -> None:
    """As large as the scores' own differences: without them taken out, no true difference would be left to expect."""
    rng, shared = np.random.default_rng(13), 0.2
    expected, seen = [], []
    for _ in range(8):
        true = rng.normal(0.3, 0.1, CHANNELS)
        noise = shared * np.sqrt(FOLDS) * rng.normal(size=(1, FOLDS))
        squared, pseudo = drawn(rng, true, own)
        level = at(found(squared + noise.mean(), pseudo + noise), IMAGES)
        expected.append((level.spearman_expected, level.overlap_expected))
        for _ in range(20):
            pair = [drawn(rng, true, own)[0] for _ in range(2)]
            tops = [set(np.argsort(-scores)[:TOP]) for scores in pair]
            seen.append((spearmanr(*pair).statistic, len(tops[0] & tops[1]) / TOP))
    np.testing.assert_allclose(np.mean(expected, axis=0), np.mean(seen, axis=0), atol=0.05)


def test_enough_images_are_enough() -> None:
    rng = np.random.default_rng(5)
    true = rng.normal(0.3, 0.1, CHANNELS)
    enough = found(*drawn(rng, true, 0.05)).enough
    assert enough is not None and enough > IMAGES
    overlaps = []
    for _ in range(200):
        tops = [set(np.argsort(-drawn(rng, true, 0.05, enough / IMAGES)[0])[:TOP]) for _ in range(2)]
        overlaps.append(len(tops[0] & tops[1]) / TOP)
    assert np.mean(overlaps) == pytest.approx(ENOUGH, abs=0.05)


def test_channels_that_are_all_alike_are_never_told_apart() -> None:
    rng = np.random.default_rng(6)
    assert found(*drawn(rng, np.full(CHANNELS, 0.3), 0.05)).enough is None


def test_what_is_measured_is_the_mean_over_disjoint_parts() -> None:
    rng = np.random.default_rng(8)
    true = rng.normal(0.3, 0.1, CHANNELS)
    scores = {part: true + 0.05 * rng.normal(size=CHANNELS) for parts in parts_of(FOLDS).values() for part in parts}
    quarters = parts_of(FOLDS)[4]
    mean = np.mean([spearmanr(scores[a], scores[b]).statistic for a, b in combinations(quarters, 2)])
    assert at(found(*drawn(rng, true, 0.05), scores), IMAGES // 4).spearman == pytest.approx(mean)
    scores[quarters[0]][5] = np.nan  # a part without a score for one channel is left out
    left = np.mean([spearmanr(scores[a], scores[b]).statistic for a, b in combinations(quarters[1:], 2)])
    assert at(found(*drawn(rng, true, 0.05), scores), IMAGES // 4).spearman == pytest.approx(left)


def test_few_images_and_single_channels_say_nothing() -> None:
    rng = np.random.default_rng(9)
    squared, pseudo = drawn(rng, rng.normal(0.3, 0.1, CHANNELS), 0.05)
    stability = found(squared, pseudo, least=600)
    assert np.isnan(at(stability, IMAGES // 2).spearman_expected)
    assert np.isfinite(at(stability, IMAGES).spearman_expected)
    alone = found(squared[:1], pseudo[:1])
    assert alone.enough is None and all(np.isnan(level.spearman_expected) for level in alone.levels)


@pytest.mark.parametrize("channels", [1, 2, TOP])
def test_a_top_of_all_channels_is_in_common_for_no_reason(channels: int) -> None:
    rng = np.random.default_rng(10)
    squared, pseudo = drawn(rng, rng.normal(0.3, 0.1, channels), 0.05)
    scores = {part: squared for parts in parts_of(FOLDS).values() for part in parts}
    stability = found(squared, pseudo, scores)
    assert stability.top == channels and stability.enough is None
    assert all(np.isnan([level.overlap, level.overlap_expected]).all() for level in stability.levels)
