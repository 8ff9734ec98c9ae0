"""How long a run waits for its workers, and when it gives up. No Ray.

A run without a worker that can be given work ends after `workers.start_timeout`. With fewer than `workers.min` it
starts after that time with the workers it has, and says so. A worker whose task shows no progress for SILENCE_SECONDS
is lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping

from pcace_dist.errors import JobError
from pcace_dist.executors.base import Executor

log = logging.getLogger(__name__)

SILENCE_SECONDS = 3600.0  # generous: the longest call without progress is the solving of one block


class StartPatience:
    """How long one run waits for its workers. Lives as long as the run, so that refusals add up over its passes."""

    def __init__(self, min_workers: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`min_workers`: workers.min. `seconds`: workers.start_timeout. `clock`: seconds, never backwards."""
        self.min_workers = min_workers
        self.seconds = seconds
        self.clock = clock
        self.refusals = 0
        self.short: str | None = None  # why the run started with fewer than `min_workers`
        self._last_refusal = ""
        self._started = False
        self._below_min_since: float | None = None
        self._unusable_since: float | None = None

    def refused(self, worker: str, reason: str) -> None:
        """A worker was not admitted."""
        self.refusals += 1
        self._last_refusal = f"{worker}: {reason}"

    def may_start(self, admitted: int, coming: int) -> bool:
        """Whether `admitted` workers are enough to start with, while `coming` others may still be admitted.

        A run that has started stays so, however few workers are left later.
        """
        if self._started or not admitted:
            return self._started
        if self._below_min_since is None:
            self._below_min_since = self.clock()
        if admitted >= self.min_workers:
            self._started = True
        elif not coming or self.clock() - self._below_min_since > self.seconds:
            self._started = True
            self.short = f"started with {admitted} of workers.min {self.min_workers} workers: {self._why(coming)}"
            log.warning("%s", self.short)
        return self._started

    def check(self, usable: int, executor: Executor) -> None:
        """Raises JobError when no worker was `usable` for `seconds`, none of those that wait for storage either."""
        now = self.clock()
        if usable or executor.waits_for() is not None:
            self._unusable_since = None
            return
        if self._unusable_since is None:
            self._unusable_since = now
        if now - self._unusable_since <= self.seconds:
            return
        begun = f"; {len(executor.up)} loaded the model but did not begin" if executor.up else ""
        raise JobError(
            f"workers: 0 of up to {executor.shape.maximum} workers with {executor.shape} each could start within "
            f"workers.start_timeout {self.seconds:g} s; the cluster has {executor.resources()}{begun}{self._refused()}"
        )

    def waits_for(self, admitted: int, loaded: int, members: int) -> str:
        """Which workers a run waits for, in words; empty where it waits for none.

        Of `members` workers that were asked for, `loaded` have loaded the model, `admitted` may be given units.
        """
        if admitted and (self._started or admitted >= self.min_workers):
            return ""
        since = self._below_min_since if admitted else self._unusable_since
        seconds_left = self.seconds if since is None else max(0.0, self.seconds - (self.clock() - since))
        parts = [f"{members - loaded} starting"] if members > loaded else []
        parts += [f"{loaded - admitted} checking the plan"] if loaded > admitted else []
        parts += [f"{self.refusals} refused"] if self.refusals else []
        state = f" ({', '.join(parts)})" if parts else ""
        of_minimum = f" of workers.min {self.min_workers}" if admitted else ""
        outcome = "then it starts with fewer" if admitted else "then it ends"
        return f"waits for workers: {admitted}{of_minimum} admitted{state}, {seconds_left:.0f} s at most, {outcome}"

    def _why(self, coming: int) -> str:
        if not coming:
            return f"no other one can be had{self._refused()}"
        return f"no other one was admitted within workers.start_timeout {self.seconds:g} s{self._refused()}"

    def _refused(self) -> str:
        """Who was refused and why, to end a sentence."""
        if not self.refusals:
            return ""
        return f"; {self.refusals} {'was' if self.refusals == 1 else 'were'} refused, the last one {self._last_refusal}"


class Heartbeats:
    """Tells which workers are silent: they have a task, and have shown no progress for too long."""

    def __init__(self, seconds: float = SILENCE_SECONDS, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._signs: dict[str, tuple[Hashable, float]] = {}

    def silent(self, signs: Mapping[str, Hashable]) -> list[str]:
        """Workers whose sign has not changed for `seconds`. Must be asked every few seconds.

        `signs`: for every worker that has a task, a value that changes with its progress.
        """
        now = self._clock()
        before = self._signs
        self._signs = {
            worker: before[worker] if worker in before and before[worker][0] == sign else (sign, now)
            for worker, sign in signs.items()
        }
        return [worker for worker, (_, since) in self._signs.items() if now - since > self.seconds]
