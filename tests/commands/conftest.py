"""Whole jobs, on one local Ray and without, and one small finished run with a planted truth for several folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pcace_dist.config.job import parse_job
from pcace_dist.run.rank import run_job
from tests.reporting.conftest import square_job
from tests.reporting.square import write_squares
from tests.whole_jobs import in_process, jobs_without_ray, local_ray, without_ray

__all__ = ["in_process", "local_ray", "without_ray"]


@pytest.fixture(scope="session")
def square_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its channel 0 sees bright squares; by region, whose names are hostile; two targets."""
    folder = tmp_path_factory.mktemp("square-run")
    write_squares(folder / "data", 400)
    with jobs_without_ray():
        assert run_job(parse_job(square_job(folder / "data", folder / "squares"))) == 0
    yield folder / "squares"
