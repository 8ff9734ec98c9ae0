"""Driver processes that start within a fraction of a second: forked from a server that has imported everything.

For tests that need many drivers. Each is a process of its own, with its own Ray connection and its own signals; only
the imports, most of a short driver's time, are shared. Ray is imported after the fork, it does not survive one.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import TracebackType

from tests.faults.harness import ROOT

PRELOADED = ["pcace_dist.cli", "pcace_dist.service.prepare", "pcace_dist.run", "boto3", "torchvision"]  # Ray: no forks


def warm_server() -> ForkServerContext:
    """The context from which warm drivers are started; its server starts with the first of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def drive(job: str, env: dict[str, str], log: str) -> None:
    """`pcace rank JOB` in this process."""
    from pcace_dist.cli import main

    sink = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    raise SystemExit(main(["rank", job]))


class WarmDriver:
    """As `harness.Driver`, for drivers that are not disturbed: it may end or be ended, and says what it said."""

    def __init__(self, server: ForkServerContext, job: Path, env: Mapping[str, str]) -> None:
        self._log = job.with_name(f"{job.stem}-{time.monotonic_ns()}.log")
        self._process = server.Process(target=drive, args=(str(job), dict(env), str(self._log)))

    def __enter__(self) -> WarmDriver:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def errors(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def code(self) -> int | None:
        """Its exit code; None while it lives."""
        return self._process.exitcode
