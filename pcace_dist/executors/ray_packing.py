"""Packing on Ray: the tasks of one pack spread over a cluster.

packing/ has the plan, the body of a task and its completion mark; they are only called here. A task whose worker or
node is lost runs again and writes the same bytes. A driver that dies leaves finished shards with their records, and the
same command goes on with the others.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pcace_dist.config.resolve import absolute
from pcace_dist.errors import OutputError, PcaceError, Stopped
from pcace_dist.executors.ray_session import ray_session
from pcace_dist.executors.signals import interruptible
from pcace_dist.packing.pack import Packing, PackReport, Progress, finish
from pcace_dist.packing.shards import Layout, PackTask, Written, write_task
from pcace_dist.packing.source import SourceSlice
from pcace_dist.storage.files import Storage, first_line

log = logging.getLogger(__name__)

TICK = 0.5  # seconds to wait for a task at most
LOSSES = 5  # times a task may lose its worker


def run_on_ray(packing: Packing, *, workers: int | None = None, on_progress: Progress | None = None) -> PackReport:
    """Run the tasks that are left, at most `workers` at a time (None: as many as the cluster has cores).

    Raises what a task raised (UserError), Stopped after SIGTERM or SIGINT, and PcaceError where workers are lost again
    and again.
    """
    with interruptible() as interrupt, ray_session():
        interrupt.install()
        written = _run(packing, workers, on_progress, interrupt.is_set)
    return finish(packing, written)


def _run(
    packing: Packing, workers: int | None, on_progress: Progress | None, stopping: Callable[[], bool]
) -> list[Written]:
    import ray

    remote = ray.remote(num_cpus=1, max_retries=LOSSES)(_write)
    layout, dest = ray.put(packing.layout), absolute(packing.dest)
    todo = deque(packing.todo)
    running: dict[Any, PackTask] = {}
    written: list[Written] = []
    seen = packing.seen
    while todo or running:
        if stopping():
            done = len(packing.done) + len(written)
            raise Stopped(f"stopped with {done:,} of {len(packing.tasks):,} parts done; the same command goes on")
        while todo and len(running) < (workers or _cores()):
            task = todo.popleft()
            running[remote.remote(task, packing.slice(task), layout, dest, packing.storage)] = task
        ready, _ = ray.wait(list(running), timeout=TICK)
        for reference in ready:
            shard = _result(reference, running.pop(reference))
            written.append(shard)
            seen += shard.seen
            if on_progress is not None:
                on_progress(seen, packing.source.total)
    return written


def _write(task: PackTask, items: SourceSlice, layout: Layout, dest: str, storage: Storage) -> Written:
    """What a worker runs."""
    started = time.monotonic()
    written = write_task(task, items, layout, dest, storage)
    log.info("%s: %d images in %.1f s", task.name, written.seen, time.monotonic() - started)
    return written


def _result(reference: Any, task: PackTask) -> Written:
    """A task's result. Errors of the job keep their kind; a worker lost too often is named."""
    import ray

    try:
        written: Written = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, PcaceError):
            raise cause from None
        if isinstance(cause, OSError):
            raise OutputError(first_line(cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise PcaceError(
            f"{task.name}: its worker was lost {LOSSES + 1} times ({first_line(error)}); the same command goes on"
        ) from None
    return written


def _cores() -> int:
    """Cores of the cluster now; it may grow."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
