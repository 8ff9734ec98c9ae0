"""Progress of a report: its stages, the progress in each, and the seconds of each."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import TimeElapsedColumn

from pcace_dist.progress.bar import StageBar


class ReportProgress(StageBar):
    """Stages one after the other, each with a number of steps; records the seconds of each."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__("pcace report: ", TimeElapsedColumn(), quiet=quiet)
        self._stage = ""
        self._total = 0
        self._done = 0
        self._begun = time.monotonic()
        self.seconds: dict[str, float] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        super().__exit__(kind, error, trace)

    def stage(self, name: str, steps: int = 1) -> None:
        """Begin a stage with so many steps."""
        self._close()
        self._stage, self._total, self._done = name, steps, 0
        self._begun = time.monotonic()
        self.begin(name, steps, name + (f" ({steps:,})" if steps > 1 else ""))

    def step(self, steps: int = 1) -> None:
        """So many more steps of the stage are done."""
        self._done += steps
        self.show(self._done, self._total, f"{self._stage} {self._done:,} of {self._total:,}")

    def _close(self) -> None:
        if self._stage:
            spent = self.seconds.get(self._stage, 0.0) + time.monotonic() - self._begun
            self.seconds[self._stage] = spent
            self._stage = ""
