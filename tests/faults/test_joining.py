"""A cluster with two kinds of machines, and addresses of Ray that a driver cannot join: no run waits for ever."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.faults.harness import ROWS, rankings, slow_job, summary, write_job
from tests.faults.namespace import run_scenario

pytestmark = pytest.mark.faults


def test_a_run_goes_on_with_the_machines_that_are_admitted(data: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    workers = {"min": 2, "max": 2, "start_timeout": 90}
    write_job(tmp_path / "job.json", slow_job(data, tmp_path / "run", seconds=0.0, workers=workers))
    text = run_scenario("two_kinds", tmp_path, 420, module="tests.faults.joining")
    assert "waits for workers: 1 of workers.min 2 admitted" in text
    found = summary(tmp_path / "run")
    assert found["images"] == ROWS
    assert found["workers_refused"] >= 1
    assert found["workers_short"].startswith("started with 1 of workers.min 2 workers: ")
    assert "Processor" in found["workers_short"]
    assert rankings(tmp_path / "run").equals(undisturbed)


def test_an_address_that_cannot_be_joined_is_one_line(data: Path, tmp_path: Path) -> None:
    write_job(tmp_path / "job.json", slow_job(data, tmp_path / "run", seconds=0.0))
    run_scenario("wrong_addresses", tmp_path, 560, module="tests.faults.joining")
