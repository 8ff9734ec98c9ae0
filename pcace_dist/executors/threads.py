"""Workers as threads of this process: for work that is over before a cluster has started, and for tests. No Ray.

The same calls and events as `Fleet`. A thread is lost only where a call of it shows no sign of progress; as a thread
cannot be ended from outside, it is left to itself then.
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
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from pcace_dist.executors.base import Event, Explained, Failed, Finished, Joined, Lost, WorkerShape
from pcace_dist.executors.start_patience import SignsOfLife
from pcace_dist.models.settings import settings_restored
from pcace_dist.worker.allocator import memory_restored
from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import WorkerBody, WorkerInfo

if TYPE_CHECKING:
    from pcace_dist.worker.shared_model import SharedModel

log = logging.getLogger(__name__)

END_SECONDS = 30.0  # to wait for a thread that is told to stop: a batch at most


class _Thread:
    """A worker's thread: calls one after the other. It does not hold up the end of the process."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, method: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(method(*args))
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(call)
        return future

    def end(self, seconds: float) -> bool:
        """Once the call in hand is over. Waits `seconds` for it; whether it is."""
        self._calls.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


class LocalFleet:
    """Use as a context manager. Within it torch's settings are those of a worker process; afterwards they are what they
    were."""

    def __init__(
        self,
        spec: WorkSpec | CodesSpec,
        shape: WorkerShape,
        *,
        prefix: str = "a",
        shared_model: SharedModel | None = None,
    ) -> None:
        """`shared_model`: what the workers share; None where each loads a model of its own."""
        self._spec = spec
        self._shape = shape
        self._prefix = prefix
        self._shared_model = shared_model
        self._settings = ExitStack()
        self._count = 0
        self._bodies: dict[str, WorkerBody] = {}
        self._infos: dict[str, WorkerInfo] = {}
        self._threads: dict[str, _Thread] = {}
        self._calls: dict[Future[Any], tuple[str, str]] = {}
        self._signs = SignsOfLife()
        self._explain: deque[str] = deque()  # lost workers of which `Explained` is to follow

    def __enter__(self) -> LocalFleet:
        self._settings.enter_context(settings_restored())
        self._settings.enter_context(memory_restored())
        torch.set_num_threads(1)
        for _ in range(self._shape.maximum):
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in list(self._bodies):
            self.release(actor)
        self._settings.close()

    @property
    def shape(self) -> WorkerShape:
        return self._shape

    def resources(self) -> str:
        return f"{os.cpu_count()} CPUs of this machine"

    @property
    def up(self) -> list[str]:
        return list(self._infos)

    @property
    def members(self) -> list[str]:
        return list(self._bodies)

    def draining(self) -> set[str]:
        return set()

    def images_seen_by(self) -> dict[str, int]:
        return {actor: self._bodies[actor].progress().images for actor in self._infos}

    def waits_for(self) -> str | None:
        return next((text for body in self._bodies.values() if (text := body.progress().waits_for) is not None), None)

    def call(self, actor: str, method: str, *args: Any) -> None:
        future = self._threads[actor].submit(getattr(self._bodies[actor], method), *args)
        self._calls[future] = (actor, method)

    def stop_work(self) -> None:
        for actor in self.up:
            self._bodies[actor].stop()

    def release(self, actor: str) -> None:
        self._end(actor, END_SECONDS)

    def _end(self, actor: str, seconds: float) -> None:
        body = self._bodies.pop(actor, None)
        if body is None:
            return
        body.stop()
        self._infos.pop(actor, None)
        for future in [future for future, call in self._calls.items() if call[0] == actor]:
            future.cancel()
            del self._calls[future]
        if not self._threads.pop(actor).end(seconds):
            log.warning("worker %s: its thread does not end and is left to itself", actor, extra={"actor": actor})

    def release_pending(self) -> None:
        for actor in self._bodies.keys() - self._infos.keys():
            self.release(actor)

    def replace(self) -> None:
        if len(self._bodies) < self._shape.maximum:
            self._start()

    def events(self, timeout: float) -> Iterator[Event]:
        yield from self._give_up_silent()
        if not self._calls:
            time.sleep(timeout)
            return
        done, _ = wait(list(self._calls), timeout=timeout, return_when=FIRST_COMPLETED)
        for future in done:
            call = self._calls.pop(future, None)
            if call is not None:
                yield from self._event(future, *call)

    def _event(self, future: Future[Any], actor: str, method: str) -> Iterator[Event]:
        error = future.exception()
        if error is not None:
            if method == "ready":
                self.release(actor)
            yield Failed(actor, method, error)
        elif method == "ready":
            self._infos[actor] = future.result()
            yield Joined(actor, self._infos[actor])
        else:
            yield Finished(actor, method, future.result())

    def _give_up_silent(self) -> Iterator[Event]:
        """Workers that have worked for too long on a call without progress are lost; nothing else ends them."""
        while self._explain:
            yield Explained(self._explain.popleft(), with_node=False)
        signs = {
            actor: (future, self._bodies[actor].progress())
            for future, (actor, method) in self._calls.items()
            if method != "ready"
        }
        for actor in self._signs.silent(signs):
            self._end(actor, 0.0)
            self._explain.append(actor)
            yield Lost(actor, f"no sign of progress for {self._signs.seconds:g} s")

    def _start(self) -> None:
        self._count += 1
        actor = f"{self._prefix}{self._count:04d}"
        self._bodies[actor] = WorkerBody(actor, self._shared_model)
        self._threads[actor] = _Thread(f"pcace-{actor}")
        self.call(actor, "ready", self._spec)
