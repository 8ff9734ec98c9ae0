from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from ace.ace import ACESolver

from pcace_dist.artifacts.rankings import SMALL_SUPPORT
from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.order.ranks import rank_channels
from pcace_dist.statistics.score import (
    BIAS_ERROR,
    CONSTANT,
    OK,
    TOO_FEW_IMAGES,
    ChannelScores,
    jackknife,
    most_components,
    required_images,
    score_channels,
    scores_of_few_rows,
    settings_for,
)
from tests.statistics.helpers import Array, gram_of, hat_table, identity_plan, plan_of, scores_of, times

FIELDS = (
    "score",
    "score_squared",
    "score_low",
    "score_high",
    "score_in_sample",
    "score_first_component",
    "pearson",
    "mean_activation",
    "activation_variance",
    "clamped",
    "support",
)


def one_channel(x: Array, y: Array, *, penalty: float = 0.3, seed: int = 0) -> ChannelScores:
    values = np.asarray(x, dtype=np.float64).reshape(len(y), 1, -1)
    folds = np.random.default_rng(seed).integers(0, 16, len(y))
    return scores_of(identity_plan(values, {"y": y}), values, y, folds, penalty=penalty)


def covers(scores: ChannelScores, value: float, slack: float = 0.0) -> bool:
    return bool(scores.score_low[0] - slack <= value <= scores.score_high[0] + slack)


def assert_sound(scores: ChannelScores) -> None:
    """Finite where ok, NaN elsewhere, intervals around the score."""
    ok = scores.status == OK
    for name in FIELDS:
        assert np.isfinite(getattr(scores, name)[ok]).all(), name
        assert np.isnan(getattr(scores, name)[~ok]).all(), name
    assert (scores.score_low[ok] <= scores.score[ok]).all() and (scores.score[ok] <= scores.score_high[ok]).all()
    assert (scores.score[ok] >= 0).all() and (scores.score_high[ok] <= 1).all()


# Known answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [-0.9, -0.5, 0.3, 0.7])
def test_bivariate_normal_scores_the_absolute_correlation(rho: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=4000)
    y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=4000)
    scores = one_channel(x, y)
    assert covers(scores, abs(rho), slack=0.005)  # nine knots cost up to 0.005
    assert scores.pearson[0] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-3)
    assert scores.score_first_component[0] == pytest.approx(scores.score_in_sample[0], abs=1e-9)


@pytest.mark.parametrize(("m", "n"), [(1, 2), (1, 4), (2, 3), (3, 5)])
def test_partial_sums_score_the_root_of_the_ratio(m: int, n: int) -> None:
    terms = np.random.default_rng(2).exponential(size=(20_000, n))
    scores = one_channel(terms[:, :m].sum(axis=1), terms.sum(axis=1))
    assert covers(scores, float(np.sqrt(m / n)), slack=0.01)


def test_two_binary_variables_score_phi() -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2, 3000).astype(float)
    y = np.where(rng.random(3000) < 0.7, x, 1 - x)
    scores = one_channel(x, y)
    assert scores.score_in_sample[0] == pytest.approx(abs(np.corrcoef(x, y)[0, 1]), abs=1e-6)
    assert covers(scores, 0.4)


CURVES: dict[str, Callable[[Array], Array]] = {
    "square": lambda x: x**2,
    "sin": lambda x: 2 * np.sin(2 * x),
    "threshold": lambda x: 3.0 * (x > 0.5),
}


@pytest.mark.parametrize("curve", list(CURVES))
def test_curves_score_the_value_of_the_same_knots_at_large_n(curve: str) -> None:
    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        x = rng.normal(size=n)
        return x.reshape(-1, 1, 1), CURVES[curve](x) + rng.normal(size=n)

    rng = np.random.default_rng(4)
    x, y = draw(rng, 2048)
    plan = identity_plan(x, {"y": y})
    x, y = draw(rng, 200_000)
    value = scores_of(plan, x, y, np.arange(200_000) % 16).score[0]
    assert value > 0.6
    inside = []
    for _ in range(12):
        x, y = draw(rng, 1000)
        inside.append(covers(scores_of(plan, x, y, rng.integers(0, 16, 1000)), value))
    assert np.mean(inside) >= 0.8


