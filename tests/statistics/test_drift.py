"""False alarms of comparisons: at most 5 % of pairs of runs that estimate the same thing are said to have moved."""

from __future__ import annotations

import pytest

from tests.statistics import mnist
from tests.statistics.drift import Found, halves, layers_of, noisy_copies

pytestmark = [pytest.mark.statistics, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def example() -> dict[str, mnist.Activations]:
    return layers_of()


def within_5_percent(judged: Found) -> bool:
    return judged.alarms <= 0.05 * judged.pairs


def test_disjoint_halves_of_the_same_data_are_the_same(example: dict[str, mnist.Activations]) -> None:
    judged = halves(example, 2500, 100)
    assert within_5_percent(judged), judged


def test_disjoint_halves_under_one_plan_are_the_same(example: dict[str, mnist.Activations]) -> None:
    judged = halves(example, 2500, 100, shared=True)
    assert within_5_percent(judged), judged


def test_noisy_copies_on_the_same_images_are_the_same(example: dict[str, mnist.Activations]) -> None:
    judged = noisy_copies(example, 2500, 60)
    assert within_5_percent(judged), judged


@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
def test_halves_by_digit_are_the_same() -> None:
    judged = halves(layers_of(20_000, full=True), 5000, 40, by_digit=True)
    assert within_5_percent(judged), judged
