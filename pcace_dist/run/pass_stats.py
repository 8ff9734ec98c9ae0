"""What one main pass cost: seconds by stage and by worker, bytes, rows, faults."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcace_dist.worker.admission import Admission
    from pcace_dist.worker.engine import UnitReport

FAULTS = 10  # the last ones are kept


class PassStats:
    """Told by the main pass, read by the run's statistics."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds, never backwards."""
        self._clock = clock
        self.admissions: dict[str, Admission] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes_read = 0
        self.units_of_pilot = 0  # whose rows the pilot had forwarded
        self.last_faults: list[str] = []
        self._rows_by: dict[str, int] = defaultdict(int)  # forwarded by each worker in finished units
        self._since: dict[str, float] = {}  # when each worker's time in this pass began
        self._past_seconds = 0.0  # of workers that are gone
        self._ended: float | None = None

    def begin(self, images_seen_by: Mapping[str, int]) -> None:
        """`images_seen_by`: what the workers forwarded in earlier passes."""
        self._rows_by.update(images_seen_by)

    def end(self) -> None:
        self._ended = self._clock()

    def joined(self, worker: str) -> None:
        """A worker is given the plan."""
        self._since[worker] = self._clock()

    def admitted(self, worker: str, admission: Admission) -> None:
        self.admissions[worker] = admission
        self.seconds["begin"] += self.seconds_of(worker)

    def gone(self, worker: str) -> None:
        """A worker's time in this pass is over."""
        self._past_seconds += self.seconds_of(worker)
        self._since.pop(worker, None)

    def seconds_of(self, worker: str) -> float:
        """Since the worker was given the plan; 0 for one that is gone."""
        now = self._clock()
        return now - self._since.get(worker, now)

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Seconds by stage."""
        for stage, value in seconds.items():
            self.seconds[stage] += value

    def finished(self, worker: str, report: UnitReport) -> None:
        """A unit is finished."""
        self._rows_by[worker] += report.forwarded
        self.bytes_read += report.bytes_read
        self.units_of_pilot += report.of_pilot
        self.spent(report.seconds)
        if report.last_fault is not None:
            self.fault(report.last_fault)

    def fault(self, text: str) -> None:
        self.last_faults = [*self.last_faults, text][-FAULTS:]

    @property
    def worker_seconds(self) -> float:
        """Seconds of all workers in this pass, from when they were given the plan until it ended or they were gone."""
        now = self._clock() if self._ended is None else self._ended
        return self._past_seconds + sum(now - since for since in self._since.values())

    def rows_in_work(self, images_seen_by: Mapping[str, int]) -> int:
        """Rows of unfinished units that have been forwarded already."""
        return sum(max(0, seen - self._rows_by[worker]) for worker, seen in images_seen_by.items())
