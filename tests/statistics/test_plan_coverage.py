"""The promises of docs/method.md about other pilots, measured anew."""

from __future__ import annotations

import pytest

from tests.statistics import mnist, pilots, plan_coverage
from tests.statistics.plan_coverage import SETTINGS, Setting

QUICK = [setting for setting in SETTINGS if setting.rows <= 10_000 and setting.channels <= 12]


def test_a_few_pilots_are_mostly_covered() -> None:
    measured = plan_coverage.measure(Setting("normal", 2_000, repetitions=12, others=8), pool=20_000)
    assert measured.another > 0.9 and measured.width > measured.width_given


@pytest.mark.statistics
@pytest.mark.parametrize("setting", QUICK, ids=str)
def test_intervals_hold_the_value_of_another_pilot(setting: Setting) -> None:
    """The table has 91 to 99 %, which its repetitions know to within two points."""
    assert plan_coverage.measure(setting).another >= 0.90


@pytest.mark.statistics
@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
@pytest.mark.parametrize("name", ["narrow", "pooled", "normalised"])
def test_scores_of_ten_pilots_lie_in_each_others_intervals(name: str) -> None:
    of_all = pilots.spreads(pilots.of_network(name), 2048, 10)[None]
    assert of_all.each_other >= 0.93 > 0.6 > of_all.given_plan
    assert of_all.estimated == pytest.approx(of_all.true, rel=0.25)


@pytest.mark.statistics
@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
def test_maps_of_one_position_hardly_depend_on_the_pilot() -> None:
    of_all = pilots.spreads(pilots.of_network("dense"), 2048, 10)[None]
    assert of_all.given_plan >= 0.93 and of_all.true < 0.002, "knots are all that differs"


@pytest.mark.statistics
@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
@pytest.mark.parametrize("size", [512, 2048, 8192])
@pytest.mark.parametrize("name", ["example", "anew"])
def test_the_first_of_twenty_pilots_holds_the_others(name: str, size: int) -> None:
    of_all = pilots.spreads(pilots.of_network(name), size, 20)[None]
    assert of_all.each_other >= 0.93 and of_all.first >= 0.85


def test_the_worst_of_many_channels_is_covered_less_by_chance_alone() -> None:
    one, many = (pilots.worst_by_chance(10, channels) for channels in (1, 28))
    assert 0.93 < one < 1 and 0.77 < many < 0.85
