"""The arithmetic of an estimate, where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pcace_dist.commands.estimate import ROUND, STAGES, Cost, Timings, Workload, describe, in_turns, predict, suggest

FREE = Timings(
    driver=0.0,
    worker=0.0,
    pilot=Cost(0.0),
    begin=0.0,
    row=Cost(0.0),
    stages={"forward": 0.01},
    flush=0.0,
    add_row=0.0,
    part=0.0,
    solve=0.0,
    ranking=0.0,
)
LOAD = Workload(
    bytes=640_000_000,
    units=(100.0,) * 64,
    groups=2,
    targets=3,
    blocks=(64, 32),
    row_bytes=700,
    gram_bytes=10_000_000,
    model_bytes=40_000_000,
    kept_bytes=0,
    most_held=1 << 30,
    flush_seconds=600.0,
)


def test_equal_tasks_are_shared_out_evenly() -> None:
    assert in_turns([2.0] * 12, 4) == 6.0
    assert in_turns([2.0] * 13, 4) == 8.0
    assert in_turns([], 4) == 0.0


def test_a_turn_lasts_as_long_as_its_longest_task() -> None:
    assert in_turns([1.0, 1.0, 1.0, 1.0, 10.0], 2) == 12.0
    assert in_turns([1.0, 1.0, 5.0, 1.0], 2) == 6.0


def test_more_workers_than_tasks_do_not_help() -> None:
    assert in_turns([3.0, 3.0], 64) == 3.0


def test_a_worker_with_fewer_cores_takes_the_processor_time_that_was_seen() -> None:
    assert Cost(2.0, 6.0).on(4.0) == 2.0  # it was read and decoded beside the model
    assert Cost(2.0, 6.0).on(2.0) == 3.0
    assert Cost(2.0).on(0.5) == 2.0
    image = replace(FREE, row=Cost(0.01, 0.04))
    assert predict(LOAD, image, 1, 0.5)["main_pass"] == pytest.approx(ROUND + 6400 * 0.08)


def test_the_stages_add_up_to_the_whole() -> None:
    took = replace(
        FREE,
        driver=3.0,
        worker=7.0,
        pilot=Cost(6.0, 8.0),
        row=Cost(0.04),
        begin=2.0,
        flush=0.25,
        solve=0.01,
        ranking=0.5,
    )
    one = predict(LOAD, took, 8, 1.0)
    assert one["start"] == ROUND + 10.0
    assert one["pilot"] == ROUND + 8.0
    assert one["main_pass"] == ROUND + 2.0 + 64 / 8 * 4.0 + 0.25
    assert one["reduce"] == ROUND + 64 * 2 * 0.01  # the larger of two blocks
    assert one["publish"] == ROUND + 2 * 3 * 0.5  # one batch, in the driver
    assert one["seconds"] == pytest.approx(sum(one[stage] for stage in STAGES))


def test_many_rankings_are_shared_out_among_the_workers() -> None:
    took = replace(FREE, ranking=2.0)
    many = replace(LOAD, groups=100, targets=1, blocks=(64,) * 16)  # every ranking is a batch of its own
    assert predict(many, took, 10, 1.0)["publish"] == ROUND + 20.0
    large = replace(LOAD, groups=1, targets=1, blocks=(64,) * 400)  # one ranking is not divided
    assert predict(large, took, 10, 1.0)["publish"] == ROUND + 2.0


def test_small_segments_are_codes_and_large_ones_sums() -> None:
    took = replace(FREE, add_row=1e-4, row=Cost(0.01))
    few = predict(LOAD, took, 1, 1.0)
    assert few["reduce"] - ROUND == pytest.approx(LOAD.images * 64 * 1e-4 + LOAD.images * 32 * 1e-4)
    assert few["bytes_written"] == LOAD.images * LOAD.row_bytes
    many = replace(LOAD, units=(100_000.0,) * 64)
    assert predict(many, took, 1, 1.0)["reduce"] == pytest.approx(ROUND)  # added up by the workers
    assert predict(many, took, 1, 1.0)["main_pass"] > 6_400_000 * LOAD.channels * 1e-4


def test_flushes_come_early_where_they_are_small_against_what_was_read() -> None:
    """In 1,200 seconds: one a minute, or one in ten minutes; the attempts are what the reduce takes in."""
    took = replace(FREE, part=1.0, row=Cost(1200 / LOAD.images))

    def attempts(load: Workload, workers: int) -> float:
        return float(predict(load, took, workers, 1.0)["reduce"] - ROUND) / load.groups / len(load.blocks)

    one_block = replace(LOAD, blocks=(96,))
    assert attempts(one_block, 1) == pytest.approx(20)
    assert attempts(replace(one_block, bytes=1_000_000), 1) == pytest.approx(2)
    assert attempts(one_block, 64) == pytest.approx(64)  # one of each worker


def test_traffic_is_data_pilot_model_and_attempts() -> None:
    one = predict(LOAD, FREE, 3, 1.0)
    attempts = LOAD.images * LOAD.row_bytes
    assert one["bytes_read"] == 640_000_000 + 640_000_000 + 4 * 40_000_000 + attempts  # the pilot reads 1 GiB at most
    assert predict(replace(LOAD, kept_bytes=123), FREE, 3, 1.0)["bytes_written"] == attempts + 123


def test_workers_are_suggested_while_they_are_paid_for_working() -> None:
    busy = replace(FREE, row=Cost(3.0), worker=10.0)
    assert suggest(LOAD, busy, 1.0)["workers"] == 64  # as many as there are units
    waiting = replace(FREE, row=Cost(3e-5), worker=10.0)
    assert suggest(LOAD, waiting, 1.0)["workers"] == 1


def test_cpus_are_suggested_by_what_decoding_takes_beside_the_model() -> None:
    assert suggest(LOAD, replace(FREE, row=Cost(0.01, 0.01)), 1.0)["cpus"] == 1
    assert suggest(LOAD, replace(FREE, row=Cost(0.01, 0.035)), 1.0)["cpus"] == 4


def sums(load: Workload) -> float:
    """Bytes that the sums take in the only worker, which does an image a second."""
    return float(predict(load, replace(FREE, row=Cost(1.0)), 1, 1.0)["sums"])


def test_a_worker_holds_codes_until_a_flush_and_then_grams_with_rows_that_wait_beside_them() -> None:
    one_block, unit = replace(LOAD, gram_bytes=100_000, blocks=(1,) * 96), 100 * 700  # whose rows are there once more
    slow = replace(one_block, bytes=1_000_000)  # of which a flush is no small part: one in 600 s, eleven in 6,400 s
    assert sums(replace(slow, gram_bytes=10_000_000)) == int(1.25 * 6400 / 11 * 700 + unit)
    assert sums(slow) == int(1.25 * 2 * 100_000 + unit)
    assert sums(replace(slow, most_held=1000)) == 1000 + unit


def test_a_reduce_task_holds_one_block_of_all_rows() -> None:
    one_block = replace(LOAD, blocks=(96,))
    assert sums(one_block) == 3 * 10_000_000 + 6400 * 700


def test_the_text_names_price_and_what_is_suggested() -> None:
    one = predict(LOAD, FREE, 2, 1.0)
    counts = dict.fromkeys(("images", "files", "units", "channels", "layers", "groups", "targets"), 1)
    found = counts | {
        "bytes": 2048,
        "batch": 32,
        "device": "cpu",
        "memory": {"statistic": 1, "worker": 3 << 30, "process": 1 << 30},
        "timings": {"row": {"clock": 0.02}, "stages": {"read": 0.001, "forward": 0.018}},
        "here": one | {"price": None},
        "predictions": [one | {"price": 1234.5}],
        "suggested": {"workers": 8, "cpus": 2, "memory": 4 << 30},
        "notes": ["group_by: more"],
    }
    text = describe(found)
    assert text.startswith("images:     1 image in 1 file, 2KiB to read, 1 unit of work\n")
    assert "timed here: 20 ms an image on cpu, batch 32 (read 1, forward 18)" in text
    assert " 2 here " in text and text.splitlines()[-4].endswith("  1,234.50")
    assert "suggested:  workers: {max: 8, cpus: 2, memory: 4GiB}\nnote:       group_by: more" in text
