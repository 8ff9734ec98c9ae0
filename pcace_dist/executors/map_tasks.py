"""Independent tasks, each on any worker: results in the order of the tasks. No Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from pcace_dist.errors import Stopped, StoreUnavailable
from pcace_dist.executors.base import Executor, Task
from pcace_dist.executors.event_loop import EventLoop, LoopControl

log = logging.getLogger(__name__)

R = TypeVar("R")


def map_tasks(
    executor: Executor, tasks: Sequence[Task[R]], control: LoopControl, on_result: Callable[[], None] = lambda: None
) -> list[R]:
    """Run the tasks and return their results. `on_result` is called after each.

    The task of a lost worker is given to another one. What a task raises is raised here, after the other workers have
    ended theirs. Raises JobError when there was no worker for `workers.start_timeout`, Stopped when told to stop.
    """
    loop = _TaskMap(executor, tasks, control, on_result)
    loop.run()
    return loop.results()


class _TaskMap(EventLoop, Generic[R]):
    def __init__(
        self, executor: Executor, tasks: Sequence[Task[R]], control: LoopControl, on_result: Callable[[], None]
    ) -> None:
        super().__init__(executor, control)
        self._on_result = on_result
        self._tasks = tasks
        self._waiting = list(range(len(tasks)))[::-1]
        self._index: dict[str, int] = {}  # of the task that a worker has in hand
        self._results: dict[int, R] = {}
        self._error: BaseException | None = None
        if tasks:
            self.without_result = f"none finished {tasks[0].name}"

    def results(self) -> list[R]:
        if self._error is not None:
            raise self._error
        return [self._results[index] for index in range(len(self._tasks))]

    def _joined(self, worker: str) -> None:  # noqa: ARG002 (the event loop's)
        self._give_work()

    def _all_done(self) -> bool:
        return self._error is not None or len(self._results) == len(self._tasks)

    def _give_work(self) -> None:
        if not self._executor.members:
            self._executor.replace()
        for worker in self._executor.up:
            if worker not in self._in_hand and self._waiting and self._error is None:
                self._index[worker] = self._waiting.pop()
                self._call(worker, self._tasks[self._index[worker]], partial(self._done, worker))

    def _done(self, worker: str, result: R) -> None:
        self._losses_in_a_row = 0
        self._results[self._index.pop(worker)] = result
        self._on_result()

    def _usable(self) -> int:
        return len(self._executor.up)

    def _stop(self) -> None:
        raise Stopped("stopped; what is in the ledger stays, the same command goes on")

    def _failed(self, worker: str, doing: str, error: BaseException) -> None:  # noqa: ARG002 (the event loop's)
        self._error = self._error or error
        self._index.pop(worker, None)
        if isinstance(error, StoreUnavailable):
            self._executor.stop_work()  # the others wait for the same storage

    def _lost(self, worker: str, reason: str) -> None:
        log.warning("worker %s was lost: %s", worker, reason, extra={"actor": worker})
        if worker in self._index:
            self._waiting.append(self._index.pop(worker))

    def _explained(self, worker: str, reason: str, *, with_node: bool) -> None:
        pass  # its task waits already
