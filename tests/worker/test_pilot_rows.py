"""The share of a pilot grows from 0, over as many passes as there usually are, and is never all of it."""

from __future__ import annotations

from pcace_dist.worker.pilot_rows import PilotMeter


def test_the_share_is_that_of_the_rows_of_all_passes() -> None:
    meter = PilotMeter()
    assert meter.share == 0.0
    meter.begin(100)
    meter.expect(4)
    shares = []
    for _ in range(3):
        for _ in range(2):
            meter.add(50)
            shares.append(meter.share)
        meter.next_pass()
    assert shares == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75]


def test_more_passes_or_rows_than_expected_are_no_more_than_all() -> None:
    meter = PilotMeter()
    meter.begin(10)
    meter.add(25)
    assert meter.share == 0.99
    meter.next_pass()
    assert meter.share == 0.99


def test_a_pilot_that_begins_anew_begins_at_nothing() -> None:
    meter = PilotMeter()
    meter.begin(10)
    meter.add(5)
    meter.begin(10)
    assert meter.share == 0.0
