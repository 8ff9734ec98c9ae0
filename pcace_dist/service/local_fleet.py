"""Workers as threads of this process: for work that is over before a cluster has started, and for tests. No Ray.

The same calls and events as `Fleet`; nobody is lost, nobody joins late.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from pcace_dist.models.settings import settings_restored
from pcace_dist.service.allocator import memory_restored
from pcace_dist.service.events import Event, Failed, Finished, Joined, WorkerShape
from pcace_dist.service.spec import CodesSpec, WorkSpec
from pcace_dist.service.worker import WorkerBody, WorkerInfo

if TYPE_CHECKING:
    from pcace_dist.service.together import Together


class LocalFleet:
    """Use as a context manager. Within it torch's settings are those of a worker process; afterwards they are what they
    were."""

    def __init__(
        self,
        spec: WorkSpec | CodesSpec,
        shape: WorkerShape,
        *,
        prefix: str = "a",
        together: Together | None = None,
    ) -> None:
        """`together`: what the workers share; None where each loads a model of its own."""
        self._spec = spec
        self._shape = shape
        self._prefix = prefix
        self._together = together
        self._settings = ExitStack()
        self._count = 0
        self._bodies: dict[str, WorkerBody] = {}
        self._infos: dict[str, WorkerInfo] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._calls: dict[Future[Any], tuple[str, str]] = {}

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
        future = self._pools[actor].submit(getattr(self._bodies[actor], method), *args)
        self._calls[future] = (actor, method)

    def stop_work(self) -> None:
        for actor in self.up:
            self._bodies[actor].stop()

    def release(self, actor: str) -> None:
        self._bodies.pop(actor).stop()
        self._infos.pop(actor, None)
        self._calls = {future: call for future, call in self._calls.items() if call[0] != actor}
        self._pools.pop(actor).shutdown(wait=True, cancel_futures=True)

    def release_pending(self) -> None:
        for actor in self._bodies.keys() - self._infos.keys():
            self.release(actor)

    def replace(self) -> None:
        if len(self._bodies) < self._shape.maximum:
            self._start()

    def events(self, timeout: float) -> Iterator[Event]:
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
            yield Failed(actor, method, error)
        elif method == "ready":
            self._infos[actor] = future.result()
            yield Joined(actor, self._infos[actor])
        else:
            yield Finished(actor, method, future.result())

    def _start(self) -> None:
        self._count += 1
        actor = f"{self._prefix}{self._count:04d}"
        self._bodies[actor] = WorkerBody(actor, self._together)
        self._pools[actor] = ThreadPoolExecutor(1, thread_name_prefix=f"pcace-{actor}")
        self.call(actor, "ready", self._spec)
