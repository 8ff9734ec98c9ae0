"""The arithmetic of an estimate, where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pcace_dist.commands.estimate import (
    RANKED_TOGETHER,
    ROUND,
    Machine,
    Timings,
    Workload,
    flush_every,
    makespan,
    memory,
    predict,
    ranking_seconds,
    suggest_batch,
    suggest_cpus,
    suggest_workers,
    unit_seconds,
)
from pcace_dist.worker.reduce import PAIRS_AT_A_TIME

FREE = Timings(
    driver=0.0,
    ray=0.0,
    imports=0.0,
    load=0.0,
    pilot_fixed=0.0,
    pilot_batch=0.0,
    begin=0.0,
    forward=0.0,
    tap_row=0.0,
    statistics_row=0.0,
    processor_row=0.0,
    decode_row=0.0,
    read_row=0.0,
    flush=0.0,
    add_row=0.0,
    part=0.0,
    solve=0.0,
    ranking=0.0,
)
LOAD = Workload(
    images=6400,
    bytes=640_000_000,
    files=4,
    units=(100,) * 64,
    groups=2,
    targets=3,
    channels=96,
    layers=2,
    blocks=(64, 32),
    batch=32,
    pilot_rows=320,
    pilot_bytes=32_000_000,
    row_bytes=700,
    gram_bytes=10_000_000,
    model_bytes=40_000_000,
    kept_bytes=0,
    most_held=1 << 30,
    flush_seconds=600.0,
    flush_pause=60.0,
    flush_share=0.05,
    waiting_share=0.25,
)
ONE = Machine(cores=1.0)


def test_equal_tasks_are_shared_out_evenly() -> None:
    assert makespan([2.0] * 12, 4) == 6.0
    assert makespan([2.0] * 13, 4) == 8.0
    assert makespan([], 4) == 0.0


def test_a_long_last_task_is_waited_for() -> None:
    assert makespan([1.0, 1.0, 1.0, 1.0, 10.0], 2) == 12.0


def test_more_workers_than_tasks_do_not_help() -> None:
    assert makespan([3.0, 3.0], 64) == 3.0


def test_a_reserved_task_is_taken_from_a_worker_that_is_busy() -> None:
    assert makespan([1.0, 1.0, 5.0, 1.0], 2) == 6.0  # 1 + 5, and 1 + 1
    assert makespan([1.0, 1.0, 5.0, 1.0], 2, ahead=True) == 5.0  # 1 + 1, and 5; the last one is taken over
    assert makespan([10.0, 2.0, 1.0], 2, ahead=True) == 10.0  # the second worker takes what the first had reserved


def test_a_unit_takes_as_long_as_its_slowest_part() -> None:
    model = replace(FREE, forward=0.32, tap_row=0.001, statistics_row=0.001)
    assert unit_seconds(100, LOAD, model, ONE) == pytest.approx(4 * 0.32 + 0.2)  # the fourth batch is padded
    assert unit_seconds(100, LOAD, replace(model, decode_row=0.05), ONE) == pytest.approx(5.0)
    assert unit_seconds(100, LOAD, replace(model, decode_row=0.05), Machine(1, threads=5)) == pytest.approx(1.48)
    assert unit_seconds(100, LOAD, replace(model, processor_row=0.04), Machine(0.5)) == pytest.approx(8.0)


def test_the_stages_add_up_to_the_whole() -> None:
    took = replace(
        FREE, driver=3.0, ray=4.0, imports=2.0, load=1.0, pilot_fixed=1.0, pilot_batch=0.5, forward=1.0, begin=2.0,
        flush=0.25, solve=0.01, ranking=0.5,
    )  # fmt: skip
    one = predict(LOAD, took, 8, ONE, node_start=60.0, price=3.6)
    assert one.start == ROUND + 70.0
    assert one.pilot == ROUND + 6.0  # ten batches
    assert one.main_pass == ROUND + 2.0 + 64 / 8 * 4.0 + 0.25
    assert one.reduce == ROUND + 64 * 2 * 0.01  # the larger of two blocks
    assert one.publish == ROUND + 2 * 3 * 0.5  # one batch, in the driver
    assert one.seconds == one.start + one.pilot + one.main_pass + one.reduce + one.publish
    assert one.price == pytest.approx(8 * one.seconds / 1000)


def test_many_rankings_are_shared_out_among_the_workers() -> None:
    load = replace(LOAD, groups=100, targets=1, channels=1024)  # every ranking is a batch of its own
    assert ranking_seconds(load, replace(FREE, ranking=2.0), 10) == pytest.approx(20.0)
    assert RANKED_TOGETHER == PAIRS_AT_A_TIME


def test_workers_that_share_a_core_start_one_after_the_other() -> None:
    took = replace(FREE, imports=4.0, load=1.0)
    assert predict(LOAD, took, 4, ONE, sharing=2.0).start == ROUND + 10.0
    assert predict(LOAD, took, 4, ONE, sharing=0.5).start == ROUND + 5.0


def test_small_segments_are_codes_and_large_ones_sums() -> None:
    took = replace(FREE, add_row=1e-4, forward=0.32)
    few = predict(LOAD, took, 1, ONE)
    assert few.reduce - ROUND == pytest.approx(LOAD.images * LOAD.channels * 1e-4)  # added up by the reduce
    assert few.bytes_written == LOAD.images * LOAD.row_bytes
    many = replace(LOAD, images=6_400_000, units=(100_000,) * 64)
    assert predict(many, took, 1, ONE).reduce == pytest.approx(ROUND)  # added up by the workers
    assert predict(many, took, 1, ONE).main_pass > 6_400_000 * LOAD.channels * 1e-4


def test_flushes_come_early_where_they_are_small_against_what_was_read() -> None:
    assert flush_every(10_000.0, LOAD, 1) == 60.0
    assert flush_every(10_000.0, replace(LOAD, bytes=1_000_000), 1) == 600.0


def test_traffic_is_data_pilot_model_and_attempts() -> None:
    one = predict(LOAD, FREE, 3, ONE)
    attempts = LOAD.images * LOAD.row_bytes
    assert one.bytes_read == 640_000_000 + 32_000_000 + 4 * 40_000_000 + attempts
    assert predict(replace(LOAD, kept_bytes=123), FREE, 3, ONE).bytes_written == attempts + 123


def test_workers_are_suggested_while_they_are_paid_for_working() -> None:
    busy = replace(FREE, forward=100.0, imports=10.0)
    assert suggest_workers(LOAD, busy, ONE) == 64  # as many as there are units
    waiting = replace(FREE, forward=0.001, imports=10.0)
    assert suggest_workers(LOAD, waiting, ONE) == 1


def test_cpus_are_suggested_by_what_decoding_takes_beside_the_model() -> None:
    assert suggest_cpus(LOAD, replace(FREE, forward=0.32, processor_row=0.01)) == 1
    assert suggest_cpus(LOAD, replace(FREE, forward=0.32, processor_row=0.035)) == 4


def test_the_smallest_of_equally_fast_batches_is_suggested() -> None:
    assert suggest_batch({16: 1.0, 32: 0.52, 64: 0.51, 128: 0.6}) == 32


def test_a_worker_needs_the_largest_of_what_comes_one_after_the_other() -> None:
    held = memory(LOAD, process=1 << 30, pilot_maps=5 << 30, rate=1.0)
    assert held.worker == 6 << 30
    assert held.suggested >= held.worker
    assert held.suggested % (1 << 29) == 0
    assert held.statistic == 6400 * 700
    assert held.accumulator + held.unit < 5 << 30  # the pilot's maps are the most here
    limited = memory(replace(LOAD, most_held=1000), process=1, pilot_maps=0, rate=100.0)
    assert limited.accumulator == 1000


def test_an_accumulator_is_codes_until_it_is_grams_with_rows_that_wait_beside_them() -> None:
    few = memory(LOAD, process=0, pilot_maps=0, rate=1.0)
    assert few.accumulator == 2 * 300 * 700  # 601 images until a flush, two groups
    assert few.unit == 100 * 700  # the largest unit's rows are there once more, until they are added
    many = memory(replace(LOAD, gram_bytes=200_000), process=0, pilot_maps=0, rate=1.0)
    assert many.accumulator == 2 * 1.25 * 200_000
    assert many.worker >= many.accumulator + many.unit
