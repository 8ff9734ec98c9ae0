"""The coordinator: the life of a run on one screen, from an opened ledger to published rankings.

    plan and manifest -> main pass (units out, receipts in) -> reduce -> publish -> done

The ledger is the only truth: a driver that is killed takes nothing with it that a later one needs (docs/protocol.md).
Subclasses say where the rows come from: model_run.py forwards images, codes_run.py reads kept codes.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import pyarrow as pa

from pcace_dist.artifacts.attempt import ATTEMPT, ATTEMPT_FILE, ChannelBlock, CorruptAttempt, blocks_of
from pcace_dist.artifacts.block_scores import BlockScores, is_any_ranked
from pcace_dist.artifacts.done import Publication, done_body
from pcace_dist.artifacts.drift import drift_of
from pcace_dist.artifacts.examples import EXEMPLARS, SAMPLE
from pcace_dist.artifacts.plan_store import FrozenPlan
from pcace_dist.artifacts.publish import Results, publish_results
from pcace_dist.artifacts.reading.data_reading import IMAGE_LISTS
from pcace_dist.artifacts.summary import DONE, NOTHING_RANKED, TOO_MANY_BAD_ROWS, publish_summary
from pcace_dist.config.job import Job
from pcace_dist.datasets.units import Unit
from pcace_dist.errors import DatasetError, PcaceError
from pcace_dist.executors.base import Executor, Task
from pcace_dist.executors.event_loop import LoopControl
from pcace_dist.executors.map_tasks import map_tasks
from pcace_dist.executors.start_patience import StartPatience
from pcace_dist.ledger.ledger import Ledger, Receipt
from pcace_dist.run.run_stats import RunStats
from pcace_dist.statistics.order.ranks import Ranks
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import Sink, Store
from pcace_dist.worker.reduce import rank_batch, rank_tasks
from pcace_dist.worker.shared_model import cores
from pcace_dist.worker.worker import WorkerBody

if TYPE_CHECKING:
    from pcace_dist.executors.ray_executor import EarlyWorkers

log = logging.getLogger(__name__)

FOLDERS = ("", "ledger", "plan", "attempts/*", "codes", IMAGE_LISTS)  # that a run writes to
_ATTEMPT_KEY = re.compile(rf"attempts/(?P<attempt>{ATTEMPT})/{ATTEMPT_FILE}")
PILOT = "pilot"  # the stage
STOPPING = "stopping; the signal once more ends it at once"
EXAMPLE_ATTEMPTS = 64  # attempts whose example rows one task merges


class Prepared(Protocol):
    """What every kind of run knows of its job."""

    @property
    def job(self) -> Job: ...

    @property
    def weights(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def group_type(self) -> pa.DataType: ...


P = TypeVar("P", bound=Prepared)
R = TypeVar("R")


class Coordinator(ABC, Generic[P]):
    """Drives one run, prepared as a P, whose ledger this driver has opened."""

    def __init__(
        self,
        preparation: P,
        store: Store,
        ledger: Ledger,
        stats: RunStats,
        *,
        stopping: Callable[[], bool],
        check: Callable[[], None],
        early: EarlyWorkers | None = None,
    ) -> None:
        """early: workers on Ray that are on their way."""
        self._job = preparation.job
        self._early = early
        self._preparation = preparation
        self._store = store
        self._ledger = ledger
        self._stats = stats
        self._stopping = stopping
        self._check_held = check
        self._first_up: float | None = None  # when the progress first saw a worker that is up
        self._patience = patience_of(preparation.job)
        stats.patience = self._patience

    def run(self) -> int:
        """Returns the exit code. Raises UserError, Stopped or TakenOver; what is in the ledger stays."""
        with self._executor() as executor:
            frozen = self._planned(executor)
            while True:
                try:
                    self._main_pass(executor, frozen)
                    blocks = self._reduce(executor, frozen.plan)
                    ranks = self._rank(executor, frozen.plan, blocks)
                    return self._publish(frozen.plan, blocks, ranks, self._merge_examples(executor, frozen.plan))
                except CorruptAttempt as corrupt:
                    log_fields = {"attempt": corrupt.attempt}
                    log.warning(
                        "attempt %s is retracted and redone: %s", corrupt.attempt, corrupt.reason, extra=log_fields
                    )
                    self._ledger.append("retract", {"attempts": [corrupt.attempt], "reason": corrupt.reason})

    # -- where kinds of runs differ

    @abstractmethod
    def _executor(self) -> AbstractContextManager[Executor]:
        """The executor with the workers, to be entered."""

    @abstractmethod
    def _planned(self, executor: Executor) -> FrozenPlan:
        """The recorded plan of a resumed run, or a new one, recorded in the manifest with the units."""

    @abstractmethod
    def _main_pass(self, executor: Executor, frozen: FrozenPlan) -> None:
        """Works until every unit of the manifest is accepted or set aside."""

    def _reduce_task(self, plan: Plan, block: ChannelBlock, receipts: tuple[Receipt, ...]) -> Task[BlockScores]:
        """The reduce task of one block. It gets only those parts of the receipts that it needs."""
        return Task.of(WorkerBody.reduce, plan.digest, block, receipts_for(receipts, block))

    @abstractmethod
    def _publish_more(self, sink: Sink, plan: Plan) -> None:
        """What this kind of run publishes beside rankings and bad rows, before `done`."""

    # -- reduce, publish

    def _reduce(self, executor: Executor, plan: Plan) -> list[BlockScores]:
        """One task per block of channels, on the workers that are up."""
        receipts = self._ledger.state.accepted_receipts()
        tasks = [self._reduce_task(plan, block, receipts) for block in blocks_of(plan)]
        with self._stats.stage("reduce"):
            blocks = self._map(executor, tasks, "reducing")
        self._stats.reduced(block.seconds for block in blocks)
        return blocks

    def _map(self, executor: Executor, tasks: Sequence[Task[R]], stage: str) -> list[R]:
        finished = 0

        def tick() -> None:
            if executor.up:
                share = executor.pilot_share() if stage == PILOT else finished / len(tasks)
                self._tick(executor, stage, share=share)
            else:
                self._tick(executor, "starting workers", share=0.0)

        def finish() -> None:
            nonlocal finished
            finished += 1

        return map_tasks(executor, tasks, LoopControl(self._patience, self._stopping, tick), finish)

    def _rank(self, executor: Executor, plan: Plan, blocks: list[BlockScores]) -> list[Ranks]:
        """Ranks of every target and group; on the workers, unless it takes only a moment."""
        batches = rank_tasks(plan, blocks)
        with self._stats.stage("rank"):
            if len(batches) == 1:
                return rank_batch(batches[0], threads=max(1, min(len(executor.up), cores())))
            tasks = [Task.of(WorkerBody.rank, batch) for batch in batches]
            return list(chain.from_iterable(self._map(executor, tasks, "ranking channels")))

    def _merge_examples(self, executor: Executor, plan: Plan) -> list[dict[str, bytes]]:
        """The example rows, a task for every EXAMPLE_ATTEMPTS attempts."""
        receipts = [only_files(receipt, EXEMPLARS, SAMPLE) for receipt in self._ledger.state.accepted_receipts()]
        chunks = [receipts[start : start + EXAMPLE_ATTEMPTS] for start in range(0, len(receipts), EXAMPLE_ATTEMPTS)]
        with self._stats.stage("reduce"):
            tasks = [Task.of(WorkerBody.merge_examples, plan.digest, tuple(chunk)) for chunk in chunks]
            return self._map(executor, tasks, "reducing")

    def _publish(
        self, plan: Plan, blocks: list[BlockScores], ranks: list[Ranks], examples: list[dict[str, bytes]]
    ) -> int:
        """Rankings, bad rows, then `done`, then summary.json (docs/protocol.md, item 10)."""
        bad, images = self._stats.bad_rows, self._stats.images
        if images == 0:
            raise DatasetError(
                f"dataset: none of the {bad} rows could be used; the last fault was: {self._stats.last_fault}"
            )
        self._ledger.check_held()
        self._ledger.check_whole()
        published = Publication(self._store.put)
        group_type = self._preparation.group_type
        with self._stats.stage("publish"):
            grouped, named = self._job.group_by is not None, self._job.shown == "images"
            results = Results(plan, self._ledger.state, blocks, ranks, examples, group_type, grouped, named)
            publish_results(published, self._store, results)
            self._publish_more(published, plan)
        self._stats.drift = drift_of((block.block.layer, block.ends) for block in blocks)
        outcome = DONE if is_any_ranked(blocks) else NOTHING_RANKED
        if bad > self._job.max_bad_rows * (images + bad):
            outcome = TOO_MANY_BAD_ROWS
        code = 0 if outcome == DONE else 4
        summary = self._stats.summary(outcome, code)
        self._ledger.check_whole()
        self._ledger.append("done", done_body(summary, self._job, group_type, published))
        publish_summary(self._store, summary)
        self._clean_up()
        self._stats.report(0)
        return code

    def _clean_up(self) -> None:
        """Remove attempts that no record refers to (docs/protocol.md, item 11). What cannot be removed does no harm.

        An attempt is this run's if its name has an epoch that this ledger has given out, or if the manifest takes it
        over.
        """
        accepted = {receipt.attempt for receipt in self._ledger.state.accepted_receipts()}
        inherited = ((self._ledger.state.manifest or {}).get("inherits") or {}).get("sources", {})
        try:
            for key in self._store.list("attempts/"):
                match = _ATTEMPT_KEY.fullmatch(key)
                if match is None or (match["attempt"] not in inherited and int(match["epoch"]) > self._ledger.epoch):
                    log.warning("%s/%s: is not removed, because this run has not written it", self._store.url, key)
                elif match["attempt"] not in accepted:
                    self._store.delete(key)
            self._store.discard_unfinished(FOLDERS)
        except PcaceError as error:
            log.warning("clean-up: %s", error)

    def _units(self) -> dict[str, Unit]:
        manifest = self._ledger.state.manifest or {}
        units = (Unit.from_json(unit) for unit in manifest.get("units", ()))
        return {unit.id: unit for unit in units}

    def _tick(
        self, executor: Executor, stage: str, waits_for: str | None = None, *, share: float | None = None
    ) -> None:
        """Show progress; end when the run was taken over. `waits_for`: None where any worker that is up will do;
        `share`: how much of the stage is done, where that is not counted in images."""
        self._check_held()
        if executor.up and self._first_up is None:
            self._first_up = time.monotonic()
        storage = executor.waits_for()
        if storage is not None:
            waits_for = f"waits for {storage}"
        elif waits_for is None:
            waits_for = "" if executor.up else self._patience.waits_for(0, 0, len(executor.members))
        if self._stopping():
            waits_for = STOPPING
        self._stats.tick(stage, len(executor.up), waits_for, share)


def patience_of(job: Job) -> StartPatience:
    """How long the job waits for its workers."""
    return StartPatience(job.workers.min, job.workers.start_timeout)


def receipts_for(receipts: Iterable[Receipt], block: ChannelBlock) -> tuple[Receipt, ...]:
    """The receipts as a reduce task needs them."""
    return tuple(
        only_files(receipt, "rows.arrow", block.file, "samples.arrow", block.sample_file) for receipt in receipts
    )


def only_files(receipt: Receipt, *names: str) -> Receipt:
    """A receipt with some of its files and without its units: small enough to go with every task."""
    return replace(receipt, units={}, files={name: ref for name, ref in receipt.files.items() if name in names})
