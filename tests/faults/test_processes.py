"""Killed, stopped and replaced processes: drivers and workers of a local Ray."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.faults.harness import (
    Driver,
    accepted_units,
    each_unit_was_accepted_once,
    kinds,
    ledger,
    rankings,
    run_to_end,
    slow_job,
    summary,
    units_of,
    write_job,
)
from tests.faults.namespace import run_scenario

pytestmark = pytest.mark.faults

SEED = 20


def moments(output: Path, seed: int) -> list[tuple[str, Callable[[], bool], float]]:
    """Ten moments spread over a run: a condition, and seconds to wait from then on."""
    dice = random.Random(seed)

    def records() -> int:
        return len(list((output / "ledger").glob("[0-9]*.json")))

    def accepted(share: float) -> Callable[[], bool]:
        def enough() -> bool:
            there = ledger(output) if records() else []
            total = sum(len(record["body"]["units"]) for record in there if record["kind"] == "manifest")
            return total > 0 and len(accepted_units(there)) >= share * total

        return enough

    def planned() -> bool:
        return records() > 0 and "manifest" in kinds(output)

    return [
        ("before the first record", lambda: True, dice.uniform(1, 4)),
        ("the record `open`", lambda: records() >= 1, 0.0),
        ("plan", lambda: records() >= 1, dice.uniform(0.5, 6)),
        ("main pass begins", planned, 0.0),
        ("main pass", accepted(dice.uniform(0.1, 0.3)), dice.uniform(0, 0.5)),
        ("main pass", accepted(dice.uniform(0.3, 0.5)), dice.uniform(0, 0.5)),
        ("main pass", accepted(dice.uniform(0.5, 0.9)), 0.0),
        ("reduce begins", accepted(1.0), 0.0),
        ("reduce", accepted(1.0), dice.uniform(0, 0.4)),
        ("publish", (output / "rankings.parquet").exists, 0.0),
    ]


def test_a_driver_killed_at_ten_moments_computes_nothing_twice(
    data: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    job = write_job(tmp_path / "job.json", slow_job(data, output))
    for name, reached, pause in moments(output, SEED):
        before = accepted_units(ledger(output)) if output.exists() else []
        with Driver(job) as driver:
            if driver.wait_until(reached):
                time.sleep(pause)
            driver.kill()
        after = accepted_units(ledger(output)) if output.exists() else []
        assert after[: len(before)] == before, name
        assert not set(after[len(before) :]) & set(before), name
    run_to_end(job)
    assert each_unit_was_accepted_once(output)
    assert kinds(output).count("manifest") == 1
    assert kinds(output).count("done") == 1
    assert rankings(output).equals(undisturbed)


def test_workers_killed_again_and_again_change_nothing(data: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    output = tmp_path / "run"
    dice = random.Random(SEED)
    with Driver(write_job(tmp_path / "job.json", slow_job(data, output, seconds=0.3))) as driver:
        assert driver.wait_until(lambda: output.exists() and "manifest" in kinds(output))
        killed, next_at = 0, 1
        while killed < 4 and not driver.ended:
            time.sleep(dice.uniform(0.1, 0.5))
            busy = driver.working()
            done = len(accepted_units(ledger(output)))
            if busy and done >= next_at:
                dice.choice(busy).kill()
                killed, next_at = killed + 1, done + 3  # three deaths during one unit would set it aside
        assert driver.finish() == 0, driver.errors
    assert killed >= 3
    assert each_unit_was_accepted_once(output)
    assert summary(output)["units_set_aside"] == 0
    assert rankings(output).equals(undisturbed)


def test_a_terminated_driver_flushes_and_goes_on_later(data: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    output = tmp_path / "run"
    job = write_job(tmp_path / "job.json", slow_job(data, output, seconds=0.3))
    finished_at_stop = 0
    with Driver(job, env=None) as driver:
        assert driver.wait_until(lambda: output.exists() and "accept" in kinds(output))
        time.sleep(2.0)
        driver.terminate()
        asked = time.monotonic()
        assert driver.finish(60) == 5, driver.errors
        assert time.monotonic() - asked < 30  # the grace period of a spot machine
        assert "Traceback" not in driver.errors
        finished_at_stop = len(accepted_units(ledger(output)))
    assert 0 < finished_at_stop < len(units_of(output))
    assert (summary(output)["outcome"], summary(output)["exit_code"]) == ("stopped", 5)
    run_to_end(job)
    assert each_unit_was_accepted_once(output)
    assert rankings(output).equals(undisturbed)


def test_a_driver_killed_in_the_middle_of_any_ledger_write_leaves_all_of_it_or_nothing(
    data: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    """Between the temporary file and the link, and after the link before the answer, for a record of each kind."""
    output = tmp_path / "run"
    write_job(tmp_path / "job.json", slow_job(data, output, seconds=0.0, workers={"max": 1}))
    run_scenario("cut_writes", tmp_path, 900)
    assert (summary(output)["outcome"], summary(output)["exit_code"]) == ("done", 0)
    assert kinds(output).count("manifest") == kinds(output).count("done") == 1
    assert each_unit_was_accepted_once(output)
    assert rankings(output).equals(undisturbed)
