"""Where the time went: shares that add up, the stage that takes most, and what would help, on made-up seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pcace_dist.run.bottleneck import (
    HELPS,
    IN_REDUCE,
    ON_WORKER,
    ComputeSettings,
    describe_time,
    find_bottleneck,
    on_worker,
    stage_shares,
)

USUAL = {"start": 2.0, "pilot": 3.0, "main_pass": 90.0, "reduce": 4.0, "publish": 1.0}
CPU, GPU = ComputeSettings(cpu=True, precision="bfloat16"), ComputeSettings(cpu=False, precision="bfloat16")


def worked(**seconds: float) -> dict[str, float]:
    return on_worker({"forward": 10.0, "wait": 1.0, "tap": 2.0, "statistics": 1.0, **seconds}, 180.0)


def test_a_workers_stages_add_up_to_its_seconds() -> None:
    stages = on_worker({"wait": 10, "forward": 60, "tap": 5, "statistics": 4, "flush": 1, "read": 9, "decode": 70}, 90)
    assert sum(stages[stage] for stage in ON_WORKER) == 90
    assert stages["idle"] == 10
    assert (stages["read"], stages["decode"]) == (9, 70)


def test_shares_of_a_run_add_up_to_one_and_leave_the_threads_out() -> None:
    by_stage = stage_shares(USUAL, worked(decode=500.0) | {"sums": 3.0, "solve": 1.0})
    assert sum(by_stage.values()) == pytest.approx(1)
    assert "decode" not in by_stage and "main_pass" not in by_stage and "reduce" not in by_stage
    assert by_stage["sums"] == pytest.approx(0.03) and by_stage["solve"] == pytest.approx(0.01)


def test_a_run_of_two_workers_is_shared_out_as_one_of_one() -> None:
    pass_seconds = on_worker({"forward": 60, "wait": 20, "tap": 10}, 90)
    two = {stage: 2 * seconds for stage, seconds in pass_seconds.items()}
    assert stage_shares(USUAL, pass_seconds) == pytest.approx(stage_shares(USUAL, two))


@pytest.mark.parametrize(
    ("stages", "compute", "stage", "helps"),
    [
        ({"forward": 170.0}, CPU, "forward", "more workers"),
        ({"forward": 170.0}, ComputeSettings(precision="float32"), "forward", "bfloat16"),
        ({"forward": 170.0}, GPU, "forward", "compute.batch"),
        ({"wait": 150.0, "decode": 160.0, "read": 3.0}, GPU, "decode", "workers.cpus"),
        ({"wait": 150.0, "decode": 160.0, "read": 3.0}, GPU, "decode", "model.input.decode gpu"),
        ({"wait": 150.0, "decode": 20.0, "read": 160.0}, GPU, "read", "storage nearer"),
        ({"forward": 60.0, "decode": 110.0, "wait": 40.0}, CPU, "decode", "workers.cpus"),
        ({"forward": 90.0, "decode": 170.0, "wait": 2.0}, GPU, "forward", "a faster GPU"),
        ({"tap": 150.0}, CPU, "tap", "fewer layers"),
        ({"statistics": 150.0}, CPU, "statistics", "groups"),
        ({"flush": 150.0}, CPU, "flush", "PCACE_FLUSH_SECONDS"),
        ({}, CPU, "idle", "fewer workers"),
        ({"begin": 150.0}, CPU, "begin", "longer runs"),
    ],
)
def test_the_stage_that_takes_most_is_named_with_what_would_help(
    stages: dict[str, float], compute: ComputeSettings, stage: str, helps: str
) -> None:
    verdict = find_bottleneck(USUAL, worked(**stages), compute)
    assert verdict is not None and verdict.stage == stage and helps in verdict.advice
    assert 0 < verdict.share <= 1


def test_a_short_run_is_told_that_starting_took_most() -> None:
    verdict = find_bottleneck({"start": 8.0, "pilot": 1.0, "main_pass": 2.0, "reduce": 0.1}, worked(forward=170.0), CPU)
    assert verdict is not None and verdict.stage == "start"


def test_a_reduce_is_split_into_reading_and_solving() -> None:
    driver = {"start": 1.0, "main_pass": 5.0, "reduce": 60.0}
    for sums, solve, stage in ((50.0, 3.0, "sums"), (3.0, 50.0, "solve")):
        verdict = find_bottleneck(driver, worked() | {"sums": sums, "solve": solve}, CPU)
        assert verdict is not None and verdict.stage == stage


def test_nothing_is_said_before_anything_was_done() -> None:
    assert find_bottleneck({}, {}, CPU) is None and find_bottleneck({"start": 0.0}, {}, CPU) is None
    assert describe_time({}) == [] and describe_time({"shares": {}, "bottleneck": None}) == []


def test_every_stage_has_its_advice() -> None:
    on_driver = {"prepare", "ray", "start", "copy", "pilot", "rank", "publish"}
    assert set(HELPS) == on_driver | {*ON_WORKER, *IN_REDUCE, "read", "decode"} - {"wait"}


def closing(share: float, seconds: float, advice: str = "a GPU") -> list[str]:
    by_stage = {"forward": share, "start": 1 - share}
    bottleneck = {"stage": "forward", "share": share, "advice": advice}
    return describe_time({"seconds": seconds, "shares": by_stage, "bottleneck": bottleneck})


def test_the_closing_lines_name_the_largest_first_and_leave_out_what_took_nothing() -> None:
    by_stage = stage_shares({"start": 10.0, "main_pass": 90.0}, on_worker({"forward": 60.0, "wait": 30.0}, 90.0))
    bottleneck = {"stage": "forward", "share": 0.6, "advice": "a GPU"}
    assert describe_time({"seconds": 100.0, "shares": by_stage, "bottleneck": bottleneck}) == [
        "forward 60 %, wait 30 %, start 10 %",
        "forward takes most (60 %); what would help: a GPU",
    ]


def test_what_would_help_is_said_where_it_is_worth_it() -> None:
    assert closing(0.6, 59.0) == [], "a run of under a minute"
    assert closing(0.25, 600.0) == ["start 75 %, forward 25 %"], "no stage takes much"
    assert closing(0.6, 600.0, advice="") == ["forward 60 %, start 40 %"], "nothing is known to help"


def test_fewer_knots_are_advised_where_there_are_more_than_nine() -> None:
    for knots, helps in ((9, False), (17, True)):
        verdict = find_bottleneck({"reduce": 60.0}, {"solve": 50.0}, replace(CPU, knots=knots))
        assert verdict is not None and ("statistics.knots 9" in verdict.advice) == helps
