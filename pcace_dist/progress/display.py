"""Progress of a run: a live bar in a terminal, plain lines in a log. Knows neither Ray nor the ledger."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pcace_dist.progress import logs

LINE_EVERY = 10.0  # seconds between two lines of a log


@dataclass(frozen=True)
class Tally:
    """Where a run stands. `images` counts rows done or in work, `total` all rows before the filter; `waits_for`: in
    words, empty while it works."""

    stage: str
    images: int
    total: int
    workers: int = 0
    bad_rows: int = 0
    rate: float | None = None
    waits_for: str = ""

    @property
    def remaining(self) -> float | None:
        """Seconds to the end of the main pass at the present rate."""
        if not self.rate or self.images > self.total:
            return None
        return (self.total - self.images) / self.rate


class Display(Protocol):
    """Anything that shows a tally."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, tally: Tally) -> None: ...


def display_for(stream: TextIO | None = None) -> Display:
    """A live bar when the stream is a terminal and log lines are text, else lines."""
    stream = sys.stderr if stream is None else stream
    return Bar(stream) if stream.isatty() and not logs.is_json() else Lines(stream)


def describe(tally: Tally) -> str:
    """One line: stage, images, rate, remaining time, workers, bad rows, what it waits for."""
    parts = [tally.stage]
    if tally.total:
        parts = [
            f"{tally.stage}: {tally.images:,} of {tally.total:,} images ({100 * tally.images / tally.total:.0f} %)"
        ]
    parts += [f"{tally.rate:,.0f} images/s"] if tally.rate else []
    parts += [f"{duration(tally.remaining)} left"] if tally.remaining else []
    parts.append(f"{tally.workers} worker{'' if tally.workers == 1 else 's'} up")
    parts += [f"{tally.bad_rows:,} bad"] if tally.bad_rows else []
    parts += [tally.waits_for] if tally.waits_for else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """125 -> '2m05s'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Lines:
    """A line at every change of stage and every ten seconds: for logs and `ray job submit`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._next = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, tally: Tally) -> None:
        now = time.monotonic()
        finished = tally.images == tally.total and tally.total > 0
        if tally.stage == self._stage and now < self._next and not finished:
            return
        if tally.stage == self._stage and finished and self._next == float("inf"):
            return
        self._stage = tally.stage
        self._next = float("inf") if finished else now + LINE_EVERY
        facts: dict[str, Any] = {
            "stage": tally.stage,
            "images": tally.images,
            "rows": tally.total,
            "workers": tally.workers,
        }
        facts |= {"images_per_second": round(tally.rate, 3)} if tally.rate else {}
        facts |= {"waits_for": tally.waits_for} if tally.waits_for else {}
        logs.say(describe(tally), prefix="pcace: ", stream=self._stream, **facts)


class Bar:
    """A live bar for a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        self._progress.start()
        self._task = self._progress.add_task("starting", total=None, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, tally: Tally) -> None:
        if self._task is None:
            return
        text = describe(tally).removeprefix(tally.stage).lstrip(":, ")
        self._progress.update(
            self._task, description=tally.stage, total=tally.total or None, completed=tally.images, text=text
        )
