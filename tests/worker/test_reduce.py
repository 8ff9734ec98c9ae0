"""Ranking in batches."""

from __future__ import annotations

import numpy as np
import pytest

from pcace_dist.statistics.order.ranks import rank_channels
from pcace_dist.worker import reduce


@pytest.mark.parametrize("threads", [1, 3])
def test_a_ranking_that_is_the_same_as_the_one_before_is_computed_once(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    random = np.random.default_rng(0)
    pseudo, ok = random.normal(size=(4, 16)), np.array([True, True, False, True])
    pseudo[2] = np.nan
    scores, other = pseudo.mean(1), pseudo + 1e-3 * random.normal(size=(4, 16))
    computed: list[float] = []

    def counting(scores: np.ndarray, *rest: np.ndarray) -> object:
        computed.append(scores[0])
        return rank_channels(scores, *rest)

    monkeypatch.setattr(reduce, "rank_channels", counting)
    rankings = [(scores, pseudo, ok), (scores, pseudo.copy(), ok), (scores, other, ok), (scores, pseudo, ok)]
    ranks = reduce.rank_batch(rankings, threads)
    assert len(computed) == 3
    for mine, ranking in zip(ranks, rankings, strict=True):
        alone = rank_channels(*ranking)
        assert mine.rank.tolist() == alone.rank.tolist() and mine.low.tolist() == alone.low.tolist()
