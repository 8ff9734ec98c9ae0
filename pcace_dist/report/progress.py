"""Progress of a report: a bar in a terminal, a line for each stage in a log. On stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

EVERY = 10.0  # seconds between two lines of one stage in a log


class ReportProgress:
    """Stages one after the other, each with a number of steps; remembers the seconds that each took."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._terminal = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._total = 0
        self._done = 0
        self._begun = self._told = time.monotonic()
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> ReportProgress:
        if self._terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._terminal:
            self._progress.stop()

    def stage(self, name: str, steps: int = 1) -> None:
        """Begin a stage of so many steps."""
        self._close()
        self._stage, self._total, self._done = name, steps, 0
        self._begun = self._told = time.monotonic()
        if self._terminal:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(name, total=steps)
        elif not self._quiet:
            print(f"pcace report: {name}" + (f" ({steps:,})" if steps > 1 else ""), file=sys.stderr, flush=True)

    def step(self, steps: int = 1) -> None:
        """So many steps of the stage are done."""
        self._done += steps
        if self._terminal and self._task is not None:
            self._progress.update(self._task, advance=steps)
        elif not self._quiet and time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            print(f"pcace report: {self._stage} {self._done:,} of {self._total:,}", file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self._stage:
            spent = self.seconds.get(self._stage, 0.0) + time.monotonic() - self._begun
            self.seconds[self._stage] = spent
            self._stage = ""
