"""The main pass: units out to the workers, receipts into the ledger, until every unit is accepted or set aside.

Joins three parts that know nothing of each other: the dispatcher (who works on what), the fleet (Ray as events) and the
ledger (what counts). A unit counts only once its attempt's receipt is in the ledger.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pcace_dist.artifacts.plan_metadata import Facts
from pcace_dist.artifacts.plan_store import FrozenPlan
from pcace_dist.datasets.units import Unit
from pcace_dist.errors import JobError, PcaceError, Stopped, StoreUnavailable, UserError
from pcace_dist.executors.base import Crew, Event, Explained, Failed, Finished, Joined, Lost
from pcace_dist.executors.start_patience import CrewPatience
from pcace_dist.ledger.ledger import Ledger, Receipt
from pcace_dist.run.dispatcher import Accepted, Dispatcher
from pcace_dist.worker.admission import Admission, NotAdmitted
from pcace_dist.worker.worker import WorkResult

log = logging.getLogger(__name__)

TICK = 0.2  # seconds to wait for an event at most
IDLE_SECONDS = 10.0  # a worker without work is kept for so long: another may be lost, and its units wait again
MOST_LOSSES = 12  # in a row, without one finished unit: something is wrong with more than a unit or a node
REFUSALS = 8  # workers that are not admitted and still replaced


class MainPass:
    """Event loop of the main pass. `run` returns when nothing is left, or raises Stopped once everything is flushed."""

    def __init__(
        self,
        fleet: Crew,
        ledger: Ledger,
        dispatcher: Dispatcher,
        units: Mapping[str, Unit],
        plan: FrozenPlan,
        *,
        on_tick: Callable[[], None],
        stopping: Callable[[], bool],
        patience: CrewPatience,
        kept: Mapping[str, str] | None = None,
        last: bool = True,
    ) -> None:
        """`kept`: for units whose rows are taken from kept codes of the extended run, the codes file. `last`: no other
        pass follows, so that workers without work may go."""
        self._fleet = fleet
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._units = units
        self._plan = plan
        self._losses_in_a_row = 0
        self.admissions: dict[str, Admission] = {}
        self._on_tick = on_tick
        self._stopping = stopping
        self._told_to_stop = False
        self._outage: StoreUnavailable | None = None  # a worker's patience with storage has ended: so does the run
        self._patience = patience
        self._now = patience.clock
        self._kept = kept or {}
        self._last = last
        self._idle_since: dict[str, float] = {}
        self._busy: set[str] = set()
        self._ready: set[str] = set()
        self._beginning: set[str] = set()
        self._unexplained: dict[str, str] = {}  # lost workers and why; their units wait for the fleet's explanation
        self._rows_by: dict[str, int] = defaultdict(int)
        self._since: dict[str, float] = {}  # workers of this pass, and when their time in it began
        self._past_seconds = 0.0  # of workers that are gone
        self._ended: float | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes_read = 0
        self.units_of_pilot = 0  # whose rows the pilot had forwarded
        self.last_faults: list[str] = []

    def run(self) -> None:
        self._rows_by.update(self._fleet.images_seen_by())  # in earlier passes
        try:
            self._run()
        finally:
            self._ended = self._now()

    def _run(self) -> None:
        if self._dispatcher.all_done():
            return
        for actor in self._fleet.up:
            self._begin(actor)
        while not self._is_over():
            for event in self._fleet.events(TICK):
                self._handle(event)
            if self._stopping() or self._outage is not None:
                self._stop()
            self._feed()
            if self._told_to_stop and not self._busy - self._beginning:
                if self._outage is not None:
                    raise self._outage
                raise Stopped("stopped; finished units are flushed and recorded, the same command goes on")
            if not self._dispatcher.all_done():
                self._patience.check(len(self._ready), self._fleet)
            self._on_tick()

    def _is_over(self) -> bool:
        """Every unit is settled, and no worker has a call in hand that what comes next would wait for.

        One that does not come to an end of beginning is let go: it holds nothing.
        """
        if not self._dispatcher.all_done():
            return False
        for actor in sorted(self._beginning):
            if self._now() - self._since[actor] > self._patience.seconds:
                self._fleet.release(actor)
                self._fence(actor, "it did not begin", replace=False)
        return not self._beginning

    @property
    def waits_for(self) -> str:
        """What the pass waits for, in words; empty while it works."""
        return self._patience.waits_for(len(self._ready), len(self._fleet.up), len(self._fleet.members))

    @property
    def worker_seconds(self) -> float:
        """Seconds of all workers in this pass, from when they were given the plan until it ended or they were gone."""
        now = self._now() if self._ended is None else self._ended
        return self._past_seconds + sum(now - since for since in self._since.values())

    @property
    def units_redone(self) -> int:
        """Units that were lent again after a worker was lost."""
        return self._dispatcher.redone_units

    @property
    def queue_depth(self) -> int:
        """Units that nobody works on."""
        return self._dispatcher.waiting

    @property
    def finished_unrecorded(self) -> Iterable[str]:
        """Units that are finished but held in a worker's accumulator still."""
        return self._dispatcher.finished_unrecorded()

    @property
    def rows_in_work(self) -> int:
        """Rows of unfinished units that have been forwarded already, for the progress bar."""
        return sum(max(0, seen - self._rows_by[actor]) for actor, seen in self._fleet.images_seen_by().items())

    def _handle(self, event: Event) -> None:
        match event:
            case Joined(actor, info):
                log.info("worker %s is up on %s (process %d)", actor, info.host, info.pid, extra={"actor": actor})
                self._begin(actor)
            case Finished(actor, "begin", admission):
                self.admissions[actor] = admission
                self.seconds["begin"] += self._now() - self._since.get(actor, self._now())
                self._beginning.discard(actor)
                self._busy.discard(actor)
                self._ready.add(actor)
                self._dispatcher.actor_joined(actor)
            case Finished(actor, "work" | "flush", value):
                self._busy.discard(actor)
                self._result(actor, value)
            case Failed(actor, method, error):
                self._failed(actor, method, error)
            case Lost(actor, reason):
                if actor in self._ready | self._beginning:  # it was up: `Explained` follows
                    self._unexplained[actor] = reason
                self._fence(actor, reason)
            case Explained(actor, with_node):
                self._explained(actor, with_node)
            case _:
                pass

    def _begin(self, actor: str) -> None:
        self._busy.add(actor)
        self._beginning.add(actor)
        self._since[actor] = self._now()
        self._fleet.call(actor, "begin", self._plan.data, self._plan.check, self._ledger.epoch)

    def _feed(self) -> None:
        """Give every idle worker a unit; one for which there is none flushes what it holds, then may be let go."""
        coming = len(self._fleet.members) - len(self._ready)
        if not self._patience.may_start(len(self._ready), coming) and not self._told_to_stop:
            return
        draining = self._fleet.draining()
        for actor in sorted(self._ready - self._busy):
            leaving = self._told_to_stop or actor in draining
            lend = None if leaving else self._dispatcher.lend(actor)
            if lend is not None:
                self._idle_since.pop(actor, None)
                following = None if lend.alone else self._dispatcher.peek_next(actor)
                upcoming = None if following is None or following in self._kept else self._units[following]
                self._busy.add(actor)
                self._fleet.call(actor, "work", self._units[lend.unit], upcoming, lend.alone, self._kept.get(lend.unit))
            elif self._dispatcher.holds_unrecorded(actor):
                self._busy.add(actor)
                self._fleet.call(actor, "flush")
            elif not self._told_to_stop:
                self._let_go(actor, at_once=actor in draining)
        if self._last and not self._dispatcher.waiting and self._ready and not self._unexplained:
            self._fleet.release_pending()  # nothing is left for workers that are not up yet

    def _let_go(self, actor: str, *, at_once: bool) -> None:
        """End a worker that has nothing to do, so that its node can leave; `workers.min` stay for the reduce."""
        idle = self._now() - self._idle_since.setdefault(actor, self._now())
        needed = not self._last or self._unexplained or len(self._fleet.up) <= self._patience.least
        if not at_once and (idle < IDLE_SECONDS or needed):
            return
        why = "its node drains" if at_once else "nothing is left for it"
        log.info("worker %s is let go: %s", actor, why, extra={"actor": actor})
        self._fleet.release(actor)
        self._ready.discard(actor)
        self._gone(actor)
        self._dispatcher.actor_lost(actor, "let go", blame=False)
        if at_once and self._dispatcher.outstanding():
            self._fleet.replace()

    def _result(self, actor: str, result: WorkResult) -> None:
        for stage, seconds in result.seconds.items():
            self.seconds[stage] += seconds
        if result.flushed_first is not None:
            self._receipt(actor, result.flushed_first)
        if result.gave_up is not None:
            self._dispatcher.gave_up(actor, result.gave_up)
        if result.report is not None:
            report = result.report
            self._losses_in_a_row = 0
            self._dispatcher.finished(actor, report.unit)
            self._rows_by[actor] += report.forwarded
            self.bytes_read += report.bytes_read
            self.units_of_pilot += report.of_pilot
            for stage, seconds in report.seconds.items():
                self.seconds[stage] += seconds
            if report.last_fault is not None:
                self.last_faults = [*self.last_faults, report.last_fault][-10:]
        if result.flushed is not None:
            self._receipt(actor, result.flushed)

    def _receipt(self, actor: str, receipt: Receipt) -> None:
        verdict = self._dispatcher.receipt(actor, receipt)
        if isinstance(verdict, Accepted):
            self._ledger.append("accept", {"receipts": [receipt.to_json()], **self._foreign(actor)})
            fields = {"actor": actor, "attempt": receipt.attempt}
            log.info("attempt %s is recorded: %d units", receipt.attempt, len(receipt.units), extra=fields)
        else:
            self._drop(actor, f"its receipt {receipt.attempt} is rejected: {verdict.reason}")

    def _foreign(self, actor: str) -> dict[str, list[dict[str, Any]]]:
        """What the ledger must know of a worker of another numeric class: a later driver's summary names it too."""
        admission = self.admissions[actor]
        if not admission.differing and admission.numeric_class == Facts.of(self._plan.plan).numeric_class:
            return {}
        return {"foreign": [{"class": admission.numeric_class, "differing": admission.differing}]}

    def _failed(self, actor: str, method: str, error: BaseException) -> None:
        """An exception in a worker's code: the job's mistake, or a worker that must be replaced."""
        if isinstance(error, UserError):
            raise error
        if isinstance(error, NotAdmitted):
            self._refuse(actor, error)
            return
        if isinstance(error, StoreUnavailable):
            self._pause(actor, error)
            return
        self._drop(actor, f"{method} failed: {error!r}")

    def _pause(self, actor: str, error: StoreUnavailable) -> None:
        """Storage is away for too long: what a worker has in hand goes back unblamed, the others flush, the run ends.

        No worker takes its place: it would wait for the same storage.
        """
        log.warning("worker %s is ended: %s", actor, error, extra={"actor": actor})
        self._outage = self._outage or error
        if actor in self._fleet.up:
            self._fleet.release(actor)
        self._fence(actor, str(error), replace=False)
        self._dispatcher.actor_lost(actor, str(error), blame=False)

    def _refuse(self, actor: str, error: NotAdmitted) -> None:
        """A worker that is not admitted is let go; others are tried in its place, but not for ever."""
        self._patience.refused(actor, str(error))
        log.warning("worker %s is not admitted: %s", actor, error, extra={"actor": actor})
        self._fleet.release(actor)
        self._fence(actor, str(error), replace=self._patience.refusals <= REFUSALS)
        if not self._fleet.members:
            raise JobError(f"no worker could be admitted; the last one: {error}")

    def _drop(self, actor: str, reason: str, *, blame: bool = True) -> None:
        """End a worker that lives but cannot be trusted."""
        log.warning("worker %s is ended: %s", actor, reason, extra={"actor": actor})
        if actor in self._fleet.up:
            self._fleet.release(actor)
        self._fence(actor, reason)
        self._give_back(actor, reason, blame=blame)

    def _fence(self, actor: str, reason: str, *, replace: bool = True) -> None:
        """Nothing more is asked of a worker, and another one takes its place."""
        self.last_faults = [*self.last_faults, f"worker {actor}: {reason}"][-10:]
        self._busy.discard(actor)
        self._beginning.discard(actor)
        self._ready.discard(actor)
        self._gone(actor)
        if replace and not self._told_to_stop:
            self._fleet.replace()

    def _gone(self, actor: str) -> None:
        """A worker's time in this pass is over."""
        since = self._since.pop(actor, None)
        self._past_seconds += 0.0 if since is None else self._now() - since

    def _explained(self, actor: str, with_node: bool) -> None:
        """The units of a lost worker wait again. Its death speaks against the unit in hand only if its node lives."""
        reason = self._unexplained.pop(actor, None)
        if reason is None:
            return
        if with_node:
            log.warning("worker %s went with its node; no unit is blamed", actor, extra={"actor": actor})
            self._dispatcher.actor_lost(actor, reason, blame=False)
        else:
            self._give_back(actor, reason)

    def _give_back(self, actor: str, reason: str, *, blame: bool = True) -> None:
        """Lend a worker's unaccepted units anew; the end of too many workers in a row is the end of the run."""
        self._losses_in_a_row += 1
        if self._losses_in_a_row > MOST_LOSSES:
            raise PcaceError(
                f"{MOST_LOSSES} workers in a row were lost and no unit was finished; the last one: {reason}"
            )
        self._dispatcher.actor_lost(actor, reason, blame=blame)
        for unit, why in self._dispatcher.take_set_aside():
            log.warning("unit %s is set aside: %s", unit, why, extra={"unit": unit})
            self._ledger.append("set_aside", {"units": [unit], "reason": why})

    def _stop(self) -> None:
        """Once: no more units, give up those in hand; the loop then flushes every worker that holds something."""
        if not self._told_to_stop:
            self._told_to_stop = True
            self._fleet.stop_work()


