"""A worker: what an executor can call, around an engine that does the work. No Ray.

`progress` and `stop` may be called from another thread while a task runs.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pcace_dist.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pcace_dist.artifacts.attempt import ChannelBlock
    from pcace_dist.artifacts.block_scores import BlockScores
    from pcace_dist.checks.finding import Finding
    from pcace_dist.datasets.listing import Listing
    from pcace_dist.datasets.units import Unit
    from pcace_dist.ledger.ledger import Receipt
    from pcace_dist.models.ablation.replacement import Effect
    from pcace_dist.statistics.order.ranks import Ranks
    from pcace_dist.statistics.plan import Plan
    from pcace_dist.storage.files import Storage
    from pcace_dist.worker.admission import Admission
    from pcace_dist.worker.engine import UnitReport
    from pcace_dist.worker.evaluation.evaluator import AblationTask, Case, EvaluationSpec, Evaluator, Profiled
    from pcace_dist.worker.reduce import RankInput
    from pcace_dist.worker.shared_model import SharedModel
    from pcace_dist.worker.spec import CodesSpec, WorkSpec


@dataclass(frozen=True)
class WorkerInfo:
    """Where a worker runs and what it has loaded."""

    name: str
    host: str
    node: str
    pid: int
    device: str
    weights: str


@dataclass(frozen=True)
class WorkResult:
    """Result of `work` or `flush`; small, whatever the unit's size. `seconds`: those outside the unit's report."""

    report: UnitReport | None = None
    gave_up: str | None = None
    flushed_first: Receipt | None = None
    flushed: Receipt | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """How far a worker is: images forwarded so far, batches of a pilot so far, the pilot's share that is done (0 to 1),
    and the storage that it waits for."""

    images: int = 0
    pilot_batches: int = 0
    pilot_share: float = 0.0
    waits_for: str | None = None


class WorkerBody:
    """Holds one engine. Imports happen in `ready`, so that creating a worker is quick and its errors are values."""

    def __init__(self, name: str, shared: SharedModel | None = None) -> None:
        """`shared`: the model that workers share if they are threads of one process."""
        self._name = name
        self._shared = shared
        self._plan: Plan | None = None
        self._evaluator: Evaluator | None = None
        self._storage: Storage | None = None
        self._stopped = False

    def ready(self, spec: WorkSpec | CodesSpec) -> WorkerInfo:
        """Load the model, or open the kept codes. Raises ModelError or DatasetError as the job's mistake."""
        from dataclasses import replace

        from pcace_dist.storage.store import open_store
        from pcace_dist.worker.spec import CodesSpec

        self._storage = spec.storage.for_worker()
        spec = replace(spec, storage=self._storage)
        if self._stopped:
            self._storage.patience.stop()
        self._store = store = open_store(spec.output, spec.storage)
        if isinstance(spec, CodesSpec):
            with self._importing():
                from pcace_dist.worker.codes_engine import CodesEngine

            self._codes = CodesEngine(spec, store)
            return self._info("cpu", self._codes.weights)
        with self._importing():
            from pcace_dist.worker.engine import Engine

        self._engine = Engine(spec, self._name, store, self._shared)
        return self._info(spec.device, self._engine.weights)

    def _info(self, device: str, weights: str) -> WorkerInfo:
        return WorkerInfo(self._name, socket.gethostname(), self._node(), os.getpid(), device, weights)

    @staticmethod
    def _importing() -> AbstractContextManager[None]:
        """Around large imports."""
        return nullcontext()

    def _node(self) -> str:
        """Name of the node that this worker runs on; empty where there is only one."""
        return ""

    def _workers_here(self) -> int:
        """Workers of this run on this machine, this one among them."""
        return 1 if self._shared is None else self._shared.workers

    def pilot(self, listing: Listing) -> tuple[bytes, bytes, tuple[Finding, ...]]:
        """Make the plan. Returns its bytes, those of the rows by which workers are admitted, and warnings."""
        plan, check = self._engine.pilot(listing, self._workers_here())
        return plan.to_bytes(), check.to_bytes(), self._engine.pilot_warnings

    def begin(self, plan: bytes, check: bytes, epoch: int) -> Admission:
        """Take the plan. Raises NotAdmitted, ModelError."""
        from pcace_dist.statistics.plan import Plan
        from pcace_dist.worker.admission import CheckRows

        admission = self._engine.begin(Plan.from_bytes(plan), CheckRows.from_bytes(check), epoch)
        self._plan = self._engine.plan
        return admission

    def work(self, unit: Unit, upcoming: Unit | None, flush_first: bool, codes_file: str | None = None) -> WorkResult:
        """Compute one unit. The result has a receipt for each flush, before or after the unit, and no report if the
        unit was given up.

        `codes_file`: the codes file of the extended run that holds the unit's rows; they are not forwarded then.
        """
        from pcace_dist.worker.engine import Abandoned

        flushed_before, seconds_before = self._flushed() if flush_first else (None, 0.0)
        try:
            report = self._engine.process(unit, upcoming, codes_file)
        except (Abandoned, StoreUnavailable):
            if not self._stopped:  # storage is away: the driver lends the unit anew, and nobody is blamed
                raise
            return WorkResult(gave_up=unit.id, flushed_first=flushed_before, seconds={"flush": seconds_before})
        flushed_after, seconds_after = self._flushed() if self._engine.should_flush else (None, 0.0)
        return WorkResult(
            report=report,
            flushed_first=flushed_before,
            flushed=flushed_after,
            seconds={"flush": seconds_before + seconds_after},
        )

    def flush(self) -> WorkResult:
        receipt, seconds = self._flushed()
        return WorkResult(flushed=receipt, seconds={"flush": seconds})

    def _flushed(self) -> tuple[Receipt | None, float]:
        """Flush. Returns the receipt and the seconds it took."""
        start = time.perf_counter()
        return self._engine.flush(), time.perf_counter() - start

    def reduce(self, plan: str, block: ChannelBlock, receipts: Sequence[Receipt]) -> BlockScores:
        """One reduce task under the stored plan of this digest."""
        return self._engine.reduce(self._stored_plan(plan), block, receipts)

    def count_codes(self, block: ChannelBlock, selection: Receipt) -> Tensor:
        """How often each code occurs in the selected rows of one block of the kept codes."""
        return self._codes.count(block, selection)

    def reduce_codes(self, plan: str, block: ChannelBlock, selection: Receipt) -> BlockScores:
        """One reduce task of a run on kept codes."""
        return self._codes.reduce(self._stored_plan(plan), block, selection)

    def rank_without(
        self, plan: str, block: ChannelBlock, receipts: Sequence[Receipt], folds: tuple[int, ...]
    ) -> BlockScores:
        """One reduce task of `pcace evaluate`: as `reduce`, without the images of some folds."""
        from pcace_dist.worker.evaluation.leave_out import rank_without
        from pcace_dist.worker.memory import memory_of

        spec = self._engine.spec
        memory = memory_of(spec)
        penalty = spec.statistics.penalty
        stored_plan = self._stored_plan(plan)
        return rank_without(self._store, stored_plan, block, receipts, folds, penalty=penalty, memory=memory)

    def profile(self, plan: str, evaluation: EvaluationSpec, case: Case) -> Profiled:
        """What the channels of all layers are like over a case's images; for `pcace evaluate`."""
        return self._evaluating(plan, evaluation).profile(case)

    def untouched(self, plan: str, evaluation: EvaluationSpec, case: Case) -> Effect:
        """What the unchanged model does on a case's held images."""
        return self._evaluating(plan, evaluation).untouched(case)

    def ablate(self, plan: str, evaluation: EvaluationSpec, task: AblationTask) -> list[Effect]:
        """The effects of one task of `pcace evaluate`."""
        return self._evaluating(plan, evaluation).ablate(task)

    def _evaluating(self, plan: str, evaluation: EvaluationSpec) -> Evaluator:
        """Reads the images at the first task."""
        from pcace_dist.worker.evaluation.evaluator import Evaluator

        if self._evaluator is None:
            self._evaluator = Evaluator(self._engine, self._stored_plan(plan), evaluation)
        return self._evaluator

    def _stored_plan(self, digest: str) -> Plan:
        """Read once per worker, not once per task: with all layers of a large network it is hundreds of megabytes."""
        from pcace_dist.artifacts.plan_store import read_plan

        if self._plan is None or self._plan.digest != digest:
            self._plan = read_plan(self._store, digest)
        return self._plan

    def rank(self, inputs: Sequence[RankInput]) -> list[Ranks]:
        """Ranks of some rankings: any worker can."""
        from pcace_dist.worker.reduce import rank_batch

        return rank_batch(inputs)

    def merge_examples(self, plan: str, receipts: Sequence[Receipt]) -> dict[str, bytes]:
        """The example rows of some attempts, merged."""
        return self._engine.merge_examples(self._stored_plan(plan), receipts)

    def progress(self) -> Progress:
        """How far it is, and what it waits for."""
        engine = getattr(self, "_engine", None)
        outage = None if self._storage is None else self._storage.patience.waiting
        return Progress(
            images=0 if engine is None else engine.images_seen,
            pilot_batches=0 if engine is None else engine.pilot_batches,
            pilot_share=0.0 if engine is None else engine.pilot_meter.share,
            waits_for=None if outage is None else f"{outage[0]} (for {outage[1]:.0f} s by now)",
        )

    def stop(self) -> None:
        """Give up the unit in hand at its next batch, and wait for storage no more than a moment."""
        self._stopped = True
        if self._storage is not None:
            self._storage.patience.stop()
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.stop()

    def close(self) -> None:
        """End the worker's own threads: the last call of a worker that is a thread. A process ends with them."""
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.close()
