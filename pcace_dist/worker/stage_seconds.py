"""Seconds of a unit by stage. Standard library only."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class StageSeconds:
    """Adds up seconds by stage. Of two nested stages, the inner one's seconds do not count for the outer one."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = defaultdict(float)
        self._inner = 0.0  # seconds of the stages inside the one that is open

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the `with` block."""
        outside, self._inner = self._inner, 0.0
        start = self._clock()
        try:
            yield
        finally:
            whole = self._clock() - start
            self._seconds[name] += whole - self._inner
            self._inner = outside + whole

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds that were measured elsewhere."""
        for name, value in seconds.items():
            self._seconds[name] += value

    def by_stage(self) -> dict[str, float]:
        return dict(self._seconds)
