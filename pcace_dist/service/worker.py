"""The Ray actor around an `Engine`: one per GPU or CPU slot. All work is the engine's; here are only the calls.

The control group answers `images_seen` and `stop` while `work` is busy.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcace_dist.datasets.listing import Listing
    from pcace_dist.datasets.units import Unit
    from pcace_dist.service.admission import Admission
    from pcace_dist.service.attempt import Block
    from pcace_dist.service.engine import UnitReport
    from pcace_dist.service.ledger import Receipt
    from pcace_dist.service.reduce import BlockScores
    from pcace_dist.service.spec import WorkSpec


@dataclass(frozen=True)
class WorkerInfo:
    """Where a worker runs and what it has loaded."""

    actor: str
    host: str
    node: str
    pid: int
    device: str
    weights: str


@dataclass(frozen=True)
class WorkResult:
    """What a call of `work` or `flush` gives back: small, whatever the unit's size."""

    report: UnitReport | None = None
    gave_up: str | None = None
    flushed_first: Receipt | None = None
    flushed: Receipt | None = None


@ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})
class Worker:
    """Holds one engine. Imports happen in `ready`, so that creating the actor is quick and its errors are values."""

    def __init__(self, actor: str) -> None:
        self._actor = actor
        self._stopping = False

    def ready(self, spec: WorkSpec) -> WorkerInfo:
        """Load the model. Raises ModelError as the job's mistake."""
        from pcace_dist.service.engine import Engine
        from pcace_dist.service.store import open_store

        self._engine = Engine(spec, self._actor, open_store(spec.output, spec.storage))
        context = ray.get_runtime_context()
        return WorkerInfo(
            self._actor, socket.gethostname(), context.get_node_id(), os.getpid(), spec.device, self._engine.weights
        )

    def pilot(self, listing: Listing) -> tuple[bytes, bytes]:
        """Make the plan; its bytes, and those of the rows by which workers are admitted."""
        plan, check = self._engine.pilot(listing)
        return plan.to_bytes(), check.to_bytes()

    def begin(self, plan: bytes, check: bytes, epoch: int) -> Admission:
        """Take the plan. Raises NotAdmitted, ModelError."""
        from pcace_dist.service.admission import CheckRows
        from pcace_dist.statistics.plan import Plan

        return self._engine.begin(Plan.from_bytes(plan), CheckRows.from_bytes(check), epoch)

    def work(self, unit: Unit, upcoming: Unit | None, flush_first: bool) -> WorkResult:
        """One unit; with a receipt if the accumulator was flushed before or after it. No report if it was given up."""
        from pcace_dist.service.engine import Abandoned

        before = self._engine.flush() if flush_first else None
        try:
            report = self._engine.process(unit, upcoming)
        except Abandoned:
            return WorkResult(gave_up=unit.id, flushed_first=before)
        after = self._engine.flush() if self._engine.should_flush else None
        return WorkResult(report=report, flushed_first=before, flushed=after)

    def flush(self) -> WorkResult:
        return WorkResult(flushed=self._engine.flush())

    def reduce(self, plan: bytes, block: Block, receipts: Sequence[Receipt]) -> BlockScores:
        from pcace_dist.statistics.plan import Plan

        return self._engine.reduce(Plan.from_bytes(plan), block, receipts)

    def merge_shown(self, plan: bytes, receipts: Sequence[Receipt]) -> dict[str, bytes]:
        from pcace_dist.statistics.plan import Plan

        return self._engine.merge_shown(Plan.from_bytes(plan), receipts)

    @ray.method(concurrency_group="control")
    def images_seen(self) -> int:
        """Images forwarded so far, for the progress bar."""
        engine = getattr(self, "_engine", None)
        return 0 if engine is None else engine.images_seen

    @ray.method(concurrency_group="control")
    def stop(self) -> None:
        """Give up the unit in hand at its next batch."""
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.stop()
