"""Edge cases through the whole statistic: a status and finite numbers, never a NaN and never a top rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.maximal import maximal_correlation
from pcace_dist.statistics.order.ranks import rank_channels
from pcace_dist.statistics.score import CONSTANT, OK, TOO_FEW_IMAGES, ChannelScores
from tests.statistics.helpers import random_rows


def finite_where_ok(scores: ChannelScores) -> bool:
    ok = scores.status == OK
    columns = (scores.score, scores.score_low, scores.score_high, scores.score_first_component, scores.pearson)
    return all(np.isfinite(column[ok]).all() and np.isnan(column[~ok]).all() for column in columns)


@pytest.mark.parametrize("components", [1, 5, 20])
def test_one_pixel_maps_have_the_score_of_one_component_whatever_is_asked(components: int) -> None:
    random = np.random.default_rng(0)
    maps = random.normal(size=(700, 3, 1, 1))
    y = maps[:, 0, 0, 0] ** 2 + 0.3 * random.normal(size=700)
    scores = maximal_correlation(maps, y, components=components)
    assert finite_where_ok(scores) and scores.score.argmax() == 0
    assert scores.score[0] == pytest.approx(maximal_correlation(maps, y, components=1).score[0], abs=1e-6)


@pytest.mark.parametrize("components", [1, 20])
@pytest.mark.parametrize("knots", [3, 9, 17])
def test_fewer_distinct_values_than_knots(components: int, knots: int) -> None:
    random = np.random.default_rng(1)
    maps = random.integers(0, 2, size=(1500, 4, 5, 5)).astype(float)
    y = np.round(maps[:, 2].mean(axis=(1, 2)) * 4)
    scores = maximal_correlation(maps, y, components=components, knots=knots)
    assert finite_where_ok(scores) and (scores.status == OK).all()
    ranks = rank_channels(scores.score_squared, scores.pseudo, scores.status == OK)
    if components == 20:
        assert ranks.rank[2] == 1 and scores.score[2] > 0.5


@pytest.mark.parametrize("side", [28, pytest.param(112, marks=pytest.mark.statistics)])
def test_large_maps_with_twenty_components(side: int) -> None:
    random = np.random.default_rng(2)
    strength = random.normal(size=(600, 1, 1)).astype(np.float32)
    pattern = random.normal(size=(side, side)).astype(np.float32)
    maps = 0.5 * random.normal(size=(600, 2, side, side)).astype(np.float32)
    maps[:, 1] += strength * pattern
    scores = maximal_correlation(maps, np.abs(strength[:, 0, 0]), components=20)
    assert finite_where_ok(scores)
    assert scores.score[1] > 0.95 and scores.score[0] < 0.4


def test_dead_channels_ties_and_outliers_among_real_ones() -> None:
    random = np.random.default_rng(3)
    maps = np.maximum(random.normal(size=(800, 6, 4, 4)), 0)
    y = maps[:, 0].mean(axis=(1, 2)) + 0.1 * random.normal(size=800)
    maps[:, 1] = 0.0
    maps[:, 2] = np.round(maps[:, 2])
    maps[0, 3] = 1e30
    maps[:, 4] = maps[:, 0]
    maps[:, 5] = 0.0
    maps[17, 5] = 3.0  # active in one image
    scores = maximal_correlation(maps, y)
    assert scores.status[1] == CONSTANT and finite_where_ok(scores)
    ranks = rank_channels(scores.score_squared, scores.pseudo, scores.status == OK)
    assert ranks.rank[1] == 0 and set(np.argsort(-np.nan_to_num(scores.score))[:2]) == {0, 4}
    assert scores.score[0] == scores.score[4]


def test_fewer_images_than_coefficients() -> None:
    random = np.random.default_rng(4)
    scores = maximal_correlation(random.normal(size=(60, 3, 5, 5)), random.normal(size=60), components=20)
    assert set(scores.status) == {TOO_FEW_IMAGES} and finite_where_ok(scores)


def test_all_images_in_one_fold() -> None:
    random = np.random.default_rng(5)
    scores = maximal_correlation(
        random.normal(size=(300, 3)), random.normal(size=300), fold_ids=np.zeros(300, dtype=np.int64)
    )
    assert set(scores.status) == {TOO_FEW_IMAGES} and finite_where_ok(scores)


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_any_partition_in_any_order_gives_the_same_bits(parts: int, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    rows = random_rows(3000, 4, 3, 2, 9, 16, seed=parts)
    whole = Gram(4, 3, 2, 9, 16).update(**rows)
    order = torch.from_numpy(np.random.default_rng(parts).permutation(3000))
    grams = []
    for piece in torch.tensor_split(order, parts):
        partitioned = Gram(4, 3, 2, 9, 16, device=device)
        grams.append(partitioned.update(**{name: value[piece].to(device) for name, value in rows.items()}))
    merged = Gram(4, 3, 2, 9, 16).merge([gram.to("cpu") for gram in reversed(grams)])
    assert merged.to_bytes() == whole.to_bytes()
