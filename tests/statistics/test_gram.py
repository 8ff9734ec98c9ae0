from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import basis, gram, products, tensorfile
from pcace_dist.statistics.gram import Gram
from tests.statistics.conformance import AccumulatorConformance
from tests.statistics.helpers import random_rows, reference_sums, times

SIZES: dict[str, Any] = {"channels": 5, "components": 3, "targets": 2, "knots": 9, "folds": 4}


def rows_of(n: int, seed: int = 0, **sizes: int) -> dict[str, Any]:
    return random_rows(n, **{**SIZES, **sizes}, seed=seed)


def take(rows: dict[str, Any], index: torch.Tensor | slice) -> dict[str, Any]:
    return {name: values[index] for name, values in rows.items()}


class TestGramConforms(AccumulatorConformance):
    def empty(self) -> Gram:
        return Gram(**SIZES)

    def parts(self) -> list[dict[str, Any]]:
        return [rows_of(n, seed) for seed, n in enumerate((40, 1, 7, 0, 25))]

    def update(self, accumulator: Gram, part: dict[str, Any]) -> Gram:
        return accumulator.update(**part)


class TestWideGramConforms(TestGramConforms):
    """The same with so many copies of each row that the sums are int64."""

    def update(self, accumulator: Gram, part: dict[str, Any]) -> Gram:
        return accumulator.merge([times(self.empty().update(**part), 10**8)]).update(**part)


@pytest.mark.parametrize("knots", [3, 9, 17])
@pytest.mark.parametrize("components", [1, 3])
def test_sums_equal_plain_integer_outer_products(knots: int, components: int) -> None:
    rows = rows_of(300, knots=knots, components=components)
    summed = Gram(**{**SIZES, "knots": knots, "components": components}).update(**rows)
    expected = reference_sums(rows, knots, SIZES["folds"])
    unpacked = torch.cat([summed.xx, torch.zeros_like(summed.xx[..., :1])], dim=2)
    xx = unpacked[:, :, products.unpack_index(components, knots)]
    assert np.array_equal(xx.numpy(), expected["xx"])
    assert np.array_equal(summed.xy.numpy().reshape(expected["xy"].shape), expected["xy"])
    assert np.array_equal(summed.yy.numpy().reshape(expected["yy"].shape), expected["yy"])
    for name in ("rows", "mean_sum", "mean_square", "mean_target", "target_sum", "target_square"):
        assert np.array_equal(getattr(summed, name).numpy(), expected[name]), name


def test_the_longest_exact_chunk_of_the_largest_weights_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "FLOAT_ROWS", 1 << 30)
    monkeypatch.setattr(products, "byte_products", lambda: False)
    n = products.chunk_limit(9)
    rows = take(rows_of(1, channels=2), slice(0, 1))
    rows = {name: values[:1].expand(n, *values.shape[1:]).clone() for name, values in rows.items()}
    rows["codes"].fill_(basis.top_code(9))
    rows["target_codes"].fill_(basis.top_code(9))
    summed = Gram(**{**SIZES, "channels": 2}).update(**rows)
    assert int(summed.xx.max()) == int(summed.xy.max()) == int(summed.yy.max()) == n * 31**2


def test_partition_and_order_do_not_change_a_bit() -> None:
    rows = rows_of(500)
    whole = Gram(**SIZES).update(**rows)
    rng = np.random.default_rng(0)
    for parts in (1, 2, 7):
        order = torch.from_numpy(rng.permutation(500))
        summed = Gram(**SIZES)
        for index in torch.chunk(order, parts):
            summed.update(**take(rows, index))
        merged = Gram(**SIZES).merge(Gram(**SIZES).update(**take(rows, index)) for index in torch.chunk(order, parts))
        assert summed.to_bytes() == merged.to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("copies", [0, 1 << 20])  # that are there before; the latter need 64 bits
@pytest.mark.parametrize("pieces", [(500,), (40, 460)])
def test_blocks_of_channels_add_up_to_the_same_bits(copies: int, pieces: tuple[int, ...]) -> None:
    rows = random_rows(sum(pieces), channels=5, components=3, targets=2, knots=9, folds=4, seed=3)
    summed = times(Gram(5, 3, 2, 9, 4).update(**rows), copies)
    expected = summed.copy().update(**rows)
    for channels in (slice(0, 2), slice(2, 4), slice(4, 5)):
        first = 0
        for count in pieces:
            part = {name: values[first : first + count] for name, values in rows.items()}
            own = {name: part[name][:, channels] for name in ("codes", "means")}
            summed.update(**(part | own), channels=channels)
            first += count
    assert summed.to_bytes() == expected.to_bytes()
    assert (summed.xx.dtype == torch.int64) == (copies > 0)


