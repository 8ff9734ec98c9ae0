"""Scoring a block and ranking in batches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from pcace_dist.statistics.order.ranks import rank_channels
from pcace_dist.statistics.plan import LayerCodes
from pcace_dist.worker import reduce
from pcace_dist.worker.block_sums import BlockSums, GroupSums


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


def test_the_rows_of_one_pass_are_let_go_before_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    class Counted(BlockSums):
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def groups(self, parts: Callable[[], Any]) -> Iterator[tuple[Any, GroupSums]]:
            yield from parts()

        def score_effects(self, *_: Any) -> Any: ...

        def score(self, *_: Any, **__: Any) -> Any:
            return []

    def a_pass(group: str) -> Iterator[Any]:
        assert not [one for one in held if one() is not None]
        room = torch.zeros(8, 1, 1)
        held.append(weakref.ref(room))
        codes = LayerCodes(room, room)
        del room
        yield group, GroupSums(codes=[codes])

    monkeypatch.setattr(reduce, "BlockSums", Counted)
    monkeypatch.setattr(reduce, "pick_transforms", lambda *_: {})
    found = reduce.score_block(
        MagicMock(), MagicMock(), lambda: a_pass("a"), lambda: a_pass("b"), penalty=0.0, memory=0
    )
    assert list(found.scores) == ["a", "b"] and len(held) == 2
