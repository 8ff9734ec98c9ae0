"""What executors inside the driver's process have in common: workers are plain objects. No Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch

from pcace_dist.executors.base import Executor, WorkerShape
from pcace_dist.models.settings import settings_restored
from pcace_dist.worker.allocator import memory_restored
from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import Progress, WorkerBody


class LocalExecutor(Executor):
    """Inside the block, torch's settings are those of a worker process; afterwards they are what they were."""

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
        self._workers: dict[str, WorkerBody] = {}
        self._settings = ExitStack()

    def __enter__(self) -> Self:
        self._settings.enter_context(settings_restored())
        self._settings.enter_context(memory_restored())
        torch.set_num_threads(1)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._settings.close()

    def resources(self) -> str:
        return f"{os.cpu_count()} CPUs of this machine"

    @property
    def members(self) -> list[str]:
        return list(self._workers)

    def stop_work(self) -> None:
        for worker in self.up:
            self._workers[worker].stop()

    def _start(self, worker: str) -> None:
        self._workers[worker] = self._make_worker(worker)
        self.call(worker, self._start_task)

    def _progress(self) -> dict[str, Progress]:
        return {name: worker.progress() for name, worker in self._workers.items()}
