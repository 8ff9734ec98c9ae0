"""Groups on a small part of the shared knots: knots of their own, from codes, find what the plan's cannot."""

from __future__ import annotations

import pytest

from tests.statistics.narrow import CURVES, cost


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("curve", ["line", "parabola"])
def test_a_group_on_a_tenth_of_the_axis_is_scored_right_with_its_own_knots(curve: str, end: bool) -> None:
    costs = cost(curve, 0.1, end=end, repeats=3)
    assert costs.truth - 0.02 < costs.own < costs.truth + 0.04  # transforms of the target add a little


def test_the_plans_knots_lose_a_bend_at_the_end_of_the_axis() -> None:
    costs = cost("parabola", 0.1, end=True, repeats=3)
    assert costs.plan < 0.5 < 0.75 < costs.own


@pytest.mark.statistics
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("curve", CURVES)
def test_own_knots_are_never_worse(curve: str, end: bool) -> None:
    for cover in (0.05, 0.1, 0.2, 0.5):
        costs = cost(curve, cover, end=end, repeats=10)
        assert costs.own > costs.plan - 0.01
