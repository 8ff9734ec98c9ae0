from __future__ import annotations

import numpy as np
import pytest

from pcace_dist.statistics.sets.carried import Kept, Removed
from pcace_dist.statistics.sets.curves import Curve, Size, curve_of
from pcace_dist.statistics.sets.told import Told
from tests.statistics.sets.coverage import CASES, REPETITIONS, measure
from tests.statistics.sets.laws import covariance_of, hats, lost_shares, moments_of, told_by
from tests.statistics.sets.test_carried import mixed


def test_the_first_channels_that_reach_a_share_and_the_ends_of_their_number() -> None:
    share = np.array([0.3, 0.5, 0.9, 1])
    curve = Curve(np.arange(4), share, np.array([0.2, 0.4, 0.8, 1]), np.array([0.5, 0.6, 1, 1]))
    assert curve.size(0.5) == Size(2, 1, 3)
    assert curve.size(0.9) == Size(3, 3, 4)
    assert curve.size(1.0).channels == curve.size(2.0).channels == 4


def test_a_curve_is_the_share_of_the_rows_with_an_interval_about_it() -> None:
    y, parts = mixed(0, 5, 20_000)
    curve = curve_of(moments_of(y, parts, np.arange(20_000) % 16), Removed())
    assert np.allclose(curve.share, lost_shares(covariance_of(y, parts), curve.order), atol=2e-3)
    assert (curve.low <= curve.share).all() and (curve.share <= curve.high).all()
    assert curve.low[-1] == pytest.approx(1) and curve.high[-1] == pytest.approx(1)


def test_folds_without_rows_are_left_out() -> None:
    y, parts = mixed(1, 4, 2000)
    every, few = (curve_of(moments_of(y, parts, np.arange(2000) % folds), Kept()) for folds in (16, 5))
    assert np.allclose(every.share, few.share, atol=0.02)


def test_what_the_choice_of_the_best_seems_to_tell_by_chance_is_not_told() -> None:
    """The best 10 of 60 channels that know nothing seem to tell 10 % of 500 rows' output."""
    random = np.random.default_rng(4)
    y, parts = random.normal(size=500), random.normal(size=(500, 60))
    targets = np.rint(hats(y, 5) * 100)
    values = np.column_stack([targets, np.rint(parts * 1000)])
    found = moments_of(values[:, 0], values[:, 1:], np.arange(500) % 16, grid=1)
    curve = curve_of(found, Told(5, 10))
    assert told_by(found.covariance(), 5, curve.order)[-1] > 0.1
    assert curve.share[-1] < 0.02


def test_intervals_cover_what_the_set_carries() -> None:
    """The check of every day: one law, few repetitions."""
    found = measure("factors", 1000, 100)
    assert 0.88 <= found.carried <= 0.99 and found.lost > 0.88 and found.size > 0.9


@pytest.mark.statistics
@pytest.mark.parametrize(("law", "rows"), CASES)
def test_coverage(law: str, rows: int) -> None:
    """Channels of one size are the worst case: any set is as good as any other (docs/method-tables.md, 17)."""
    found = measure(law, rows, REPETITIONS)
    least = 0.78 if law == "alike" else 0.88
    assert min(found.carried, found.lost) >= least and found.size >= 0.93
