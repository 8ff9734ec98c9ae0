"""Fixtures: one local Ray for the tests of a folder that run whole jobs; and whole jobs without Ray, for the many."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest
import ray

from pcace_dist.commands import evaluate_on_workers
from pcace_dist.executors.base import WorkerShape
from pcace_dist.executors.choice import ExecutorKind
from pcace_dist.executors.threads import ThreadExecutor
from pcace_dist.run import rank
from pcace_dist.run.model_run import ModelRun


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=256 << 20,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def in_process() -> Iterator[None]:
    """Whole jobs in this process (`jobs_without_ray`)."""
    with jobs_without_ray():
        yield


@pytest.fixture
def without_ray() -> Iterator[None]:
    """The same for one test of a module whose others need Ray."""
    with jobs_without_ray():
        yield


def in_threads(run: ModelRun) -> ThreadExecutor:
    """The run's workers as threads, each with a model of its own."""
    return ThreadExecutor(run._preparation.spec, WorkerShape.of(run._job.workers))


@contextlib.contextmanager
def jobs_without_ray() -> Iterator[None]:
    """Whole jobs in this process: workers are threads, there is no cluster. The rest is what `pcace rank` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(ModelRun, "_executor", in_threads)
        patch.setattr(evaluate_on_workers, "wanted_executor", lambda _: ExecutorKind.THREADS)
        for module in (rank, evaluate_on_workers):
            patch.setattr(module, "ray_session", contextlib.nullcontext)
        yield
