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

from tests.faults.dying_store import die_in
from tests.faults.harness import ROOT

# not Ray, which does not survive a fork
PRELOADED = [
    "pcace_dist.cli.main",
    "pcace_dist.run.prepare",
    "pcace_dist.artifacts.run",
    "boto3",
    "torchvision",
]  # Ray: no forks


def warm_server() -> ForkServerContext:
    """The context from which warm drivers are started; its server starts with the first of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def drive(job: str, env: dict[str, str], log: str, dying: tuple[str, str] | None) -> None:
    """`pcace rank JOB` in this process, which perhaps kills itself: see `dying_store`."""
    from pcace_dist.cli.main import main

    sink = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    if dying is not None:
        die_in(*dying)
    raise SystemExit(main(["rank", job]))


class WarmDriver:
    """As `harness.Driver`, for drivers left in peace; `dying` is kind and point of `dying_store`."""

    def __init__(
        self, server: ForkServerContext, job: Path, env: Mapping[str, str], dying: tuple[str, str] | None = None
    ) -> None:
        self._log = job.with_name(f"{job.stem}-{time.monotonic_ns()}.log")
        self._process = server.Process(target=drive, args=(str(job), dict(env), str(self._log), dying))

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

    def finish(self, seconds: float = 300) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        self._process.join(seconds)
        assert self.code is not None, f"the driver did not end within {seconds} s:\n{self.errors[-2000:]}"
        return self.code
