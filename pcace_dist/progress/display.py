"""Progress of a run: its stages, images, rate and workers, on the one bar. Knows neither Ray nor the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TextIO

from rich.progress import TimeElapsedColumn

from pcace_dist.progress.bar import StageBar


@dataclass(frozen=True)
class Tally:
    """The progress of a run. `images`: rows that are done or in work; `total`: all rows before the filter;
    `waits_for`: what the run waits for, in words; empty while it works. `share`: how much of the stage is done, from 0
    to 1, where it is not counted in images."""

    stage: str
    images: int
    total: int
    workers: int = 0
    bad_rows: int = 0
    rate: float | None = None
    waits_for: str = ""
    share: float | None = None

    @property
    def steps(self) -> tuple[int, int]:
        """Done, and in all; of these 0 where it is unknown."""
        return (self.images, self.total) if self.share is None else (round(1000 * self.share), 1000)

    @property
    def remaining(self) -> float | None:
        """Seconds to the end of the main pass at the present rate."""
        if not self.rate or self.images > self.total:
            return None
        return (self.total - self.images) / self.rate


def describe(tally: Tally) -> str:
    """One line: stage, images or share, rate, remaining time, workers, bad rows, what it waits for."""
    done, total = tally.steps
    percent = f" ({100 * done / total:.0f} %)" if total else ""
    return (
        f"{tally.stage}: {_counts(tally, percent)}"
        if tally.share is None and total
        else ", ".join([tally.stage + percent, _counts(tally)])
    )


def _counts(tally: Tally, percent: str = "") -> str:
    """What stands beside stage and percentage."""
    in_images = tally.share is None and tally.total
    parts = [f"{tally.images:,} of {tally.total:,} images{percent}"] if in_images else []
    parts += [f"{tally.rate:,.0f} images/s"] if tally.rate and in_images else []
    parts += [f"{duration(tally.remaining)} left"] if tally.remaining and in_images else []
    parts.append(f"{tally.workers} worker{'' if tally.workers == 1 else 's'} up")
    parts += [f"{tally.bad_rows:,} bad"] if tally.bad_rows else []
    parts += [tally.waits_for] if tally.waits_for else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """125 -> '2m05s'."""
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    minutes, seconds_left = divmod(total, 60)
    return f"{minutes}m{seconds_left:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class RunDisplay:
    """Shows the progress of a run as a `StageBar`. A log gets a line at every change of stage, one now and then, and
    one when all images of a stage are done."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._bar = StageBar("pcace: ", TimeElapsedColumn(), stream=stream)
        self._stage = ""
        self._finished = False

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def prepare(self) -> None:
        """The run is read and checked. A log gets no line, since what is wrong is said in one."""
        self._bar.begin("preparing", None)

    def show(self, tally: Tally) -> None:
        line, (done, total) = describe(tally), tally.steps
        finished = done == total > 0
        if tally.stage != self._stage:
            self._stage, self._finished = tally.stage, finished
            self._bar.begin(tally.stage, total or None, line, **_facts(tally))
        log = not self._finished if finished else None
        self._bar.show(done, total or None, line, text=_counts(tally), log=log, **_facts(tally))
        self._finished = finished


def _facts(tally: Tally) -> dict[str, Any]:
    """The fields of a line in a JSON log, besides its text."""
    facts: dict[str, Any] = {
        "stage": tally.stage,
        "images": tally.images,
        "rows": tally.total,
        "workers": tally.workers,
    }
    facts |= {} if tally.share is None else {"share": round(tally.share, 3)}
    facts |= {"images_per_second": round(tally.rate, 3)} if tally.rate else {}
    return facts | ({"waits_for": tally.waits_for} if tally.waits_for else {})
