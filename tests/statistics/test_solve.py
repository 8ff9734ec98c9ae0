from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from pcace_dist.statistics import basis, solve
from pcace_dist.statistics.score import score_channels
from tests.statistics.helpers import Array, codes_of, gram_of, hat_table, identity_plan, scores_of

IRREGULAR = torch.tensor([-3.0, -2.9, -1.0, 0.0, 0.05, 0.7, 2.0, 2.001, 9.0], dtype=torch.float64)


def quadratic(penalty: torch.Tensor, values: torch.Tensor) -> float:
    return float(values @ penalty @ values)


@pytest.mark.parametrize("knots", [IRREGULAR, torch.linspace(0, 1, 9, dtype=torch.float64)])
def test_a_straight_line_has_no_penalty(knots: torch.Tensor) -> None:
    penalty = solve.penalty_matrix(knots, torch.tensor(1.3, dtype=torch.float64))
    line = 5 - 2 * knots
    bent = line + (knots > 0.5) * (knots - 0.5)
    assert abs(quadratic(penalty, line)) < 1e-9 * quadratic(penalty, bent)


def test_penalty_is_the_integral_of_the_squared_second_derivative() -> None:
    knots = torch.linspace(-1, 1, 9, dtype=torch.float64)
    penalty = solve.penalty_matrix(knots, torch.tensor(1.0, dtype=torch.float64))
    assert quadratic(penalty, knots.square()) == pytest.approx(2.0**2 * 7 * 0.25)  # f'' = 2 at 7 inner knots


def test_penalty_is_in_units_of_the_spread() -> None:
    one = solve.penalty_matrix(IRREGULAR, torch.tensor(0.7, dtype=torch.float64))
    other = solve.penalty_matrix(IRREGULAR * 1000, torch.tensor(700.0, dtype=torch.float64))
    assert torch.allclose(one, other, rtol=1e-9)


def dense(codes: Array, knots: int) -> Array:
    """Centred hats (n, ..., K) flattened over all but rows."""
    table = hat_table(knots) / basis.unit_scale(knots)
    hats = table[codes].reshape(len(codes), -1)
    return np.asarray(hats - hats.mean(axis=0))


def reference_squared(x: Array, y: Array) -> float:
    """Largest squared canonical correlation by projection on an orthonormal basis of x, and an eigenproblem in y."""
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    left = left[:, values > 1e-9 * values[0]]
    within = y.T @ left @ left.T @ y
    keep = slice(0, y.shape[1] - 1)  # the hats of y sum to a constant
    return float(eigh(within[keep, keep], (y.T @ y)[keep, keep], eigvals_only=True)[-1])


@pytest.mark.parametrize("components", [1, 2, 5])
@pytest.mark.parametrize("knots", [4, 9, 17])
def test_without_penalty_it_is_the_largest_canonical_correlation(components: int, knots: int) -> None:
    rng = np.random.default_rng(components)
    x = rng.normal(size=(3000, 2, components))
    y = np.sin(x[:, 0].sum(axis=1)) + x[:, 1, 0] ** 2 + rng.normal(size=3000)
    plan = identity_plan(x, {"y": y}, knots=knots)
    own, rows = codes_of(plan, x, {"y": y}, np.arange(3000) % 16)
    ours = scores_of(plan, x, y, np.arange(3000) % 16, penalty=0.0)
    for channel in range(2):
        expected = reference_squared(
            dense(own.codes[:, channel].numpy(), knots), dense(rows.target_codes.numpy(), knots)
        )
        assert ours.score_in_sample[channel] ** 2 == pytest.approx(expected, abs=1e-6)


def test_penalised_transforms_are_smoother_and_correlate_less_in_sample() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4, 3)), rng.normal(size=300)
    plan = identity_plan(x, {"y": y})
    folds = np.arange(300) % 16
    scores = [scores_of(plan, x, y, folds, penalty=penalty).score_in_sample for penalty in (0.0, 0.3, 3.0, 1e6)]
    assert all((one > other).all() for one, other in pairwise(scores))


def test_an_infinite_penalty_leaves_linear_regression() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(4000, 1, 2))
    y = np.exp(x[:, 0, 0]) + x[:, 0, 1] + 0.2 * rng.normal(size=4000)
    plan = identity_plan(x, {"y": y})
    ours = scores_of(plan, x, y, np.arange(4000) % 16, penalty=1e9)
    design = np.column_stack([np.ones(4000), x[:, 0]])
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert ours.score_in_sample[0] == pytest.approx(np.corrcoef(fitted, y)[0, 1], abs=2e-3)


@pytest.mark.parametrize(("components", "knots"), [(1, 4), (3, 9), (5, 9), (2, 17)])
def test_a_channels_result_does_not_depend_on_the_batch_or_the_threads(components: int, knots: int) -> None:
    rng = np.random.default_rng(0)
    channels = 40
    x = rng.normal(size=(400, channels, components))
    y = x[:, 0, 0] + x[:, 7, 0] ** 2 + rng.normal(size=400)
    plan = identity_plan(x, {"y": y}, knots=knots)
    gram = gram_of(plan, x, {"y": y}, rng.integers(0, 16, 400))
    layer = plan.layers[0]
    whole = score_channels(gram, layer, plan.targets, penalty=0.3)[0]
    threads = torch.get_num_threads()
    try:
        for trial in range(8):
            torch.set_num_threads(1 + trial % 2)
            start = int(rng.integers(0, channels - 1))
            block = slice(start, start + 1 if trial < 2 else int(rng.integers(start + 1, channels)))
            part = score_channels(gram.select(block), layer.block(block), plan.targets, penalty=0.3)[0]
            for name in ("score_squared", "score_low", "score_first_component", "pearson", "mean_activation", "pseudo"):
                assert np.array_equal(getattr(part, name), getattr(whole, name)[block]), name
    finally:
        torch.set_num_threads(threads)
