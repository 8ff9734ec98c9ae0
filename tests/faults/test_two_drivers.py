"""Two drivers on one output: the lease keeps the second out, the ledger fences the first when it is taken over."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from tests.faults.harness import (
    Driver,
    Json,
    each_unit_was_accepted_once,
    kinds,
    ledger,
    rankings,
    slow_job,
    write_job,
)
from tests.faults.namespace import run_scenario
from tests.faults.scenarios import REPETITIONS

pytestmark = pytest.mark.faults


def accepts(records: list[Json]) -> int:
    return sum(record["kind"] == "accept" for record in records)


def test_a_second_driver_is_told_who_holds_the_run(data: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    output = tmp_path / "run"
    job = write_job(tmp_path / "job.json", slow_job(data, output, seconds=0.5))
    with Driver(job) as first:
        assert first.wait_until(lambda: output.exists() and "open" in kinds(output))
        with Driver(job) as second:
            assert second.finish() == 2, second.errors
            assert f"process {first.pid}" in second.errors.splitlines()[-1] or f"pid {first.pid}" in second.errors
            assert "since" in second.errors.splitlines()[-1]
        assert first.finish() == 0, first.errors
    assert kinds(output).count("open") == 1
    assert rankings(output).equals(undisturbed)


def test_the_loser_of_a_takeover_ends_with_5_and_writes_nothing_more(
    data: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    job = write_job(tmp_path / "job.json", slow_job(data, output, seconds=1.0))
    with Driver(job) as first:
        assert first.wait_until(lambda: output.exists() and "manifest" in kinds(output))
        with Driver(job, "--take-over") as second:
            assert first.finish(120) == 5, first.errors
            assert re.search("another driver has (opened the run|taken the lease)", first.errors)
            assert "Traceback" not in first.errors
            assert second.finish() == 0, second.errors
    records = ledger(output)
    assert [record["epoch"] for record in records] == sorted(record["epoch"] for record in records)
    assert records[-1]["epoch"] == 2
    assert accepts([record for record in records if record["epoch"] == 1]) > 0
    assert each_unit_was_accepted_once(output)
    assert rankings(output).equals(undisturbed)


@pytest.mark.timeout(1200)
def test_two_drivers_started_at_once_never_count_twice(data: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    """Both want the run at the same moment, twenty times: one gets it, the other ends with 2 and the holder's name."""
    write_job(tmp_path / "job.json", slow_job(data, tmp_path / "unused", workers={"max": 1}))
    print(run_scenario("race", tmp_path, 1100))
    outputs = sorted(path for path in tmp_path.glob("run-*") if path.is_dir())
    assert len(outputs) == REPETITIONS
    for output in outputs:
        assert kinds(output).count("open") == kinds(output).count("done") == 1
        assert each_unit_was_accepted_once(output)
        assert rankings(output).equals(undisturbed)
