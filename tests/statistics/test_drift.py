"""False alarms of comparisons: of pairs of runs that estimate the same thing, 5 % may be said to have moved, no more.

The rule is nominal, so that 5 % is its mean: a test of few pairs asks for no more alarms than such a rule gives in 99
of 100 tests; and of the p-values, which are many, that hardly more than 5 % are below 5 %.
"""

from __future__ import annotations

import pytest
from scipy.stats import binom

from tests.statistics import mnist
from tests.statistics.drift import LEVEL, Found, halves, layers_of, noisy_copies, other_pilots

pytestmark = [pytest.mark.statistics, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def example() -> dict[str, mnist.Activations]:
    return layers_of()


def assert_nominal(judged: Found) -> None:
    assert judged.alarms <= binom.ppf(0.99, judged.pairs, LEVEL), judged
    assert judged.below_5 <= 0.075 and judged.below_01 <= 0.004, judged


def test_disjoint_halves_of_the_same_data_are_the_same(example: dict[str, mnist.Activations]) -> None:
    assert_nominal(halves(example, 2500, 30))


def test_disjoint_halves_under_one_plan_are_the_same(example: dict[str, mnist.Activations]) -> None:
    assert_nominal(halves(example, 2500, 60, shared=True))


def test_noisy_copies_on_the_same_images_are_the_same(example: dict[str, mnist.Activations]) -> None:
    assert_nominal(noisy_copies(example, 2500, 20))


@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
def test_halves_by_digit_are_the_same() -> None:
    assert_nominal(halves(layers_of(20_000, full=True), 5000, 16, by_digit=True))


@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
def test_one_network_under_other_pilots_is_the_same_where_knots_are_all_that_differs() -> None:
    assert_nominal(other_pilots(10))