def test_independent_data_have_zero_in_the_interval() -> None:
    rng = np.random.default_rng(5)
    inside, in_sample = [], []
    for _ in range(12):
        maps, y = rng.normal(size=(300, 48, 5)), rng.normal(size=300)
        scores = scores_of(plan_of(maps, {"y": y}), maps, y, rng.integers(0, 16, 300))
        assert_sound(scores)
        inside.append((scores.score_low == 0).mean())
        in_sample.append(scores.score_in_sample.mean())
    assert np.mean(inside) >= 0.93
    assert np.mean(in_sample) > 0.35  # what an uncorrected score would report


def ace_correlation(x: Array, y: Array) -> float:
    """Friedman's ACE by the package `ace`: correlation of theta(y) with the sum of the phi."""
    solver = ACESolver()
    solver.specify_data_set([list(column) for column in x.T], list(y))
    solver.solve()
    return float(np.corrcoef(solver.y_transform, np.sum(solver.x_transforms, axis=0))[0, 1])


def test_in_sample_score_is_near_that_of_sample_level_ace() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(600, 2))
    noise = 0.5 * rng.normal(size=600)
    for y in (x[:, 0] ** 2 + np.sin(2 * x[:, 1]) + noise, np.exp(0.7 * x[:, 0] + 0.25 * x[:, 1] ** 2 + noise)):
        assert one_channel(x, y).score_in_sample[0] == pytest.approx(ace_correlation(x, y), abs=0.03)


# The jackknife ------------------------------------------------------------------------------------------------------


def test_replicates_are_those_of_the_rows_without_the_fold() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(600, 3, 2)), rng.normal(size=600)
    y += x[:, 0, 0]
    folds = rng.integers(0, 4, 600)
    plan = identity_plan(x, {"y": y}, folds=4)
    scores = scores_of(plan, x, y, folds)
    without = []
    for fold in range(4):
        rows_left = folds != fold
        refolded = np.arange(rows_left.sum()) % 4
        part = scores_of(plan, x[rows_left], y[rows_left], refolded, penalty=0.3 * rows_left.sum() / 600)
        without.append(part.score_in_sample**2)
    expected = jackknife(scores.score_in_sample**2, np.stack(without, axis=1), np.bincount(folds))
    assert np.allclose(scores.score_squared, expected.estimate, atol=1e-9)
    assert np.allclose(scores.pseudo, expected.pseudo, atol=1e-8)


def test_jackknife_of_a_mean_is_the_mean_whatever_the_folds_sizes() -> None:
    rng = np.random.default_rng(8)
    rows = np.array([5, 20, 80, 41, 54])
    values = np.split(rng.normal(size=200), np.cumsum(rows)[:-1])
    full = np.array([np.concatenate(values).mean()])
    without = np.array([[np.concatenate(values[:f] + values[f + 1 :]).mean() for f in range(5)]])
    estimate = jackknife(full, without, rows)
    assert estimate.estimate[0] == pytest.approx(full[0])
    assert estimate.residual.shape == (1, 5)
    plain = jackknife(full, without, np.full(5, 40))
    pseudo = 5 * full[:, None] - 4 * without
    assert plain.estimate[0] == pytest.approx(pseudo.mean())
    assert plain.error[0] == pytest.approx(pseudo.std(ddof=1) / np.sqrt(5), rel=1e-3), "hardly any bias"


def test_jackknife_removes_a_bias_of_order_one_over_n() -> None:
    rows = np.array([30, 70, 100, 50])
    n = rows.sum()
    estimate = jackknife(np.array([0.5 + 3 / n]), (0.5 + 3 / (n - rows))[None, :], rows)
    assert estimate.estimate[0] == pytest.approx(0.5, abs=1e-12)


def test_intervals_and_pseudo_values_hold_the_error_of_the_bias_correction() -> None:
    """A closed form: r^2 of an estimate with a known jackknife error, and a correction of 0.08."""
    rows = np.full(16, 25)
    apart = np.where(np.arange(16) % 2 == 0, 1.0, -1.0) * 0.004
    full, estimate = 0.68, 0.60
    without = (full + (full - estimate) / 15 + apart)[None, :]
    result = jackknife(np.array([full]), without, rows)
    plain = 15 / 16 * np.square(apart).sum()
    error = np.sqrt(plain + (BIAS_ERROR * (1 + estimate) * (full - estimate)) ** 2)
    assert result.estimate[0] == pytest.approx(estimate) and result.error[0] == pytest.approx(error)
    assert result.pseudo.mean() == pytest.approx(estimate)
    assert result.pseudo.std(ddof=1) / 4 == pytest.approx(error)
    assert np.allclose(result.interval(), [[estimate - 2.13145 * error], [estimate + 2.13145 * error]], atol=1e-5)


