"""The promises of docs/method.md about intervals, measured anew."""

from __future__ import annotations

import pytest

from tests.statistics import coverage
from tests.statistics.order import rank_coverage

NAMES = [f"{one.name}, n={one.rows}" for one in coverage.SETTINGS]
RANK_NAMES = [f"{one.name}, n={one.rows}" for one in rank_coverage.SETTINGS]


def test_there_are_enough_settings() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 12
    assert coverage.REPETITIONS >= 500 and coverage.LARGE_ROWS >= 1_000_000


@pytest.mark.statistics
@pytest.mark.parametrize("setting", coverage.SETTINGS, ids=NAMES)
def test_score_intervals_cover(setting: coverage.Setting) -> None:
    measured = coverage.measure(setting)
    if setting.null:
        assert measured.covered >= 0.93
        assert measured.score < measured.in_sample / 2
    else:
        # 500 repetitions know it to within two points; with ten components the second term of the error is too large
        assert setting.floor <= measured.covered <= 0.995
    if setting.clear and not setting.null:
        assert abs(measured.score - measured.value) < max(0.012, 0.02 * measured.value)


@pytest.mark.statistics
@pytest.mark.parametrize("setting", rank_coverage.SETTINGS, ids=RANK_NAMES)
def test_rank_intervals_cover_on_average_and_for_the_worst_channel(setting: rank_coverage.Setting) -> None:
    measured = rank_coverage.measure(setting)
    assert measured.average >= 0.90 and measured.worst >= 0.90


def test_a_few_repetitions_cover_mostly() -> None:
    measured = rank_coverage.measure(rank_coverage.SETTINGS[0], repetitions=10)
    assert measured.average > 0.8 and 1 <= measured.width < rank_coverage.CHANNELS
