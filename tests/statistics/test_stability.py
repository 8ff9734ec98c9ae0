"""The reason for the project: more images give rankings that can be relied on. The table: docs/method-tables.md, 7."""

from __future__ import annotations

import numpy as np
import pytest

from tests.statistics import mnist, stability
from tests.statistics.comparison import scored, spearman


def test_halves_are_disjoint_and_as_large_as_asked() -> None:
    rows = mnist.activations(mnist.EXAMPLE, "conv3", 3)
    one, other = stability.splits(rows, 100, seed=0)
    assert len(one.target) == len(other.target) == 100
    assert not set(one.target.tolist()) & set(other.target.tolist())
    whole, rest = stability.splits(rows, None, seed=0)
    assert len(whole.target) == len(rest.target) == len(rows.target) // 2


def test_agreement_of_halves_grows_with_the_images() -> None:
    rows = mnist.activations(mnist.EXAMPLE, "conv3")
    score = stability.shared_plan(rows, 2048)
    small, large = (np.mean([spearman(*score(stability.splits(rows, n, s))) for s in range(4)]) for n in (300, 2500))
    assert large > 0.9 > small


def test_a_group_s_ranking_holds_with_a_shared_plan() -> None:
    rows = mnist.activations(mnist.EXAMPLE, "conv3", 7)
    halves = stability.splits(rows, None, seed=1)
    plan = rows.plan(5)
    one, other = (scored(plan, half).score_squared for half in halves)
    assert spearman(one, other) > 0.6


@pytest.mark.statistics
@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
@pytest.mark.parametrize("layer", ["conv2", "conv3"])
def test_with_3000_images_halves_agree_better_than_by_the_published_score(layer: str) -> None:
    rows = mnist.activations(mnist.TRAIN, layer, 3)
    *shared, own, _, first = stability.agreement(rows, 3000, 2)
    assert min(shared) > 0.9 and own > 0.85 and first < np.mean(shared) - 0.03


@pytest.mark.statistics
def test_the_tables_are_printed() -> None:
    lines = list(stability.stability(lambda layer, digit: mnist.activations(mnist.EXAMPLE, layer, digit or 3)))
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2
