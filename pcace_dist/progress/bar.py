"""Progress on stderr: a bar in a terminal, a line now and then in a log. All commands use it; it knows none of them."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn

from pcace_dist.progress import logs

EVERY = 10.0  # seconds between two lines of a log


class StageBar:
    """Stages one after the other, each with a count of steps. `begin` a stage, then `show` how far it is."""

    def __init__(
        self, prefix: str, clock: ProgressColumn, *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        """`prefix`: of every line. `stream`: stderr unless it is given."""
        self._prefix = prefix
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty() and not logs.is_json() and not quiet
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}", markup=False),
            clock,
            console=Console(file=self._stream),
            transient=True,
        )
        self._task: TaskID | None = None
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self._terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._progress.stop()

    def begin(self, name: str, total: int | None, line: str | None = None, **facts: Any) -> None:
        """Begin a new stage, which replaces the last one. `line`: for a log."""
        self._told = time.monotonic()
        if self._terminal:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(name, total=total, text="")
        elif line is not None:
            self._say(line, **facts)

    def show(
        self,
        done: int,
        total: int | None,
        line: str,
        *,
        text: str | None = None,
        log: bool | None = None,
        **facts: Any,
    ) -> None:
        """`done` of `total` steps (None: unknown).

        `line` goes into a log if the last line was long ago, or as `log` says; `text` stands beside the bar (default:
        the count).
        """
        if self._terminal:
            if self._task is not None:
                text = (f"{done:,}/{total:,}" if total else f"{done:,}") if text is None else text
                self._progress.update(self._task, completed=done, total=total, text=text)
        elif time.monotonic() - self._told >= EVERY if log is None else log:
            self._told = time.monotonic()
            self._say(line, **facts)

    def _say(self, line: str, **facts: Any) -> None:
        if not self._quiet:
            logs.say(line, prefix=self._prefix, stream=self._stream, **facts)