def test_the_interval_is_that_of_the_pseudo_values() -> None:
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(500, 4, 3)), rng.normal(size=500)
    y += 2 * x[:, 0, 0]
    folds = rng.choice(16, size=500, p=np.arange(1, 17) / 136)
    scores = scores_of(identity_plan(x, {"y": y}), x, y, folds)
    error = np.sqrt(np.square(scores.pseudo - scores.score_squared[:, None]).sum(axis=1) / (16 * 15))
    upper = np.sqrt(np.clip(scores.score_squared + 2.13145 * error, 0, 1))
    assert np.allclose(scores.score_high, upper, atol=1e-6)


# Degenerate cases ---------------------------------------------------------------------------------------------------


def mixed() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(10)
    maps = np.maximum(rng.normal(size=(400, 8, 9)), 0)
    y = maps[:, 0].mean(axis=1) * 8 + rng.normal(size=400)
    maps[:, 1] = 0.0  # dead
    maps[:, 2] = 1.7  # constant
    maps[:, 3] = (rng.random((400, 1)) < 0.01) * 1.0  # almost never active
    maps[:, 4] = np.round(maps[:, 4])  # ties
    maps[:, 5] = maps[:, 0]  # identical
    maps[:, 6, 1:] = 0.0  # one pixel moves
    return maps, y, rng.integers(0, 16, 400)


def test_degenerate_channels_get_a_status_and_no_rank() -> None:
    maps, y, folds = mixed()
    scores = scores_of(plan_of(maps, {"y": y}), maps, y, folds)
    assert scores.status.tolist() == [OK, CONSTANT, CONSTANT, OK, OK, OK, OK, OK]
    assert_sound(scores)
    ranks = rank_channels(scores.score_squared, scores.pseudo, scores.status == OK)
    assert ranks.rank[1] == ranks.rank[2] == 0 and ranks.rank[0] == 1
    assert sorted(ranks.rank[scores.status == OK]) == [1, 2, 3, 4, 5, 6]


def test_identical_channels_get_equal_scores() -> None:
    """But for the last bits of their axes, which on some processors depend on where in memory a matrix lies."""
    maps, y, folds = mixed()
    scores = scores_of(plan_of(maps, {"y": y}), maps, y, folds)
    for name in (*FIELDS, "pseudo"):
        np.testing.assert_allclose(
            getattr(scores, name)[0], getattr(scores, name)[5], rtol=1e-6, atol=1e-5, err_msg=name
        )


def test_a_constant_target_is_constant_for_all_channels() -> None:
    maps, y, folds = mixed()
    scores = scores_of(plan_of(maps, {"y": y}), maps, np.full(400, y[0]), folds)
    assert (scores.status == CONSTANT).all()
    assert_sound(scores)


def test_a_channel_constant_within_the_group_is_constant() -> None:
    maps, y, folds = mixed()
    plan = plan_of(maps, {"y": y})
    maps[:, 7] = maps[0, 7]
    scores = scores_of(plan, maps, y, folds)
    assert scores.status[7] == CONSTANT and scores.status[0] == OK
    assert_sound(scores)


@pytest.mark.parametrize("n", [0, 1, 40, 95])
def test_few_images_get_a_status(n: int) -> None:
    maps, y, folds = mixed()
    plan = plan_of(maps, {"y": y})
    scores = scores_of(plan, maps[:n], y[:n], folds[:n])
    assert scores.status[0] == TOO_FEW_IMAGES and (scores.images == n).all()
    assert_sound(scores)


@pytest.mark.parametrize(("n", "used"), [(0, 16), (40, 16), (49, 16), (600, 3)])
def test_groups_that_cannot_be_ranked_are_known_by_their_rows_alone(n: int, used: int) -> None:
    maps, y, folds = mixed()
    plan = plan_of(maps, {"y": y, "again": -y})
    targets = {"y": y[:n], "again": -y[:n]}
    gram = gram_of(plan, maps[:n], targets, folds[:n] % used)
    layer = plan.layers[0]
    from_rows = scores_of_few_rows(gram.rows.numpy(), layer, 2, knots=plan.knots)
    assert from_rows is not None
    for one, other in zip(from_rows, score_channels(gram, layer, plan.targets, penalty=0.3), strict=True):
        for entry in fields(ChannelScores):
            assert np.array_equal(
                getattr(one, entry.name), getattr(other, entry.name), equal_nan=entry.name != "status"
            )


