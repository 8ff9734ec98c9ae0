"""The one loop over an executor's events, with the one rule for lost workers. No Ray.

    events -> told to stop? -> a task to every idle worker -> no usable worker for too long? -> progress -> again

map_tasks.py runs a list of tasks with it, run/main_pass.py the units of a run.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pcace_dist.errors import PcaceError, StoreUnavailable, UserError
from pcace_dist.executors.base import Event, Executor, Explained, Failed, Finished, Joined, Lost, StartFailed, Task
from pcace_dist.executors.start_patience import StartPatience

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2  # to wait for an event at most
MOST_LOSSES = 12  # in a row, without a result: something is wrong with more than a task or a node

R = TypeVar("R")


@dataclass(frozen=True)
class LoopControl:
    """What a loop gets from its owner. At every turn it asks whether to stop; `on_tick` shows progress."""

    patience: StartPatience
    stopping: Callable[[], bool]
    on_tick: Callable[[], None]


class EventLoop(ABC):
    """Gives work to the workers until all of it is done. A worker has one task at a time."""

    without_result = "no task was finished"  # completes "12 workers in a row were lost and ..."

    def __init__(self, executor: Executor, control: LoopControl) -> None:
        self._executor = executor
        self._control = control
        self._in_hand: dict[str, tuple[Task[Any], Callable[[Any], None]]] = {}  # by worker, with what takes the result
        self._unexplained: dict[str, str] = {}  # lost workers with the reason, until `Explained` comes
        self._losses_in_a_row = 0

    def run(self) -> None:
        """Returns when all is done and no worker has a task in hand."""
        if self._all_done():
            return
        for worker in self._executor.up:
            self._joined(worker)
        while self._in_hand or not self._all_done():
            for event in self._executor.events(TICK_SECONDS):
                self._handle(event)
            if self._control.stopping():
                self._stop()
            self._give_work()
            if not self._all_done():
                self._control.patience.check(self._usable(), self._executor)
            self._control.on_tick()

    # -- what each kind of work does in its own way

    @abstractmethod
    def _joined(self, worker: str) -> None:
        """A worker is up, or was before the loop began."""

    @abstractmethod
    def _all_done(self) -> bool:
        """Whether no more tasks will be given."""

    @abstractmethod
    def _give_work(self) -> None:
        """Give a task to every idle worker."""

    @abstractmethod
    def _usable(self) -> int:
        """Workers that can be given work."""

    @abstractmethod
    def _stop(self) -> None:
        """The run is told to stop; called at every turn from then on."""

    @abstractmethod
    def _failed(self, worker: str, doing: str, error: BaseException) -> None:
        """A task raised, or a worker could not start because storage was away for too long."""

    @abstractmethod
    def _lost(self, worker: str, reason: str) -> None:
        """A worker is no member any more."""

    @abstractmethod
    def _explained(self, worker: str, reason: str, *, with_node: bool) -> None:
        """It is known why a worker of this loop was lost."""

    # -- the same for all

    def _call(self, worker: str, task: Task[R], then: Callable[[R], None]) -> None:
        """Give an idle worker a task; `then` takes the result."""
        self._in_hand[worker] = task, then
        self._executor.call(worker, task)

    def _has_in_hand(self, worker: str, task: Task[Any]) -> bool:
        """Whether this loop waits for the end of the task; the end of a former loop's task is ignored."""
        return worker in self._in_hand and self._in_hand[worker][0] is task

    def _handle(self, event: Event) -> None:
        match event:
            case Joined(worker, info):
                log.info("worker %s is up on %s (process %d)", worker, info.host, info.pid, extra={"actor": worker})
                self._joined(worker)
            case Finished(worker, task, value) if self._has_in_hand(worker, task):
                _, then = self._in_hand.pop(worker)
                then(value)
            case Failed(worker, task, error) if self._has_in_hand(worker, task):
                del self._in_hand[worker]
                self._failed(worker, task.name, error)
            case StartFailed(_, error) if isinstance(error, UserError):
                raise error
            case StartFailed(worker, error) if isinstance(error, StoreUnavailable):
                self._failed(worker, "start", error)
            case StartFailed(worker, error):
                reason = f"does not start: {error!r}"
                log.warning("worker %s %s", worker, reason, extra={"actor": worker})
                self._forget(worker, reason)
                self._replace()
                self._count_loss(reason)
            case Lost(worker, reason, was_up):
                if was_up:
                    self._unexplained[worker] = reason
                self._forget(worker, reason)
                self._replace()
            case Explained(worker, with_node) if worker in self._unexplained:
                reason = self._unexplained.pop(worker)
                if not with_node:
                    self._count_loss(reason)
                self._explained(worker, reason, with_node=with_node)
            case _:
                pass

    def _forget(self, worker: str, reason: str) -> None:
        """Expect nothing more of a worker that is no member any more."""
        self._in_hand.pop(worker, None)
        self._lost(worker, reason)

    def _replace(self) -> None:
        self._executor.replace()

    def _count_loss(self, reason: str) -> None:
        """Count a worker that was lost while its node lives on. Too many of them in a row end the run."""
        self._losses_in_a_row += 1
        if self._losses_in_a_row > MOST_LOSSES:
            raise PcaceError(
                f"{MOST_LOSSES} workers in a row were lost and {self.without_result}; the last one: {reason}"
            )
