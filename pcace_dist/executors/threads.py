"""Workers as threads of this process: for small runs, which end before a cluster would have started. No Ray.

A thread counts as lost only when its task shows no progress for too long. A thread cannot be ended from outside, so a
lost one goes on until its task ends.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any, Self

import torch

from pcace_dist.executors.base import Event, Executor, Explained, Lost, Task, WorkerShape
from pcace_dist.executors.start_patience import Heartbeats
from pcace_dist.models.settings import settings_restored
from pcace_dist.worker.allocator import memory_restored
from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import Progress, WorkerBody

log = logging.getLogger(__name__)

END_SECONDS = 30.0  # to wait for a thread that is told to stop: a batch at most
CLOSE = Task.of(WorkerBody.close)


class _Thread:
    """A worker's thread: runs calls one after the other. The process does not wait for it when it ends."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Task[Any], worker: object) -> Future[Any]:
        future: Future[Any] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(task.run_on(worker))
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(call)
        return future

    def end(self, seconds: float) -> bool:
        """End after the call in hand. Waits at most `seconds`; returns whether the thread has ended."""
        self._calls.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


class ThreadExecutor(Executor):
    """A thread for each worker. Use as a context manager.

    Inside the block, torch's settings are those of a worker process; afterwards they are what they were.
    """

    _thread_class: Callable[[str], Any] = _Thread

    def __init__(
        self,
        spec: WorkSpec | CodesSpec,
        shape: WorkerShape,
        *,
        prefix: str = "a",
        make_worker: Callable[[str], Any] = WorkerBody,
    ) -> None:
        """`make_worker`: takes the worker's name."""
        super().__init__(spec, shape, prefix=prefix)
        self._make_worker = make_worker
        self._settings = ExitStack()
        self._workers: dict[str, WorkerBody] = {}
        self._threads: dict[str, _Thread] = {}
        self._calls: dict[Future[Any], tuple[str, Task[Any]]] = {}
        self._heartbeats = Heartbeats()
        self._unexplained: deque[str] = deque()  # lost workers for which `Explained` follows

    def __enter__(self) -> Self:
        self._settings.enter_context(settings_restored())
        self._settings.enter_context(memory_restored())
        torch.set_num_threads(1)
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._settings.close()

    def resources(self) -> str:
        return f"{os.cpu_count()} CPUs of this machine"

    @property
    def members(self) -> list[str]:
        return list(self._workers)

    def stop_work(self) -> None:
        for worker in self.up:
            self._workers[worker].stop()

    def call(self, worker: str, task: Task[Any]) -> None:
        self._calls[self._threads[worker].submit(task, self._workers[worker])] = worker, task

    def events(self, timeout: float) -> Iterator[Event]:
        while self._unexplained:
            yield Explained(self._unexplained.popleft(), with_node=False)
        yield from self._lose_silent()
        if not self._calls:
            time.sleep(timeout)
            return
        done, _ = wait(list(self._calls), timeout=timeout, return_when=FIRST_COMPLETED)
        for future in done:
            call = self._calls.pop(future, None)
            if call is not None:
                error = future.exception()
                yield self._finished(*call, future.result()) if error is None else self._failed(*call, error)

    def release(self, worker: str) -> None:
        self._end(worker, END_SECONDS)

    def _end(self, worker: str, seconds: float) -> None:
        if worker not in self._workers:
            return
        body = self._workers.pop(worker)
        body.stop()
        self._infos.pop(worker, None)
        for future in [future for future, (name, _) in self._calls.items() if name == worker]:
            future.cancel()
            del self._calls[future]
        thread = self._threads.pop(worker)
        thread.submit(CLOSE, body)
        if not thread.end(seconds):
            log.warning(
                "worker %s: its thread does not end; it is no longer waited for", worker, extra={"actor": worker}
            )

    def _lose_silent(self) -> Iterator[Event]:
        """Workers whose task has shown no progress for too long are lost."""
        progress = self._progress()
        calls = {name: (future, progress[name]) for future, (name, _) in self._calls.items() if name in self._infos}
        for worker in self._heartbeats.silent(calls):
            self._end(worker, 0.0)
            self._unexplained.append(worker)
            yield Lost(worker, f"no sign of progress for {self._heartbeats.seconds:g} s")

    def _start(self, worker: str) -> None:
        self._workers[worker] = self._make_worker(worker)
        self._threads[worker] = self._thread_class(f"pcace-{worker}")
        self.call(worker, self._start_task)

    def _progress(self) -> dict[str, Progress]:
        return {name: worker.progress() for name, worker in self._workers.items()}