def test_groups_with_rows_enough_are_not_given_up() -> None:
    maps, y, folds = mixed()
    plan = plan_of(maps, {"y": y})
    rows = np.bincount(folds, minlength=16)
    assert scores_of_few_rows(rows, plan.layers[0], 1, knots=plan.knots) is None


def test_two_hundred_images_are_enough_for_five_components() -> None:
    assert required_images(5, 9) <= 200
    maps, y, folds = mixed()
    assert scores_of(plan_of(maps, {"y": y}), maps[:200], y[:200], folds[:200]).status[0] == OK


@pytest.mark.parametrize("used", [1, 3])
def test_all_images_in_few_folds_are_too_few(used: int) -> None:
    maps, y, folds = mixed()
    scores = scores_of(plan_of(maps, {"y": y}), maps, y, folds % used)
    assert set(scores.status) == {TOO_FEW_IMAGES, CONSTANT}
    assert_sound(scores)


def test_empty_folds_are_left_out() -> None:
    maps, y, folds = mixed()
    scores = scores_of(plan_of(maps, {"y": y}), maps, y, folds % 5)
    assert_sound(scores)
    assert np.isfinite(scores.pseudo[0, :5]).all() and np.isnan(scores.pseudo[0, 5:]).all()


def test_values_far_beyond_the_pilot_are_clamped() -> None:
    maps, y, folds = mixed()
    plan = plan_of(maps, {"y": y})
    maps[::7] *= 1e12
    y[::5] = -1e300
    scores = scores_of(plan, maps, y, folds)
    assert_sound(scores)
    assert scores.clamped[0] > 0.1


def test_a_group_on_a_small_part_of_the_knots_is_scored() -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(5000, 1, 1))
    y = x[:, 0, 0] + 0.05 * rng.normal(size=5000)
    plan = identity_plan(x, {"y": y})
    near = np.abs(x[:, 0, 0]) < 0.3
    scores = scores_of(plan, x[near], y[near], rng.integers(0, 16, near.sum()))
    assert_sound(scores)
    assert covers(scores, float(np.corrcoef(x[near, 0, 0], y[near])[0, 1]), slack=0.02)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_dead_components_change_nothing(penalty: float) -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(500, 1, 1))
    y = np.sin(x[:, 0, 0]) + rng.normal(size=500)
    wide = np.concatenate([x, np.full((500, 1, 2), 0.37)], axis=2)
    folds = rng.integers(0, 16, 500)
    one = scores_of(identity_plan(x, {"y": y}), x, y, folds, penalty=penalty)
    other = scores_of(identity_plan(wide, {"y": y}), wide, y, folds, penalty=penalty)
    assert one.score_squared == pytest.approx(other.score_squared, abs=1e-7)


def test_pearson_is_exact_for_any_number_of_rows() -> None:
    rng = np.random.default_rng(13)
    maps = rng.normal(size=(300, 2, 4))
    y = maps[:, 0].mean(axis=1) + 0.3 * rng.normal(size=300)
    folds = rng.integers(0, 16, 300)
    plan = plan_of(maps, {"y": y})
    once = gram_of(plan, maps, {"y": y}, folds)
    expected = score_channels(once, plan.layers[0], plan.targets, penalty=0.0)[0]
    many = score_channels(times(once, 30_000_000), plan.layers[0], plan.targets, penalty=0.0)[0]
    assert many.images[0] == 9_000_000_000
    assert np.allclose(many.pearson, expected.pearson, atol=1e-15)
    assert np.allclose(many.score_in_sample, expected.score_in_sample, atol=1e-9)
    assert expected.pearson[0] == pytest.approx(np.corrcoef(maps[:, 0].mean(axis=1), y)[0, 1], abs=1e-3)
    assert np.allclose(expected.mean_activation, maps.mean(axis=(0, 2)), atol=1e-3)
    assert np.allclose(expected.activation_variance, maps.mean(axis=2).var(axis=0), rtol=0.01)


