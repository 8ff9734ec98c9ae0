"""Which executor does the work: PCACE_EXECUTOR, or what the run chooses. Ray and torch are imported
only where they are needed."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, assert_never

from pcace_dist.config.job import Job
from pcace_dist.config.sections import Workers
from pcace_dist.errors import JobError
from pcace_dist.executors.base import Executor, WorkerShape
from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import WorkerBody

if TYPE_CHECKING:
    from pcace_dist.executors.ray_executor import EarlyWorkers
    from pcace_dist.worker.shared_model import SharedModel

VARIABLE = "PCACE_EXECUTOR"


class ExecutorKind(StrEnum):
    RAY = "ray"
    THREADS = "threads"
    INLINE = "inline"

    @property
    def workers_are(self) -> str:
        """What summary.json calls the workers."""
        names = {ExecutorKind.RAY: "Ray actors", ExecutorKind.THREADS: "threads of the driver"}
        return names.get(self, "the driver itself")


def wanted_executor(job: Job | None = None) -> ExecutorKind | None:
    """What PCACE_EXECUTOR says; None where it leaves the choice to the run. A job whose model is in memory stays in
    this process: in threads, or in the caller's own where it has a GPU. Raises JobError."""
    wanted = _said_executor()
    if job is None:
        return wanted
    from pcace_dist.models.in_memory import is_in_memory  # with torch

    if not is_in_memory(job.model.factory):
        return wanted
    if wanted == ExecutorKind.RAY:
        raise JobError(f"{VARIABLE} {wanted}: {job.model.factory} is in memory and stays in its process; leave it out")
    return wanted or (ExecutorKind.INLINE if job.workers.gpus else ExecutorKind.THREADS)


def _said_executor() -> ExecutorKind | None:
    value = os.environ.get(VARIABLE) or None
    if value is not None and value not in list(ExecutorKind):
        raise JobError(f"{VARIABLE} {value!r}: is not one of {', '.join(ExecutorKind)}")
    return None if value is None else ExecutorKind(value)


def refuse_threads(reason: str) -> JobError:
    """The error for PCACE_EXECUTOR=threads, or for a model in memory, where threads cannot do the work."""
    if not os.environ.get(VARIABLE):
        return JobError(f"workers: {reason}; the model is in memory, so that threads of this process do the work")
    return JobError(f"{VARIABLE} {ExecutorKind.THREADS}: {reason}; use {ExecutorKind.RAY}, or leave the variable out")


def check_threads(workers: Workers) -> None:
    """Raises JobError where the job asks for more than threads of this process have."""
    for key, amount in (("gpus", workers.gpus), ("resources", workers.resources), ("memory", workers.memory)):
        if amount:
            raise refuse_threads(f"threads of one process cannot have workers.{key} of their own")
    from pcace_dist.worker.shared_model import cores, most_threads

    if most_threads(workers.cpus) < max(1, workers.min):
        raise refuse_threads(
            f"workers.min {max(1, workers.min)} with workers.cpus {workers.cpus:g} take more than this machine's "
            f"{cores()} cores"
        )


def open_executor(
    kind: ExecutorKind,
    spec: WorkSpec | CodesSpec,
    shape: WorkerShape,
    *,
    prefix: str = "a",
    shared: SharedModel | None = None,
    early: EarlyWorkers | None = None,
) -> Executor:
    """An executor, for the caller to enter. There are no more threads than the machine has cores for.

    `shared`: the model that threads share; without it each loads its own. `early`: workers on Ray, on their way.
    """
    if kind == ExecutorKind.INLINE:
        from pcace_dist.executors.inline import InlineExecutor

        return InlineExecutor(spec, replace(shape, maximum=1), prefix=prefix)
    if kind == ExecutorKind.THREADS:
        from pcace_dist.executors.threads import ThreadExecutor
        from pcace_dist.worker.shared_model import most_threads

        shape = replace(shape, maximum=min(shape.maximum, max(1, most_threads(shape.cpus))))
        return ThreadExecutor(spec, shape, prefix=prefix, make_worker=partial(WorkerBody, shared=shared))
    if kind == ExecutorKind.RAY:
        from pcace_dist.executors.ray_executor import RayExecutor

        return RayExecutor(spec, shape, prefix=prefix, early=early)
    assert_never(kind)
