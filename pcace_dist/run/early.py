"""Ray's workers asked for before the driver has imported torch: both import their libraries at the same time.

Only where the run will be on Ray whatever its data and model are. Importing this module imports neither torch nor Ray.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcace_dist.artifacts.run import Run
from pcace_dist.config.lasting import refuse_temporary
from pcace_dist.config.resolve import storage_of
from pcace_dist.errors import UserError
from pcace_dist.executors.base import WorkerShape
from pcace_dist.executors.choice import ExecutorKind, wanted_executor
from pcace_dist.executors.ray_session import is_wanted, ray_session
from pcace_dist.imports import quick_imports
from pcace_dist.progress.display import RunDisplay
from pcace_dist.storage.files import normalised

if TYPE_CHECKING:
    from pcace_dist.config.job import Job
    from pcace_dist.executors.ray_executor import EarlyWorkers


@dataclass(frozen=True)
class Early:
    """Workers that were asked for before the run began, and the seconds in which Ray was started or joined."""

    workers: EarlyWorkers
    seconds: float


@contextmanager
def early_workers(job: Job) -> Iterator[Early | None]:
    """A session on Ray with the job's workers on their way; None where the run may do without Ray, or has ended.

    Raises JobError, PcaceError (ray_session), StoreUnavailable.
    """
    if not _needs_ray(job):
        yield None
        return
    with ExitStack() as session:
        with RunDisplay() as display:
            display.prepare()
            began, on_sigterm = time.monotonic(), signal.getsignal(signal.SIGTERM)
            with quick_imports():
                from pcace_dist.executors.ray_executor import EarlyWorkers
            session.enter_context(ray_session())
            if on_sigterm is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put in its own
            workers = EarlyWorkers(WorkerShape.of(job.workers))
            session.callback(workers.release)
            early = Early(workers, time.monotonic() - began)
        yield early


def _needs_ray(job: Job) -> bool:
    """Whether the run goes on Ray in any case. What is wrong with the job is not said here."""
    wanted = wanted_executor()
    if not (wanted == ExecutorKind.RAY or (wanted is None and is_wanted())):
        return False
    try:
        refuse_temporary(job)
        return Run(normalised(job.output), storage_of(job)).finished_at is None
    except UserError:
        return False
