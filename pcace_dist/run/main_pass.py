"""The main pass: units out to the workers, receipts into the ledger, until every unit is accepted or set aside.

Joins three parts that know nothing of each other: the dispatcher (who works on what), the executor (workers as events)
and the ledger (what counts). A unit counts only once its attempt's receipt is in the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.plan_store import FrozenPlan
from pcace_dist.datasets.units import Unit
from pcace_dist.errors import JobError, Stopped, StoreUnavailable, UserError
from pcace_dist.executors.base import Executor, Task
from pcace_dist.executors.event_loop import EventLoop, LoopControl
from pcace_dist.ledger.ledger import Ledger, Receipt
from pcace_dist.run.dispatcher import Accepted, Dispatcher
from pcace_dist.run.pass_stats import PassStats
from pcace_dist.worker.admission import Admission, NotAdmitted
from pcace_dist.worker.worker import WorkerBody, WorkResult

log = logging.getLogger(__name__)

IDLE_SECONDS = 10.0  # a worker without work is kept for so long: another may be lost, and its units wait again
REFUSALS = 8  # workers that are not admitted and still replaced


class MainPass(EventLoop):
    """`run` returns when nothing is left, or raises Stopped once everything is flushed."""

    without_result = "no unit was finished"

    def __init__(
        self,
        executor: Executor,
        ledger: Ledger,
        dispatcher: Dispatcher,
        units: Mapping[str, Unit],
        plan: FrozenPlan,
        control: LoopControl,
        *,
        codes_files: Mapping[str, str] | None = None,
        last: bool = True,
    ) -> None:
        """`codes_files`: of the extended run, by the units whose rows they hold. `last`: no other pass follows, so that
        workers without work may go."""
        super().__init__(executor, control)
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._units = units
        self._plan = plan
        self._told_to_stop = False
        self._outage: StoreUnavailable | None = None  # storage was away for too long: the run ends
        self._codes_files = codes_files or {}
        self._last = last
        self._idle_since: dict[str, float] = {}
        self._ready: set[str] = set()  # admitted workers
        self.stats = PassStats(control.patience.clock)

    def run(self) -> None:
        self.stats.begin(self._executor.images_seen_by())
        try:
            super().run()
        finally:
            self.stats.end()

    @property
    def waits_for(self) -> str:
        """What the pass waits for, in words; empty while it works."""
        loaded, members = len(self._executor.up), len(self._executor.members)
        return self._control.patience.waits_for(len(self._ready), loaded, members)

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
        """Units that are finished and not flushed yet."""
        return self._dispatcher.finished_unrecorded()

    @property
    def rows_in_work(self) -> int:
        """Rows of unfinished units that have been forwarded already, for the progress bar."""
        return self.stats.rows_in_work(self._executor.images_seen_by())

    # -- workers come

    def _joined(self, worker: str) -> None:
        self.stats.joined(worker)
        task = Task.of(WorkerBody.begin, self._plan.data, self._plan.check, self._ledger.epoch)
        self._call(worker, task, partial(self._admitted, worker))

    def _admitted(self, worker: str, admission: Admission) -> None:
        self.stats.admitted(worker, admission)
        self._ready.add(worker)
        self._dispatcher.worker_joined(worker)

    # -- units go out

    def _all_done(self) -> bool:
        return self._dispatcher.all_done()

    def _usable(self) -> int:
        return len(self._ready)

    def _give_work(self) -> None:
        """Give every idle worker a unit; one for which there is none flushes what it holds, then may be let go."""
        if self._may_start():
            draining = self._executor.draining()
            for worker in sorted(self._ready - self._in_hand.keys()):
                self._give(worker, draining=worker in draining)
            if self._last and not self._dispatcher.waiting and self._ready and not self._unexplained:
                self._executor.release_pending()  # nothing is left for workers that are not up yet
        if self._told_to_stop and not self._in_hand.keys() & self._ready:
            if self._outage is not None:
                raise self._outage
            raise Stopped("stopped; finished units are flushed and recorded, the same command goes on")
        if self._all_done():
            self._let_slow_beginners_go()

    def _may_start(self) -> bool:
        coming = len(self._executor.members) - len(self._ready)
        return self._control.patience.may_start(len(self._ready), coming) or self._told_to_stop

    def _give(self, worker: str, *, draining: bool) -> None:
        lend = None if self._told_to_stop or draining else self._dispatcher.lend(worker)
        if lend is not None:
            self._idle_since.pop(worker, None)
            following = None if lend.alone else self._dispatcher.peek_next(worker)
            upcoming = None if following is None or following in self._codes_files else self._units[following]
            codes_file = self._codes_files.get(lend.unit)
            task = Task.of(WorkerBody.work, self._units[lend.unit], upcoming, lend.alone, codes_file)
            self._call(worker, task, partial(self._worked, worker))
        elif self._dispatcher.holds_unrecorded(worker):
            self._call(worker, Task.of(WorkerBody.flush), partial(self._worked, worker))
        elif not self._told_to_stop:
            self._let_go(worker, at_once=draining)

    def _let_go(self, worker: str, *, at_once: bool) -> None:
        """End a worker that has nothing to do, so that its node can leave; `workers.min` stay for the reduce."""
        now, patience = self._control.patience.clock(), self._control.patience
        idle = now - self._idle_since.setdefault(worker, now)
        needed = not self._last or self._unexplained or len(self._executor.up) <= patience.min_workers
        if not at_once and (idle < IDLE_SECONDS or needed):
            return
        why = "its node drains" if at_once else "nothing is left for it"
        log.info("worker %s is let go: %s", worker, why, extra={"actor": worker})
        self._executor.release(worker)
        self._ready.discard(worker)
        self.stats.gone(worker)
        self._dispatcher.worker_lost(worker, "let go", blame=False)
        if at_once and self._dispatcher.outstanding():
            self._executor.replace()

    def _let_slow_beginners_go(self) -> None:
        """The pass is over: a worker that is still checking the plan holds nothing. It is let go when it has taken
        longer than `workers.start_timeout`."""
        for worker in sorted(self._in_hand.keys() - self._ready):
            if self.stats.seconds_of(worker) > self._control.patience.seconds:
                self._executor.release(worker)
                self._forget(worker, "it did not begin")

    # -- receipts come in

    def _worked(self, worker: str, result: WorkResult) -> None:
        self.stats.spent(result.seconds)
        if result.flushed_first is not None:
            self._receipt(worker, result.flushed_first)
        if result.gave_up is not None:
            self._dispatcher.gave_up(worker, result.gave_up)
        if result.report is not None:
            self._losses_in_a_row = 0
            self._dispatcher.finished(worker, result.report.unit)
            self.stats.finished(worker, result.report)
        if result.flushed is not None:
            self._receipt(worker, result.flushed)

    def _receipt(self, worker: str, receipt: Receipt) -> None:
        verdict = self._dispatcher.receipt(worker, receipt)
        if isinstance(verdict, Accepted):
            self._ledger.append("accept", {"receipts": [receipt.to_json()], **self._foreign(worker)})
            log_fields = {"actor": worker, "attempt": receipt.attempt}
            log.info("attempt %s is recorded: %d units", receipt.attempt, len(receipt.units), extra=log_fields)
        else:
            self._drop(worker, f"its receipt {receipt.attempt} is rejected: {verdict.reason}")

    def _foreign(self, worker: str) -> dict[str, list[dict[str, Any]]]:
        """What the ledger must know of a worker of another numeric class: a later driver's summary names it too."""
        admission = self.stats.admissions[worker]
        if not admission.differing and admission.numeric_class == PlanMetadata.of(self._plan.plan).numeric_class:
            return {}
        return {"foreign": [{"class": admission.numeric_class, "differing": admission.differing}]}

    # -- workers go

    def _failed(self, worker: str, doing: str, error: BaseException) -> None:
        """The job's mistake ends the run; otherwise the worker is replaced, or refused."""
        if isinstance(error, UserError):
            raise error
        if isinstance(error, NotAdmitted):
            self._refuse(worker, error)
        elif isinstance(error, StoreUnavailable):
            self._storage_away(worker, error)
        else:
            self._drop(worker, f"{doing} failed: {error!r}")

    def _storage_away(self, worker: str, error: StoreUnavailable) -> None:
        """The worker's units wait again and nobody is blamed. The other workers flush, then the run ends.

        No worker takes its place: it would wait for the same storage.
        """
        log.warning("worker %s is ended: %s", worker, error, extra={"actor": worker})
        self._outage = self._outage or error
        self._executor.release(worker)
        self._forget(worker, str(error))
        self._dispatcher.worker_lost(worker, str(error), blame=False)
        self._stop()

    def _refuse(self, worker: str, error: NotAdmitted) -> None:
        """A worker that is not admitted is let go. It is replaced, but only REFUSALS times."""
        patience = self._control.patience
        patience.refused(worker, str(error))
        log.warning("worker %s is not admitted: %s", worker, error, extra={"actor": worker})
        self._executor.release(worker)
        self._forget(worker, str(error))
        if patience.refusals <= REFUSALS:
            self._replace()
        if not self._executor.members:
            raise JobError(f"no worker could be admitted; the last one: {error}")

    def _drop(self, worker: str, reason: str) -> None:
        """End a worker that lives but cannot be trusted."""
        log.warning("worker %s is ended: %s", worker, reason, extra={"actor": worker})
        self._executor.release(worker)
        self._forget(worker, reason)
        self._replace()
        self._count_loss(reason)  # first: a loss that ends the run has another cause than the unit in hand
        self._lend_anew(worker, reason)

    def _lost(self, worker: str, reason: str) -> None:
        self.stats.fault(f"worker {worker}: {reason}")
        self.stats.gone(worker)
        self._ready.discard(worker)

    def _explained(self, worker: str, reason: str, *, with_node: bool) -> None:
        """The units of a lost worker wait again. Its death speaks against the unit in hand only if its node lives."""
        if with_node:
            log.warning("worker %s went with its node; no unit is blamed", worker, extra={"actor": worker})
        self._lend_anew(worker, reason, blame=not with_node)

    def _lend_anew(self, worker: str, reason: str, *, blame: bool = True) -> None:
        """A worker's unaccepted units wait again; one that has ended too many workers is set aside."""
        self._dispatcher.worker_lost(worker, reason, blame=blame)
        for unit, why in self._dispatcher.take_set_aside():
            log.warning("unit %s is set aside: %s", unit, why, extra={"unit": unit})
            self._ledger.append("set_aside", {"units": [unit], "reason": why})

    def _replace(self) -> None:
        if not self._told_to_stop:
            super()._replace()

    def _stop(self) -> None:
        """Once: no more units, give up those in hand; the loop then flushes every worker that holds something."""
        if not self._told_to_stop:
            self._told_to_stop = True
            self._executor.stop_work()
