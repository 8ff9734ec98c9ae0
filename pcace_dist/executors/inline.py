"""One worker in the caller's thread, so that a debugger stops inside a task. No Ray.

A task runs inside `call`: meanwhile there is no progress, and a signal takes effect after the task. The worker cannot
be lost.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from pcace_dist.executors.base import Task
from pcace_dist.executors.threads import ThreadExecutor


class _CallersThread:
    """Takes the place of a worker's thread: `submit` runs the task at once."""

    def __init__(self, name: str) -> None:
        pass

    def submit(self, task: Task[Any], worker: object) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(task.run_on(worker))
        except Exception as error:
            future.set_exception(error)
        return future

    def end(self, seconds: float) -> bool:  # noqa: ARG002 (the interface's)
        return True


class InlineExecutor(ThreadExecutor):
    """Runs tasks one after the other. Meant for one worker: more would only take turns."""

    _thread_class = _CallersThread
