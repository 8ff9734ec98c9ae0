"""Progress on stderr: a bar in a terminal, a line now and then in a log, a line that changes in a notebook. All
commands use it; it knows none of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn

from pcace_dist.progress import logs
from pcace_dist.progress.terminal import visible

EVERY = 10.0  # seconds between two lines of a log at first; later a tenth of the time that the stage has taken
AT_MOST = 60.0
NOTEBOOK_EVERY = 0.5
BAR_CELLS = 30
NARROW = 100  # cells; a narrower terminal has room for a shorter bar only
CLOCK_CELLS = 16  # of the percentage, the clock and the gaps

ChangeLine = Callable[[str], None]


class StageBar:
    """Stages one after the other, each with a count of steps. `begin` a stage, then `show` how far it is."""

    def __init__(
        self, prefix: str, clock: ProgressColumn, *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        """`prefix`: of every line. `stream`: stderr unless it is given."""
        self._prefix = prefix
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        console = Console(file=self._stream)
        plain = logs.is_json() or quiet
        self._terminal = self._stream.isatty() and not console.is_dumb_terminal and not plain
        self._notebook = None if self._terminal or plain or stream is not None else notebook_line()
        self._width = console.width
        self._bar_cells = BAR_CELLS if self._width >= NARROW else self._width // 8
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=self._bar_cells),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[text]}", markup=False),
            clock,
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._begun = self._told = time.monotonic()

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
        self._begun = self._told = time.monotonic()
        self._stage = name
        if self._terminal:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(name, total=total, text="")
        elif self._notebook is not None:
            self._notebook(visible(self._prefix + (line or name)))
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
                self._progress.update(self._task, completed=done, total=total, text=self._that_fits(text))
        elif self._is_due() if log is None else log:
            self._told = time.monotonic()
            if self._notebook is not None:
                self._notebook(visible(self._prefix + line))
            else:
                self._say(line, **facts)

    def _is_due(self) -> bool:
        """Whether the last line was long ago."""
        now = time.monotonic()
        log_every = min(AT_MOST, max(EVERY, (now - self._begun) / 10))
        return now - self._told >= (log_every if self._notebook is None else NOTEBOOK_EVERY)

    def _that_fits(self, text: str) -> str:
        """The text, cut at its end to what the terminal has room for beside the bar."""
        text = visible(text)
        room = max(0, self._width - cell_len(self._stage) - self._bar_cells - CLOCK_CELLS)
        return text if cell_len(text) <= room else set_cell_size(text, max(0, room - 1)) + "…" * (room > 0)

    def _say(self, line: str, **facts: Any) -> None:
        if not self._quiet:
            logs.say(line, prefix=self._prefix, stream=self._stream, **facts)


def notebook_line() -> ChangeLine | None:
    """What changes a line below the cell that runs, in a notebook; None elsewhere."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    handle: Any = None

    def change(line: str) -> None:
        nonlocal handle
        content = {"text/plain": line}
        if handle is None:
            handle = ipython.display.display(content, raw=True, display_id=True)
        else:
            handle.update(content, raw=True)

    return change
