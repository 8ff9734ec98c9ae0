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
    measured = plan_coverage.measure(setting)
    assert measured.another >= 0.92, "sixty repetitions know it to within a point or two"


@pytest.mark.statistics
@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
@pytest.mark.parametrize("name", pilots.NETWORKS)
def test_scores_of_ten_pilots_lie_in_each_others_intervals(name: str) -> None:
    rows = pilots.activations(pilots.trained(name), pilots.NETWORKS[name][1])
    of_all = pilots.spreads(rows, 2048, 10)[None]
    assert of_all.each_other >= 0.93 > 0.6 > of_all.given_plan
    assert of_all.estimated == pytest.approx(of_all.true, rel=0.25)
