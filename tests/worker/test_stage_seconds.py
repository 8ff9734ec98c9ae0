"""Seconds by stage: every second counts for one stage."""

from __future__ import annotations

import pytest

from pcace_dist.worker.stage_seconds import StageSeconds


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_inner_stage_is_left_out_of_the_outer_one_and_both_add_up() -> None:
    clock = Clock()
    seconds = StageSeconds(clock)
    for _ in range(2):
        with seconds.stage("forward"):
            clock.now += 1
            with seconds.stage("tap"):
                clock.now += 10
            with seconds.stage("tap"):
                clock.now += 20
            clock.now += 2
    assert seconds.by_stage() == {"forward": 6, "tap": 60}


def test_a_stage_that_raises_is_counted_and_what_follows_is_not_inside_it() -> None:
    clock = Clock()
    seconds = StageSeconds(clock)
    with pytest.raises(ValueError), seconds.stage("read"):
        clock.now += 3
        raise ValueError
    with seconds.stage("statistics"):
        clock.now += 4
    seconds.add({"read": 1.0, "decode": 5.0})
    assert seconds.by_stage() == {"read": 4, "statistics": 4, "decode": 5}
