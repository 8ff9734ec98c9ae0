"""One worker in the caller's thread, so that a debugger stops inside a task. No Ray.

A task runs while the caller asks for events: meanwhile there is no progress, and a signal is seen after the task only.
The worker cannot be lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pcace_dist.executors.base import Event, Task, WorkerShape
from pcace_dist.executors.local import LocalExecutor
from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import WorkerBody


class InlineExecutor(LocalExecutor):
    """Runs tasks one after the other, whatever `shape.maximum` says. Use as a context manager."""

    def __init__(
        self,
        spec: WorkSpec | CodesSpec,
        shape: WorkerShape,
        *,
        prefix: str = "a",
        make_worker: Callable[[str], Any] = WorkerBody,
    ) -> None:
        super().__init__(spec, replace(shape, maximum=1), prefix=prefix, make_worker=make_worker)
        self._calls: dict[str, Task[Any]] = {}

    def call(self, worker: str, task: Task[Any]) -> None:
        self._calls[worker] = task

    def events(self, timeout: float) -> Iterator[Event]:
        if not self._calls:
            time.sleep(timeout)
            return
        worker, task = self._calls.popitem()
        try:
            value = task.run_on(self._workers[worker])
        except Exception as error:
            yield self._failed(worker, task, error)
        else:
            yield self._finished(worker, task, value)

    def release(self, worker: str) -> None:
        self._calls.pop(worker, None)
        self._infos.pop(worker, None)
        if (released := self._workers.pop(worker, None)) is not None:
            released.stop()
