"""The arithmetic of an estimate, where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pcace_dist.commands.estimate import (
    ROUND,
    Machine,
    Timings,
    Workload,
    attempts_of,
    in_turns,
    memory,
    predict,
    suggest,
    unit_seconds,
)

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
    bytes=640_000_000,
    files=4,
    units=(100.0,) * 64,
    groups=2,
    targets=3,
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
)
ONE = Machine(cores=1.0)


def test_equal_tasks_are_shared_out_evenly() -> None:
    assert in_turns([2.0] * 12, 4) == 6.0
    assert in_turns([2.0] * 13, 4) == 8.0
    assert in_turns([], 4) == 0.0


def test_a_turn_lasts_as_long_as_its_longest_task() -> None:
    assert in_turns([1.0, 1.0, 1.0, 1.0, 10.0], 2) == 12.0
    assert in_turns([1.0, 1.0, 5.0, 1.0], 2) == 6.0


def test_more_workers_than_tasks_do_not_help() -> None:
    assert in_turns([3.0, 3.0], 64) == 3.0


def test_a_unit_takes_as_long_as_its_slowest_part() -> None:
    model = replace(FREE, forward=0.32, tap_row=0.001, statistics_row=0.001)
    assert unit_seconds(100, LOAD, model, ONE) == pytest.approx(4 * 0.32 + 0.2)  # the fourth batch is padded
    assert unit_seconds(100, LOAD, replace(model, decode_row=0.05), ONE) == pytest.approx(5.0)
    assert unit_seconds(100, LOAD, replace(model, decode_row=0.05), Machine(1.0, threads=5)) == pytest.approx(1.48)
    assert unit_seconds(100, LOAD, replace(model, processor_row=0.04), Machine(0.5)) == pytest.approx(8.0)


def test_the_stages_add_up_to_the_whole() -> None:
    took = replace(
        FREE, driver=3.0, ray=4.0, imports=2.0, load=1.0, pilot_fixed=1.0, pilot_batch=0.5, forward=1.0, begin=2.0,
        flush=0.25, solve=0.01, ranking=0.5,
    )  # fmt: skip
    one = predict(LOAD, took, 8, Machine(1.0, node_start=60.0, price=3.6))
    assert one.start == ROUND + 70.0
    assert one.pilot == ROUND + 6.0  # ten batches
    assert one.main_pass == ROUND + 2.0 + 64 / 8 * 4.0 + 0.25
    assert one.reduce == ROUND + 64 * 2 * 0.01  # the larger of two blocks
    assert one.publish == ROUND + 2 * 3 * 0.5  # one batch, in the driver
    assert one.seconds == one.start + one.pilot + one.main_pass + one.reduce + one.publish
    assert one.price == pytest.approx(8 * one.seconds / 1000)


def test_many_rankings_are_shared_out_among_the_workers() -> None:
    took = replace(FREE, ranking=2.0)
    many = replace(LOAD, groups=100, targets=1, blocks=(64,) * 16)  # every ranking is a batch of its own
    assert predict(many, took, 10, ONE).publish == ROUND + 20.0
    large = replace(LOAD, groups=1, targets=1, blocks=(64,) * 400)  # one ranking is not divided
    assert predict(large, took, 10, ONE).publish == ROUND + 2.0


def test_small_segments_are_codes_and_large_ones_sums() -> None:
    took = replace(FREE, add_row=1e-4, forward=0.32)
    few = predict(LOAD, took, 1, ONE)
    assert few.reduce - ROUND == pytest.approx(LOAD.images * LOAD.channels * 1e-4)  # added up by the reduce
    assert few.bytes_written == LOAD.images * LOAD.row_bytes
    many = replace(LOAD, units=(100_000.0,) * 64)
    assert predict(many, took, 1, ONE).reduce == pytest.approx(ROUND)  # added up by the workers
    assert predict(many, took, 1, ONE).main_pass > 6_400_000 * LOAD.channels * 1e-4


def test_flushes_come_early_where_they_are_small_against_what_was_read() -> None:
    codes = LOAD.images * LOAD.row_bytes
    assert attempts_of(LOAD, 1, 1200.0) == (20, codes / 20)  # one a minute
    assert attempts_of(replace(LOAD, bytes=1_000_000), 1, 1200.0) == (2, codes / 2)
    assert attempts_of(LOAD, 4, 30.0) == (1, codes / 4)


def test_traffic_is_data_pilot_model_and_attempts() -> None:
    one = predict(LOAD, FREE, 3, ONE)
    attempts = LOAD.images * LOAD.row_bytes
    assert one.bytes_read == 640_000_000 + 32_000_000 + 4 * 40_000_000 + attempts
    assert predict(replace(LOAD, kept_bytes=123), FREE, 3, ONE).bytes_written == attempts + 123


def test_workers_are_suggested_while_they_are_paid_for_working() -> None:
    busy = replace(FREE, forward=100.0, imports=10.0)
    assert suggest(LOAD, busy, ONE, {32: 1.0})["workers"] == 64  # as many as there are units
    waiting = replace(FREE, forward=0.001, imports=10.0)
    assert suggest(LOAD, waiting, ONE, {32: 1.0})["workers"] == 1


def test_cpus_are_suggested_by_what_decoding_takes_beside_the_model() -> None:
    assert suggest(LOAD, replace(FREE, forward=0.32, processor_row=0.01), ONE, {32: 1.0})["cpus"] == 1
    assert suggest(LOAD, replace(FREE, forward=0.32, processor_row=0.035), ONE, {32: 1.0})["cpus"] == 4


def test_the_smallest_of_equally_fast_batches_is_suggested() -> None:
    model = replace(FREE, forward=1.0)
    assert suggest(LOAD, model, ONE, {16: 1.0, 32: 0.52, 64: 0.51, 128: 0.6})["batch"] == 32


SLOW = replace(FREE, forward=32.0)  # an image a second


def test_a_worker_needs_the_largest_of_what_comes_one_after_the_other() -> None:
    held = memory(LOAD, SLOW, ONE, process=1 << 30, pilot_maps=5 << 30)
    assert held.worker == 6 << 30
    assert held.suggested >= held.worker
    assert held.suggested % (1 << 29) == 0
    assert held.statistic == 6400 * 700
    assert held.accumulator + held.unit < 5 << 30  # the pilot's maps are the most here
    limited = memory(replace(LOAD, most_held=1000), SLOW, ONE, process=1, pilot_maps=0)
    assert limited.accumulator == 1000


def test_an_accumulator_is_codes_until_it_is_grams_with_rows_that_wait_beside_them() -> None:
    few = memory(LOAD, SLOW, ONE, process=0, pilot_maps=0)
    assert few.accumulator == 601 * 700  # images until a flush
    assert few.unit == 100 * 700  # the largest unit's rows are there once more, until they are added
    many = memory(replace(LOAD, gram_bytes=200_000), SLOW, ONE, process=0, pilot_maps=0)
    assert many.accumulator == 2 * 1.25 * 200_000
    assert many.worker >= many.accumulator + many.unit
