"""How long a run waits for its workers, and when waiting becomes an end. No Ray.

One rule for every loop over a crew. Without a worker that can be given work, a run ends after `workers.start_timeout`.
With fewer than `workers.min` it starts after that time with those there are, and says so. A call that shows no sign of
progress for SILENCE_SECONDS is a lost worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

from pcace_dist.errors import JobError

if TYPE_CHECKING:
    from pcace_dist.executors.base import Crew

log = logging.getLogger(__name__)

SILENCE_SECONDS = 3600.0  # generous: the longest call without a sign is the solving of one block


class CrewPatience:
    """What one run waits for. Lives as long as the run: a worker that was refused once is refused for all of it."""

    def __init__(self, least: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`least`: workers.min. `seconds`: workers.start_timeout. `clock`: seconds, never backwards."""
        self.least = least
        self.seconds = seconds
        self.clock = clock
        self.refusals = 0
        self.short: str | None = None  # why the run started with fewer than `least` workers
        self._last_refusal = ""
        self._started = False
        self._starting_since: float | None = None
        self._alone_since: float | None = None

    def refused(self, actor: str, reason: str) -> None:
        """A worker was not admitted."""
        self.refusals += 1
        self._last_refusal = f"{actor}: {reason}"

    def may_start(self, admitted: int, coming: int) -> bool:
        """Whether `admitted` workers are enough to start with, while `coming` others may still be admitted.

        Once `least` were there the run has started, however few are left later.
        """
        if self._started or not admitted:
            return self._started
        if self._starting_since is None:
            self._starting_since = self.clock()
        if admitted >= self.least:
            self._started = True
        elif not coming or self.clock() - self._starting_since > self.seconds:
            self._started = True
            self.short = f"started with {admitted} of workers.min {self.least} workers: {self._why(coming)}"
            log.warning("%s", self.short)
        return self._started

    def check(self, there: int, crew: Crew) -> None:
        """Raises JobError when there has been no worker to give work to for `seconds`."""
        now = self.clock()
        if crew.waits_for() is not None:  # it is storage that is missing, not a worker
            there = 1
        self._alone_since = None if there else now if self._alone_since is None else self._alone_since
        if self._alone_since is None or now - self._alone_since <= self.seconds:
            return
        begun = f"; {len(crew.up)} loaded the model but did not begin" if crew.up else ""
        raise JobError(
            f"workers: 0 of up to {crew.shape.maximum} workers with {crew.shape} each could start within "
            f"workers.start_timeout {self.seconds:g} s; the cluster has {crew.resources()}{begun}{self._refused()}"
        )

    def waits_for(self, admitted: int, loaded: int, members: int) -> str:
        """What a run without work in hand waits for, in words; empty where it waits for no worker.

        Of `members` workers that were asked for, `loaded` have loaded the model, `admitted` may be given units.
        """
        if admitted and (self._started or admitted >= self.least):
            return ""
        since = self._starting_since if admitted else self._alone_since
        left = self.seconds if since is None else max(0.0, self.seconds - (self.clock() - since))
        parts = [f"{members - loaded} starting"] if members > loaded else []
        parts += [f"{loaded - admitted} checking the plan"] if loaded > admitted else []
        parts += [f"{self.refusals} refused"] if self.refusals else []
        state = f" ({', '.join(parts)})" if parts else ""
        wanted = f" of workers.min {self.least}" if admitted else ""
        then = "then it starts with fewer" if admitted else "then it ends"
        return f"waits for workers: {admitted}{wanted} admitted{state}, {left:.0f} s at most, {then}"

    def _why(self, coming: int) -> str:
        if not coming:
            return f"no other one can be had{self._refused()}"
        return f"no other one was admitted within workers.start_timeout {self.seconds:g} s{self._refused()}"

    def _refused(self) -> str:
        """Who was refused and why, to end a sentence."""
        if not self.refusals:
            return ""
        return f"; {self.refusals} {'was' if self.refusals == 1 else 'were'} refused, the last one {self._last_refusal}"


class SignsOfLife:
    """Which workers are silent: with a call in hand, and for too long with the same sign."""

    def __init__(self, seconds: float = SILENCE_SECONDS, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._seen: dict[str, tuple[Hashable, float]] = {}

    def silent(self, signs: Mapping[str, Hashable]) -> list[str]:
        """Workers whose sign has not changed for `seconds`. `signs`: of every worker that has a call in hand, anything
        that changes with its progress. Must be asked every few seconds."""
        now = self._clock()
        before = self._seen
        self._seen = {
            actor: before[actor] if actor in before and before[actor][0] == sign else (sign, now)
            for actor, sign in signs.items()
        }
        return [actor for actor, (_, since) in self._seen.items() if now - since > self.seconds]
