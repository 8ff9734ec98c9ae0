from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import basis, products
from tests.statistics.helpers import hat_table


@pytest.mark.parametrize("knots", [3, 9, 17, 33, 65])
def test_codes_fit_a_byte_and_weights_sum_to_the_scale(knots: int) -> None:
    top = basis.top_code(knots)
    assert top <= 255
    weights = products.hats(torch.arange(top + 1, dtype=torch.uint8), knots).T
    assert np.array_equal(weights, hat_table(knots)[: top + 1])
    assert torch.equal(weights.sum(dim=1), torch.full((top + 1,), basis.unit_scale(knots)))


@pytest.mark.parametrize("knots", [2, 66])
def test_impossible_numbers_of_knots_are_refused(knots: int) -> None:
    with pytest.raises(StatisticsError, match="knots"):
        basis.unit_scale(knots)


def test_codes_are_positions_on_the_knot_axis() -> None:
    knots = torch.tensor([0.0, 1.0, 3.0])  # S = 127
    values = torch.tensor([-9.0, 0.0, 0.5, 1.0, 2.0, 3.0, 1e30])
    assert basis.encode(values, knots).tolist() == [0, 0, 64, 127, 190, 254, 254]


def test_knots_themselves_get_exact_codes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        knots = torch.from_numpy(np.sort(rng.normal(size=9) * 10 ** rng.uniform(-4, 4)).astype(np.float32))
        assert basis.encode(knots, knots).tolist() == [31 * j for j in range(9)]


def test_codes_agree_with_interpolation() -> None:
    rng = np.random.default_rng(1)
    values = torch.from_numpy(rng.normal(size=(500, 4, 3)))
    knots = basis.choose_knots(values.reshape(500, 12), 9).reshape(4, 3, 9)
    codes = basis.encode(values, knots)
    for channel in range(4):
        for component in range(3):
            expected = np.interp(values[:, channel, component], knots[channel, component], np.arange(9)) * 31
            assert np.abs(codes[:, channel, component].numpy() - expected).max() <= 0.5 + 1e-6


def test_a_straight_line_is_in_the_span() -> None:
    values = torch.linspace(-1, 1, 200, dtype=torch.float64)
    knots = basis.choose_knots(values.pow(3).reshape(-1, 1), 9)[0]
    weights = products.hats(basis.encode(values, knots), 9).T.double() / 31
    assert torch.allclose(weights @ knots, values.clamp(knots[0], knots[-1]), atol=0.02)


def test_encoding_does_not_depend_on_the_other_rows() -> None:
    values = torch.randn((300, 5, 2), generator=torch.Generator().manual_seed(0))
    knots = basis.choose_knots(values.reshape(300, 10), 9).reshape(5, 2, 9)
    whole = basis.encode(values, knots)
    assert all(torch.equal(basis.encode(values[row : row + 1], knots)[0], whole[row]) for row in range(300))


@pytest.mark.parametrize("tile", [1, 1000, 1 << 19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_are_the_rounded_sum_of_the_clamped_terms_in_the_order_of_the_knots(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tile: int
) -> None:
    monkeypatch.setattr(basis, "_TILE", tile)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn((100, 5, 2), generator=generator, dtype=dtype)
    knots = torch.randn((5, 2, 17), generator=generator, dtype=dtype).sort(-1).values
    x, at = values.numpy(), knots.numpy()
    total = np.zeros_like(x)
    for j in range(16):
        total += np.clip((x - at[..., j]) * (1 / (at[..., j + 1] - at[..., j])), 0, 1)
    codes = basis.encode(values, knots)
    assert total.dtype == x.dtype and codes.dtype == torch.uint8
    assert np.array_equal(codes.numpy(), np.rint(total * 15).astype(np.uint8))


def test_no_values_have_no_codes() -> None:
    assert basis.encode(torch.empty((0, 4, 3)), torch.arange(9.0).expand(4, 3, 9)).shape == (0, 4, 3)


def test_knots_are_uniform_quantiles_from_minimum_to_maximum() -> None:
    values = torch.arange(801.0)[torch.randperm(801, generator=torch.Generator().manual_seed(0))].reshape(-1, 1)
    assert basis.choose_knots(values, 9)[0].tolist() == [100.0 * j for j in range(9)]


def test_few_distinct_values_become_the_knots() -> None:
    values = torch.tensor([0.0, 1.0, 1.0, 4.0] * 30).reshape(-1, 1)
    chosen = basis.choose_knots(values, 9)[0]
    assert chosen[:3].tolist() == [0.0, 1.0, 4.0]
    assert chosen[3:].tolist() == [6.0, 8.0, 10.0, 12.0, 14.0, 16.0]


def test_a_constant_gets_knots_beyond_it() -> None:
    chosen = basis.choose_knots(torch.full((50, 1), 3.0), 9)[0]
    assert chosen[0] == 3.0 and bool((chosen[1:] > chosen[:-1]).all())


def test_an_atom_keeps_one_knot_and_the_rest_is_split() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.concatenate([np.zeros(700), rng.exponential(size=300)])).reshape(-1, 1)
    chosen = basis.choose_knots(values, 9)[0]
    assert chosen[0] == 0.0 and chosen[-1] == values.max()
    counts = np.histogram(values[values > 0], bins=chosen)[0]
    assert counts.min() >= 15 and counts.max() <= 80


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.integers(3, 17))
def test_knots_always_increase_and_give_finite_codes(values: list[float], knots: int) -> None:
    column = torch.tensor(values, dtype=torch.float32).reshape(-1, 1)
    chosen = basis.choose_knots(column, knots)
    assert chosen.shape == (1, knots)
    assert bool((chosen[:, 1:] > chosen[:, :-1]).all()) and bool(torch.isfinite(chosen).all())
    codes = basis.encode(column[:, 0], chosen[0])
    assert int(codes.max()) <= basis.top_code(knots)
    order = torch.argsort(column[:, 0])
    assert bool((codes[order].int().diff() >= 0).all())


def test_tails_leave_a_share_of_the_values_beyond_the_knots_at_each_end() -> None:
    values = torch.randn(10_001, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    knots = basis.choose_knots(values, 9, 0.01)
    for column, own in zip(values.T, knots, strict=True):
        assert int((column < own[0]).sum()) == int((column > own[-1]).sum()) == 100
        within = (column[None] < own[1:, None]).sum(1) - (column[None] < own[:-1, None]).sum(1)
        assert within.max() - within.min() <= 1
    assert torch.equal(basis.choose_knots(values, 9, 0.0), basis.choose_knots(values, 9))
