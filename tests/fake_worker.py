"""A worker without an engine, and a Ray actor of it. Imports little, so that an actor starts quickly."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import ray

from pcace_dist.errors import JobError
from pcace_dist.worker.worker import Progress, WorkerInfo

HANG_SECONDS = 5.0  # longer than a test waits before it takes a worker for silent


class FakeWorker:
    """A worker whose tasks do what their arguments say."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._images = 0
        self._waits_for: str | None = None
        self._stopped = False
        self._imported = False
        self.closed_by: int | None = None  # thread

    def ready(self, spec: str) -> WorkerInfo:
        if spec == "broken":
            raise JobError("model.factory: no such module")
        return WorkerInfo(self._name, "host", self._node(), os.getpid(), "cpu", "w")

    def _node(self) -> str:
        return ""

    def imports(self) -> None:
        self._imported = True

    def has_imported(self) -> bool:
        return self._imported

    def double(self, number: int) -> int:
        self._images += 1
        return 2 * number

    def fail(self, number: int) -> int:
        raise JobError(f"target {number}: is beyond the outputs")

    def double_or_fail(self, number: int) -> int:
        return self.fail(number) if number == 3 else self.double(number)

    def hang_once(self, marker: Path) -> str:
        """The first worker that gets this hangs."""
        with suppress(FileExistsError):
            marker.touch(exist_ok=False)
            time.sleep(HANG_SECONDS)
            return "hung"
        return "done"

    def hang(self) -> None:
        time.sleep(HANG_SECONDS)

    def die(self) -> None:
        os._exit(1)

    def wait_for(self, storage: str | None) -> None:
        self._waits_for = storage

    def thread(self) -> int:
        return threading.get_ident()

    def is_stopped(self) -> bool:
        return self._stopped

    def progress(self) -> Progress:
        return Progress(images=self._images, waits_for=self._waits_for)

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self.closed_by = threading.get_ident()


@ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})
class FakeActor(FakeWorker):
    @ray.method(concurrency_group="control")
    def progress(self) -> Progress:
        return super().progress()

    @ray.method(concurrency_group="control")
    def stop(self) -> None:
        super().stop()

    def _node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())