def test_threads_do_not_change_a_bit() -> None:
    rows = rows_of(2000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = Gram(**SIZES).update(**rows)
        torch.set_num_threads(2)
        assert Gram(**SIZES).update(**rows).to_bytes() == single.to_bytes()
    finally:
        torch.set_num_threads(threads)


def test_sums_widen_before_they_overflow() -> None:
    limit = gram.narrow_limit(9)
    rows = take(rows_of(1), slice(0, 1))
    rows["codes"].fill_(basis.top_code(9))
    summed = times(Gram(**SIZES).update(**rows), limit)
    assert summed.xx.dtype == torch.int32
    summed.update(**rows)
    assert summed.xx.dtype == summed.xy.dtype == torch.int64
    assert int(summed.xx.max()) == (limit + 1) * 31**2


def test_merge_widens_before_sums_overflow() -> None:
    rows = take(rows_of(1), slice(0, 1))
    rows["codes"].fill_(basis.top_code(9))
    half = times(Gram(**SIZES).update(**rows), gram.narrow_limit(9))
    assert half.xx.dtype == torch.int32
    both = Gram(**SIZES).merge([half, half])
    assert both.xx.dtype == torch.int64 and int(both.xx.max()) == 2 * int(half.xx.max())


def test_ten_billion_rows_are_exact() -> None:
    rows = rows_of(3)
    copies = 10**10 // 3
    once = Gram(**SIZES).update(**rows)
    summed = times(once, copies)
    for name in ("rows", "xx", "xy", "yy", "mean_square", "mean_target", "target_square"):
        assert torch.equal(getattr(summed, name), getattr(once, name).long() * copies), name


def test_what_would_overflow_int64_is_refused() -> None:
    full = times(Gram(**SIZES).update(**rows_of(1)), gram.MAX_ROWS)
    with pytest.raises(StatisticsError, match="rows"):
        full.copy().update(**rows_of(1))
    with pytest.raises(StatisticsError, match="rows"):
        full.copy().merge([Gram(**SIZES).update(**rows_of(1))])


def test_select_gives_the_gram_of_those_channels() -> None:
    rows = rows_of(100)
    part = Gram(**SIZES).update(**rows).select(slice(1, 4))
    rows["codes"], rows["means"] = rows["codes"][:, 1:4], rows["means"][:, 1:4]
    assert part.to_bytes() == Gram(**{**SIZES, "channels": 3}).update(**rows).to_bytes()


def test_packed_bytes_is_what_a_gram_takes() -> None:
    assert Gram.packed_bytes(**SIZES) == Gram(**SIZES).nbytes
    assert products.packed_size(5, 9) == 895
    wide = times(Gram(**SIZES).update(**rows_of(4)), 10**8)
    assert Gram.packed_bytes(**SIZES, dtype=torch.int64) == wide.nbytes


def _without(state: dict[str, Any]) -> None:
    del state["xx"]


def _with_more(state: dict[str, Any]) -> None:
    state["more"] = torch.zeros(1)


def _as_floats(state: dict[str, Any]) -> None:
    state["yy"] = state["yy"].double()


def _of_other_shape(state: dict[str, Any]) -> None:
    state["rows"] = state["rows"][:-1]


@pytest.mark.parametrize("spoil", [_without, _with_more, _as_floats, _of_other_shape])
def test_a_state_that_does_not_fit_is_refused(spoil: Callable[[dict[str, Any]], None]) -> None:
    _, state = tensorfile.unpack("Gram", Gram(**SIZES).update(**rows_of(10)).to_bytes())
    spoil(state)
    settings = json.dumps({"format_version": gram.FORMAT_VERSION, **SIZES})
    with pytest.raises(StatisticsError, match="state"):
        Gram.from_bytes(tensorfile.pack("Gram", settings, state))


def test_bytes_that_are_no_gram_are_refused() -> None:
    for data in (b"", b"nonsense" * 20, Gram(**SIZES).to_bytes()[:-9]):
        with pytest.raises(StatisticsError, match="Gram"):
            Gram.from_bytes(data)


@pytest.mark.parametrize("wide", [False, True])
def test_a_gram_that_is_cleared_is_as_a_new_one(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = 3, 2, 2, 9, 4  # channels, components, targets, knots, folds
    first, second = (random_rows(200, *sizes, seed=seed) for seed in (0, 1))
    if wide:
        monkeypatch.setattr(gram, "narrow_limit", lambda knots: 40)
    used = Gram(*sizes).update(**first)
    assert (used.xx.dtype == torch.int64) == wide
    assert used.clear().to_bytes() == Gram(*sizes).to_bytes()
    assert used.update(**second).to_bytes() == Gram(*sizes).update(**second).to_bytes()


def test_grams_of_other_sizes_do_not_merge() -> None:
    with pytest.raises(StatisticsError, match="sizes"):
        Gram(**SIZES).merge([Gram(**{**SIZES, "folds": 8})])


@pytest.mark.parametrize("name", ["codes", "means", "target_codes", "target_fixed"])
def test_rows_of_the_wrong_shape_are_refused(name: str) -> None:
    rows = rows_of(10)
    rows[name] = rows[name][:-1]
    with pytest.raises(StatisticsError):
        Gram(**SIZES).update(**rows)


def test_folds_and_codes_out_of_range_are_refused() -> None:
    for name, value in (("folds", 4), ("folds", -1), ("codes", 249), ("target_codes", 255)):
        rows = rows_of(10)
        rows[name].view(-1)[3] = value
        with pytest.raises(StatisticsError, match=name.split("_")[-1]):
            Gram(**SIZES).update(**rows)


def test_rounding_products_are_found_out() -> None:
    assert products.exactness_self_test("cpu") in (torch.float32, torch.float64)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        rows = rows_of(200)
        rough = Gram(**SIZES).update(**rows)
    finally:
        torch.set_float32_matmul_precision(before)
    assert rough.to_bytes() == Gram(**SIZES).update(**rows).to_bytes()


def test_clamped_counts_codes_at_both_ends() -> None:
    rows = rows_of(200)
    summed = Gram(**SIZES).update(**rows)
    expected = ((rows["codes"] == 0) | (rows["codes"] == 248)).sum(dim=0)
    assert torch.equal(summed.clamped, expected)
