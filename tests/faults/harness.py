"""Real drivers as processes, faults done to them, and what their ledgers say afterwards.

Every process is started in a `with` block and ended by its id when the block is left, its children with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.planted import write_planted

ROOT = Path(__file__).resolve().parents[2]
ROWS = 2560
ROW_GROUP = 128  # a unit each
SLOW = 0.15  # seconds more per batch of 32: a unit takes 0.6 s, the main pass of two workers 6 s
START = 180.0  # seconds that a run on a busy machine may take to get somewhere

Json = dict[str, Any]


def slow_job(data: Path, output: Path | str, seconds: float = SLOW, **changes: Any) -> Json:
    """A job over planted images whose main pass lasts long enough to be disturbed."""
    return {
        "dataset": {"path": str(data), "label": "label"},
        "model": {
            "factory": "tests.faults.networks:slow",
            "kwargs": {"seconds": seconds},
            "weights": "factory",
            "input": {"mode": "L"},
        },
        "layers": "all",
        "target": [{"column": "exponential"}, {"column": "square"}],
        "statistics": {"components": 1, "pilot": 512},
        "compute": {"batch": 32},
        "workers": {"max": 2},
        "output": str(output),
    } | changes


def write_data(folder: Path, rows: int = ROWS) -> Path:
    write_planted(folder, rows, row_group=ROW_GROUP)
    return folder


def write_job(path: Path, job: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(job))
    return path


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with short flushes, without any Ray or AWS settings of its own; runs of any size go
    to a local Ray, whose workers can be killed."""
    held = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    return held | {"RAY_ADDRESS": "local", "PCACE_FLUSH_SECONDS": "1", "OMP_NUM_THREADS": "1"} | more


class Driver:
    """`pcace rank JOB` as a process. Leaving the block ends it and all that it started."""

    def __init__(
        self, job: Path, *arguments: str, env: Mapping[str, str] | None = None, command: Sequence[str] | None = None
    ) -> None:
        self._command = [*(command or (sys.executable, "-m", "pcace_dist", "rank")), str(job), *arguments]
        self._env = environment() if env is None else dict(env)
        self._family: dict[int, psutil.Process] = {}
        self._log = job.with_name(f"{job.stem}-{time.monotonic_ns()}.log")

    def __enter__(self) -> Driver:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._env, stdout=subprocess.DEVNULL, stderr=log
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remember()
        self.kill()
        for member in self._family.values():
            _kill(member)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def errors(self) -> str:
        """What it wrote on stderr so far."""
        return self._log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def remember(self) -> list[psutil.Process]:
        """All processes below the driver now; they are ended with the block even if the driver goes first."""
        try:
            family = psutil.Process(self.pid).children(recursive=True) if not self.ended else []
        except psutil.NoSuchProcess:
            family = []
        self._family |= {member.pid: member for member in family}
        return family

    def workers(self) -> list[psutil.Process]:
        """Ray actors of the class Worker below the driver."""
        return [member for member in self.remember() if is_worker(member)]

    def working(self) -> list[psutil.Process]:
        """Those that have a unit in hand now."""
        return [member for member in self.remember() if is_worker(member, "ray::Worker.work")]

    def wait_until(self, reached: Callable[[], bool], seconds: float = START) -> bool:
        """Wait for a condition; False if the driver ended before it held."""
        deadline = time.monotonic() + seconds
        while not reached():
            if self.ended:
                return reached()
            assert time.monotonic() < deadline, f"not reached within {seconds} s:\n{self.errors[-2000:]}"
            time.sleep(0.01)
        return True

    def kill(self) -> None:
        """SIGKILL the driver itself; its Ray finds out alone."""
        if not self.ended:
            self.remember()
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def finish(self, seconds: float = 300) -> int:
        """Wait for its end; the exit code."""
        deadline = time.monotonic() + seconds
        while not self.ended:
            assert time.monotonic() < deadline, f"the driver did not end within {seconds} s:\n{self.errors[-2000:]}"
            self.remember()
            time.sleep(0.1)
        return self._process.returncode


def run_to_end(job: Path, *arguments: str, env: Mapping[str, str] | None = None, seconds: float = 300) -> str:
    """Run a driver that must succeed; its stderr."""
    with Driver(job, *arguments, env=env) as driver:
        assert driver.finish(seconds) == 0, driver.errors[-4000:]
        return driver.errors


def is_worker(process: psutil.Process, title: str = "ray::Worker") -> bool:
    """Ray renames an actor's process to `ray::Worker` and, while it works, `ray::Worker.work`."""
    try:
        return " ".join(process.cmdline()).startswith(title)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _kill(process: psutil.Process) -> None:
    try:
        if process.is_running():  # also compares the start time, so never another process of the same id
            process.kill()
    except psutil.NoSuchProcess:
        pass


def until(reached: Callable[[], bool], seconds: float, *, every: float) -> None:
    """Wait for a condition. AssertionError where it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not reached within {seconds} s"
        time.sleep(every)


def ledger(output: Path) -> list[Json]:
    """All records of a run on disk."""
    return [json.loads(path.read_text()) for path in sorted((output / "ledger").glob("[0-9]*.json"))]


def kinds(output: Path) -> list[str]:
    return [record["kind"] for record in ledger(output)]


def accepted_units(records: Sequence[Json]) -> list[str]:
    """Units of all accept records, in order, with repetitions if there were any."""
    return [
        unit
        for record in records
        if record["kind"] == "accept"
        for receipt in record["body"]["receipts"]
        for unit in receipt["units"]
    ]


def accepts_of(output: Path) -> int:
    """How many units are accepted by now."""
    return len(accepted_units(ledger(output))) if output.exists() else 0


def units_of(output: Path) -> set[str]:
    return {unit["id"] for record in ledger(output) if record["kind"] == "manifest" for unit in record["body"]["units"]}


def each_unit_was_accepted_once(output: Path) -> bool:
    return sorted(accepted_units(ledger(output))) == sorted(units_of(output))


def rankings(output: Path) -> pa.Table:
    return pq.read_table(output / "rankings.parquet")


def summary(output: Path) -> Json:
    value: Json = json.loads((output / "summary.json").read_text())
    return value