class _Farm:
    """Tasks that any worker can do: who works on which, and what came of them."""

    def __init__(self, fleet: Crew, method: str, tasks: Sequence[tuple[object, ...]]) -> None:
        self._fleet = fleet
        self._method = method
        self._tasks = tasks
        self._waiting = list(range(len(tasks)))[::-1]
        self._working: dict[str, int] = {}
        self._losses_in_a_row = 0
        self.results: dict[int, object] = {}
        self.failed: BaseException | None = None

    @property
    def goes_on(self) -> bool:
        return bool(self._working) or (len(self.results) < len(self._tasks) and self.failed is None)

    def give(self) -> None:
        """A task to every worker that has none."""
        if not self._fleet.members:
            self._fleet.replace()
        for actor in self._fleet.up:
            if actor not in self._working and self._waiting and self.failed is None:
                self._working[actor] = self._waiting.pop()
                self._fleet.call(actor, self._method, *self._tasks[self._working[actor]])

    def handle(self, event: Event) -> None:
        match event:
            case Finished(actor, name, value) if name == self._method and actor in self._working:
                self._losses_in_a_row = 0
                self.results[self._working.pop(actor)] = value
            case Failed(actor, name, error) if name == self._method and actor in self._working:
                self.failed = self.failed or error
                del self._working[actor]
                if isinstance(error, StoreUnavailable):
                    self._fleet.stop_work()  # the others wait for the same storage
            case Failed(_, _, error) if isinstance(error, UserError | StoreUnavailable):
                raise error
            case Failed(actor, "ready", error):
                log.warning("worker %s does not start: %r", actor, error, extra={"actor": actor})
                self._lost(repr(error))
                self._fleet.replace()
            case Lost(actor, reason):
                log.warning("worker %s was lost in %s: %s", actor, self._method, reason, extra={"actor": actor})
                if actor in self._working:
                    self._waiting.append(self._working.pop(actor))
                self._fleet.replace()
            case Explained(actor, False):
                self._lost(f"worker {actor} was lost in {self._method}")
            case _:
                pass

    def _lost(self, reason: str) -> None:
        """The end of too many workers in a row, whose nodes live, is the end of the run."""
        self._losses_in_a_row += 1
        if self._losses_in_a_row > MOST_LOSSES:
            raise PcaceError(
                f"{MOST_LOSSES} workers in a row were lost and none finished {self._method}; the last one: {reason}"
            )


def farm(
    fleet: Crew,
    method: str,
    tasks: Sequence[tuple[object, ...]],
    *,
    on_tick: Callable[[], None],
    stopping: Callable[[], bool],
    patience: CrewPatience,
) -> list[object]:
    """Run independent calls of one method on the fleet's workers; results in the order of the tasks.

    A task whose worker is lost is given to another. An exception of the task itself is raised here, once the other
    workers have ended theirs: what they still say must not be taken for the answer to a later call. Raises JobError
    when no worker could be had for workers.start_timeout.
    """
    work = _Farm(fleet, method, tasks)
    while work.goes_on:
        work.give()
        for event in fleet.events(TICK):
            work.handle(event)
        if stopping():
            raise Stopped("stopped; what is in the ledger stays, the same command goes on")
        patience.check(len(fleet.up), fleet)
        on_tick()
    if work.failed is not None:
        raise work.failed
    return [work.results[i] for i in range(len(tasks))]
