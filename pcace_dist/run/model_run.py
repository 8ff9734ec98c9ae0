"""A run of the model over images: a plan, then units out to workers that forward them.

The main pass itself is main_pass.py; here is what it is given: a plan from the pilot, from another run
(`statistics.plan`) or from the run that is extended; and how much of the data, all of it or until the top is settled.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from pcace_dist.artifacts.block_scores import each_ranking
from pcace_dist.artifacts.codes.index import index_of, publish_index
from pcace_dist.artifacts.plan_store import FrozenPlan
from pcace_dist.artifacts.reading.data_reading import KEY
from pcace_dist.checks.finding import Finding
from pcace_dist.datasets.units import Unit, check_unchanged, located, make_units, rows_per_unit
from pcace_dist.errors import JobError
from pcace_dist.executors.base import Executor, Task, WorkerShape
from pcace_dist.executors.choice import open_executor
from pcace_dist.executors.event_loop import LoopControl
from pcace_dist.progress import logs
from pcace_dist.run.coordinator import PILOT, Coordinator
from pcace_dist.run.dispatcher import Dispatcher
from pcace_dist.run.extend import Base, check_base_plan, copy_attempts, generation_of, inherit
from pcace_dist.run.main_pass import MainPass
from pcace_dist.run.prepare import Preparation
from pcace_dist.statistics.order.settled import check_settled, prefixes, spent
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.score import OK, TOO_FEW_IMAGES
from pcace_dist.storage.store import Sink
from pcace_dist.worker.memory import check_fits
from pcace_dist.worker.worker import WorkerBody

log = logging.getLogger(__name__)


class ModelRun(Coordinator[Preparation]):
    """The usual run: images through the model."""

    def _executor(self) -> AbstractContextManager[Executor]:
        preparation = self._preparation
        shape, shared = WorkerShape.of(self._job.workers), preparation.shared_model
        return open_executor(preparation.executor, preparation.spec, shape, shared=shared, early=self._early)

    # -- plan and manifest

    def _planned(self, executor: Executor) -> FrozenPlan:
        """The recorded plan of a resumed run, or a new one made by one worker and recorded with the units."""
        manifest = self._ledger.state.manifest
        if manifest is not None:
            frozen = self._recorded_plan(manifest)
        elif self._preparation.base is not None:
            frozen = self._extended(self._preparation.base)
        else:
            frozen = self._new_plan(executor)
        self._take_over_attempts(executor)
        self._stats.planned(frozen.plan, self._units())
        check_fits(frozen.plan, self._units().values(), self._preparation.spec.statistics.memory)
        return frozen

    def _new_plan(self, executor: Executor) -> FrozenPlan:
        units = make_units(self._preparation.listing, rows_per_unit(self._preparation.listing))
        if self._job.stop is not None:
            units = seeded_order(units, self._job.compute.seed)
        plan, check, warnings = self._pilot(executor)
        for warning in warnings:
            logs.say(str(warning), prefix="pcace: warning: ", level=logging.WARNING)
        frozen = FrozenPlan.of(plan, check)
        more = {"warnings": [warning.to_json() for warning in warnings]} if warnings else {}
        self._record_manifest(frozen, units, **more)
        return frozen

    def _extended(self, base: Base) -> FrozenPlan:
        """The base's plan, and a manifest that names the attempts which are taken over."""
        listing = self._preparation.listing
        inherited = inherit(base, listing, rows_per_unit(listing))
        codes_suffice = self._job.statistics.estimator == "gram"  # ace needs the components, which are not kept
        self._record_manifest(
            base.frozen,
            inherited.units,
            base=base.url,
            generation=generation_of(base),
            inherits={
                "receipts": [receipt.to_json() for receipt in inherited.receipts],
                "sources": dict(inherited.sources),
            },
            from_codes=dict(inherited.from_codes) if codes_suffice else {},
        )
        return base.frozen

    def _record_manifest(self, frozen: FrozenPlan, units: Iterable[Unit], **more: Any) -> None:
        identity = self._preparation.identity
        identity_fields: dict[str, Any] = {"fingerprint": identity.fingerprint, "weights": identity.weights}
        identity_fields |= {"code": identity.code}
        if identity.prototypes:
            identity_fields["prototypes"] = identity.prototypes
        stored = frozen.store(self._store) | {KEY: self._preparation.reading.to_json()}
        self._ledger.append(
            "manifest", {**identity_fields, **stored, "units": [unit.to_json() for unit in units], **more}
        )

    def _take_over_attempts(self, executor: Executor) -> None:
        """Copy what the manifest inherits, unless that has been recorded already."""
        base, state = self._preparation.base, self._ledger.state
        manifest = state.manifest or {}
        if base is None or state.inherited or not manifest["inherits"]["receipts"]:
            return
        with self._stats.stage("copy"):
            receipts = copy_attempts(base, self._store, manifest, lambda done, total: self._check_held())
        self._ledger.append("inherit", {"receipts": [receipt.to_json() for receipt in receipts]})
        self._tick(executor, "taking over")

    def _pilot(self, executor: Executor) -> tuple[bytes, bytes, tuple[Finding, ...]]:
        """The first worker that is up makes the plan; if it is lost, the next one does."""
        began = time.monotonic()
        (piloted,) = self._map(executor, [Task.of(WorkerBody.pilot, self._preparation.listing)], PILOT)
        first_up = began if self._first_up is None else self._first_up
        self._stats.seconds["start"] += first_up - began
        self._stats.seconds["pilot"] += time.monotonic() - first_up
        return piloted

    def _units(self) -> dict[str, Unit]:
        return {unit.id: unit for unit in located(super()._units().values(), self._preparation.listing)}

    def _recorded_plan(self, manifest: dict[str, Any]) -> FrozenPlan:
        check_unchanged(list(self._units().values()), self._preparation.listing)
        if self._preparation.base is not None:
            check_base_plan(self._preparation.base, manifest)
        return FrozenPlan.recorded(self._store, manifest)

    # -- main pass

    def _main_pass(self, executor: Executor, frozen: FrozenPlan) -> None:
        """All units; with `stop`, a prefix after the other until the top is settled (docs/protocol.md, item 13)."""
        if self._job.stop is None:
            self._work_through(executor, frozen, self._ledger.state.pending_units())
            return
        self._refuse_top_of_all(frozen.plan)
        units = list(self._ledger.state.units)
        sizes = prefixes(len(units))
        for look, size in enumerate(sizes, start=1):
            state = self._ledger.state
            todo = [unit for unit in units[:size] if not state.is_settled(unit)]
            self._work_through(executor, frozen, todo, last=size == len(units))
            passed = any(self._ledger.state.is_settled(unit) for unit in units[size:])
            level = spent(1 - self._job.stop.confidence, look, len(sizes) - 1)
            if size < len(units) and not passed and self._settled(executor, frozen.plan, look, level, units[size:]):
                return

    def _refuse_top_of_all(self, plan: Plan) -> None:
        """Raise JobError where every channel is in the top: then nothing is to be settled, and any image would do."""
        assert self._job.stop is not None
        top, channels = self._job.stop.top, sum(layer.channels for layer in plan.layers)
        if channels <= top:
            raise JobError(f"stop.top {top}: the layers have {channels} channels; write less, or leave stop out")

    def _settled(self, executor: Executor, plan: Plan, look: int, level: float, remaining: list[str]) -> bool:
        """Check the ranking of the accepted units. If the top is settled everywhere, record that the rest is spared."""
        assert self._job.stop is not None
        rule = self._job.stop
        checks = []
        settled = True
        for _, _, scores in each_ranking(plan, self._reduce(executor, plan)):
            ok = scores.status == OK
            check = check_settled(
                scores.score_squared, scores.pseudo, ok, top=rule.top, level=level, tolerance=rule.tolerance
            )
            settled &= check.settled and not bool((scores.status == TOO_FEW_IMAGES).any())
            checks.append(check)
        logs.say(self._stats.looked(look, rule.top, checks), prefix="pcace: ")
        if settled:
            self._ledger.append("settled", {"look": look, "units": remaining, "looks": self._stats.looks})
        return settled

    def _work_through(self, executor: Executor, frozen: FrozenPlan, units: list[str], *, last: bool = True) -> None:
        dispatcher = Dispatcher(
            units,
            epoch=self._ledger.epoch,
            plan=frozen.plan.digest,
            weights=self._preparation.weights,
        )
        main_pass = MainPass(
            executor,
            self._ledger,
            dispatcher,
            self._units(),
            frozen,
            LoopControl(self._patience, self._stopping, lambda: self._tick(executor, "ranking", main_pass.waits_for)),
            codes_files=(self._ledger.state.manifest or {}).get("from_codes"),
            last=last,
        )
        self._stats.main_pass_begins(main_pass)
        with self._stats.stage("main_pass"):
            main_pass.run()
        self._tick(executor, "ranking")

    def _publish_more(self, sink: Sink, plan: Plan) -> None:
        if self._preparation.spec.kept is None:
            return
        index = index_of(
            plan,
            self._ledger.state.accepted_receipts(),
            fingerprint=self._preparation.fingerprint,
            weights=self._preparation.weights,
            fold_by=self._job.dataset.fold_by,
        )
        publish_index(sink, index)


def seeded_order(units: Iterable[Unit], seed: int) -> tuple[Unit, ...]:
    """The units in an order that depends on the seed and on what they hold, not on where they lie."""

    def place(unit: Unit) -> bytes:
        return hashlib.blake2b(f"{seed}:{unit.id}".encode(), digest_size=16).digest()

    return tuple(sorted(units, key=place))
