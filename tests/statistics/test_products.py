from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.statistics import basis, gram, products
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.loops import compiled, row_products
from tests.statistics.helpers import random_rows, reference_sums

FOLDS = 5


def rows_of(counts: list[int], *, channels: int = 3, components: int = 2, knots: int = 9) -> dict[str, Any]:
    """Random rows, so many of each fold, in any order."""
    rows = random_rows(sum(counts), channels, components, 2, knots, 1, seed=sum(counts))
    folds = np.repeat(np.arange(len(counts)), counts)
    return rows | {"folds": torch.from_numpy(np.random.default_rng(1).permutation(folds))}


def sums_of(rows: dict[str, Any], *, knots: int = 9) -> Gram:
    channels, components = rows["codes"].shape[1:]
    return Gram(channels, components, 2, knots, FOLDS).update(**rows)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way was taken, product by product. The loops are not loaded yet, whatever ran before."""
    monkeypatch.setattr(compiled, "_saved", [0.0])
    taken: list[str] = []

    def noting(kind: type[products._Products]) -> Any:
        def begun(*arguments: Any) -> products._Products:
            taken.append(kind.__name__)
            return kind(*arguments)

        return begun

    for kind in (products._Bytes, products._Floats):
        monkeypatch.setattr(products, kind.__name__, noting(kind))
    return taken


def assert_exact(sums: Gram, rows: dict[str, Any], knots: int) -> None:
    expected = reference_sums(rows, knots, FOLDS)
    unpacked = torch.cat([sums.xx, torch.zeros_like(sums.xx[..., :1])], dim=2)
    xx = unpacked[:, :, products.unpack_index(sums.components, knots)]
    assert np.array_equal(xx.numpy(), expected["xx"])
    assert np.array_equal(sums.xy.numpy().reshape(expected["xy"].shape), expected["xy"])
    assert np.array_equal(sums.yy.numpy().reshape(expected["yy"].shape), expected["yy"])


@pytest.mark.parametrize("counts", [[900] * 5, [3000, 0, 1, 640, 7], [0, 0, 5000, 0, 0]])
@pytest.mark.parametrize("knots", [3, 9, 33])
def test_bytes_and_floats_give_the_same_integers_those_of_the_definition(
    counts: list[int], knots: int, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(counts, knots=knots)
    assert_exact(sums_of(rows, knots=knots), rows, knots)
    assert set(used) == {"_Bytes" if products.byte_products() else "_Floats"}, "long folds"
    used.clear()
    monkeypatch.setattr(products, "byte_products", lambda: False)
    assert_exact(sums_of(rows, knots=knots), rows, knots)
    assert set(used) == {"_Floats"}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("knots", "components"), [(3, 1), (9, 4), (33, 2)])
def test_the_loops_give_the_same_integers(
    knots: int, components: int, wide: bool, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "LOADING", 0)
    monkeypatch.setattr(row_products, "_STEP_BYTES", 0)  # steps of the fewest rows
    rows = rows_of([900, 0, 1, 640, 7], channels=5, components=components, knots=knots)
    if wide:
        monkeypatch.setattr(gram, "narrow_limit", lambda knots: 600)
    in_blocks = Gram(5, components, 2, knots, FOLDS)
    for block in (slice(0, 2), slice(2, 5)):
        own = {name: rows[name][:, block] for name in ("codes", "means")}
        in_blocks.update(**rows | own, channels=block)
    whole = sums_of(rows, knots=knots)
    assert not used and whole.xx.dtype == (torch.int64 if wide else torch.int32)
    assert_exact(whole, rows, knots)
    assert_exact(in_blocks, rows, knots)
    assert_exact(
        sums_of(rows, knots=knots).merge([whole, in_blocks]), {k: torch.cat([v] * 3) for k, v in rows.items()}, knots
    )


@pytest.mark.parametrize("knots", [3, 5, 9, 32])
def test_the_loops_are_exact_where_every_row_is_as_large_as_can_be(
    knots: int, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "LOADING", 0)
    rows = rows_of([3000, 1], channels=3, knots=knots)
    top = basis.top_code(knots)
    for name, low in (("codes", top), ("codes", top - 1), ("target_codes", top), ("target_codes", 0)):
        rows[name] = torch.full_like(rows[name], low)
        assert_exact(sums_of(rows, knots=knots), rows, knots)
    assert not used


def test_the_loops_take_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LOADING", 0)
    before, rows = torch.get_num_threads(), rows_of([30, 40, 50, 0, 1], channels=7)
    try:
        torch.set_num_threads(3)
        assert_exact(sums_of(rows), rows, 9)
    finally:
        torch.set_num_threads(before)


def test_short_folds_are_multiplied_as_floats(used: list[str]) -> None:
    rows = rows_of([20, 30, 0, 5, 60])
    assert_exact(sums_of(rows), rows, 9)
    assert set(used) == {"_Floats"}


@pytest.mark.skipif(not products.byte_products(), reason="this processor has no products of bytes")
def test_the_largest_weights_in_the_longest_step_are_exact() -> None:
    rows = rows_of([products.STEP_ROWS, 0, 0, 0, 0], channels=1, components=1, knots=3)
    rows["codes"].fill_(254)
    rows["target_codes"].fill_(254)
    sums = sums_of(rows, knots=3)
    assert int(sums.xx.max()) == int(sums.xy.max()) == int(sums.yy.max()) == products.STEP_ROWS * 127**2


def test_tiles_of_channels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of([700, 200, 1, 0, 900], channels=7)
    whole = sums_of(rows)
    monkeypatch.setattr(products, "_TILE", {"cpu": 1})
    one_by_one = sums_of(rows)
    assert torch.equal(whole.xx, one_by_one.xx) and torch.equal(whole.xy, one_by_one.xy)
