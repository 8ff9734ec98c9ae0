from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.sets import moments
from pcace_dist.statistics.sets.moments import Moments

N, V, F = 400, 6, 5


def rows(seed: int = 0, count: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    values = torch.from_numpy(random.integers(-16384, 16385, (count, V)).astype(np.int16))
    return values, torch.from_numpy(random.integers(0, F - 1, count).astype(np.uint8))  # the last fold has none


def same(one: Moments, other: Moments) -> bool:
    names = ("rows", "sums", "products")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def test_covariances_are_those_of_numpy() -> None:
    values, folds = rows()
    found = Moments(V, F).update(values, folds)
    exact = values.double().numpy()
    assert np.allclose(found.covariance(), np.cov(exact.T, bias=True), rtol=1e-12)
    of_folds = list(found.folds())
    assert len(of_folds) == F - 1
    for fold, (rest, own) in enumerate(of_folds):
        assert np.allclose(rest, np.cov(exact[folds.numpy() != fold].T, bias=True), rtol=1e-12)
        apart = exact[folds.numpy() == fold] - exact.mean(0)
        assert np.allclose(own, apart.T @ apart / N, rtol=1e-9, atol=1e-3)
    assert np.allclose(np.sum([own for _, own in of_folds], axis=0), found.covariance(), rtol=1e-12)


def test_any_partition_order_and_grouping_gives_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    values, folds = rows()
    whole = Moments(V, F).update(values, folds)
    monkeypatch.setattr(moments, "_VALUES_AT_A_TIME", 20 * V)
    order = torch.from_numpy(np.random.default_rng(1).permutation(N))
    parts = [Moments(V, F).update(values[at], folds[at]) for at in torch.split(order, 97)]
    before = parts[-1].products.clone()
    assert same(whole, parts[0].merge(parts[1:3]).merge([Moments(V, F).merge(parts[3:])]))
    assert torch.equal(parts[-1].products, before)
    assert same(whole, Moments(V, F).merge([whole])) and same(whole, whole.merge([]))


def test_extremes_are_exact() -> None:
    values = torch.full((100_000, 1), -32768, dtype=torch.int16)
    found = Moments(1, 1).update(values, torch.zeros(100_000, dtype=torch.uint8))
    assert int(found.products) == 100_000 * 2**30 and int(found.sums) == -100_000 * 2**15
    assert Moments.nbytes_of(1, 1) == 8 * 2


@pytest.mark.parametrize(
    "wrong", [lambda: Moments(V + 1, F).update(*rows()), lambda: Moments(V, F).merge([Moments(V, 2)])]
)
def test_what_does_not_fit_is_refused(wrong: Any) -> None:
    with pytest.raises(StatisticsError, match="moments"):
        wrong()
