"""Quantiles of Student's t against closed forms."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from pcace_dist.statistics.student import t_quantile


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.9, 0.975, 0.9999])
def test_quantiles_of_one_and_two_degrees_of_freedom_have_closed_forms(probability: float) -> None:
    assert t_quantile(2, probability) == pytest.approx(math.tan(math.pi * (probability - 0.5)), rel=1e-9, abs=1e-12)
    of_two = (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    assert t_quantile(3, probability) == pytest.approx(of_two, rel=1e-9, abs=1e-12)


def test_it_is_that_of_the_normal_distribution_in_the_limit() -> None:
    assert t_quantile(10**9, 0.975) == pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-6)