def test_targets_are_scored_one_by_one() -> None:
    rng = np.random.default_rng(14)
    x = rng.normal(size=(400, 3, 2))
    targets = {"a": x[:, 0, 0] + rng.normal(size=400), "b": x[:, 1, 1] ** 2}
    folds = rng.integers(0, 16, 400)
    plan = identity_plan(x, targets)
    both = score_channels(gram_of(plan, x, targets, folds), plan.layers[0], plan.targets, penalty=0.3)
    for name, scores in zip(targets, both, strict=True):
        alone = scores_of(identity_plan(x, {"y": targets[name]}), x, targets[name], folds)
        assert np.array_equal(alone.score_squared, scores.score_squared)


def test_plans_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(15)
    x, y = rng.normal(size=(100, 3, 2)), rng.normal(size=100)
    plan = identity_plan(x, {"y": y})
    gram = gram_of(plan, x, {"y": y}, np.arange(100) % 16)
    with pytest.raises(StatisticsError, match="channels"):
        score_channels(gram, plan.layers[0].block(slice(0, 2)), plan.targets, penalty=0.3)
    with pytest.raises(StatisticsError, match="target"):
        score_channels(gram, plan.layers[0], [], penalty=0.3)


def test_a_gram_and_its_plan_are_left_as_they_were() -> None:
    maps, y, folds = mixed()
    plan = plan_of(maps, {"y": y})
    gram = gram_of(plan, maps, {"y": y}, folds)
    before, digest, threads = gram.to_bytes(), plan.digest, torch.get_num_threads()
    score_channels(gram, plan.layers[0], plan.targets, penalty=0.3)
    assert gram.to_bytes() == before and plan.digest == digest and torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("images", "settings"),
    [(500, (5, 9)), (96, (5, 9)), (95, (4, 9)), (50, (2, 9)), (49, None), (0, None)],
)
def test_settings_with_which_few_images_make_a_score(images: int, settings: tuple[int, int] | None) -> None:
    assert settings_for(images, 5, 9) == settings
    assert settings_for(60, 1, 32) == (1, 9), "fewer knots where one component is too much"
    if settings is not None:
        assert required_images(*settings) <= images


def test_the_largest_number_of_components_that_so_few_images_allow() -> None:
    assert most_components(96, 9, 5) == 5  # 2 * (5 + 1) * 8
    assert most_components(95, 9, 5) == 4
    assert most_components(50, 9, 5) == 2
    assert most_components(49, 9, 5) == 0, "50 at least"


def tail_event(n: int, share: float, seed: int) -> tuple[Array, Array]:
    """x and y are independent but for a share of the rows, where both are far out."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n))
    far = rng.permutation(n)[: round(share * n)]
    x[far] += 8
    y[far] += 8
    return x, y


def test_the_support_of_a_target_with_two_values_follows_from_their_shares() -> None:
    rng = np.random.default_rng(3)
    for share in (0.5, 0.2, 0.03):
        y = (np.arange(2000) < share * 2000).astype(float)
        scores = one_channel(y + 0.5 * rng.normal(size=2000), y)
        product = share * (1 - share)
        np.testing.assert_allclose(scores.support, product / (1 - 3 * product), rtol=1e-9)


def test_the_support_is_its_definition_over_rows() -> None:
    maps, y, folds = mixed()
    plan = plan_of(maps, {"y": y})
    scores = scores_of(plan, maps, y, folds)
    codes, _ = plan.encode_targets(y[:, None])
    hats = hat_table(plan.knots)[codes[:, 0].numpy()] / hat_table(plan.knots)[0, 0]
    for channel in np.flatnonzero(scores.status == OK):
        theta = scores.theta[channel].astype(np.float64)
        theta -= (hats @ theta).mean()
        parts = (hats * theta * (hats @ theta)[:, None]).mean(axis=0)
        expected = np.square(hats @ theta).mean() ** 2 / (parts**2 / hats.mean(axis=0)).sum()
        assert scores.support[channel] == pytest.approx(expected, rel=1e-4)  # theta is float32


@pytest.mark.parametrize("n", [1000, 5000, 100_000])
def test_a_score_that_rests_on_a_few_rows_has_a_small_support(n: int) -> None:
    few = one_channel(*tail_event(n, 0.005, seed=n))
    assert few.score[0] > 0.8
    assert few.support[0] < SMALL_SUPPORT
    rng = np.random.default_rng(n)
    x = rng.normal(size=n)
    many = one_channel(x, 0.7 * x + 0.7 * rng.normal(size=n))
    assert many.support[0] > 0.2
    skewed = one_channel(x, np.exp(0.7 * x + 0.7 * rng.normal(size=n)))  # lognormal: broad, with a heavy tail
    assert skewed.support[0] > 0.1
