"""Data and the undisturbed run that every line of the fault matrix must equal."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.faults.harness import rankings, run_to_end, slow_job, write_data, write_job


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "planted")


@pytest.fixture(scope="session")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Rankings of a run that nothing happened to: one worker, no slowness."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = slow_job(data, folder / "run", seconds=0.0, workers={"max": 1})
    run_to_end(write_job(folder / "job.json", job))
    return rankings(folder / "run")
