"""The coordinator: the life of a run on one screen, from an opened ledger to published rankings.

    plan and manifest -> main pass (units out, receipts in) -> reduce -> publish -> done

The ledger is the only truth; nothing here would be missed if the driver were killed (docs/protocol.md).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.units import Unit, check_unchanged, make_units
from pcace_dist.errors import DatasetError, JobError, OutputError, PcaceError, Stopped
from pcace_dist.service.account import Account
from pcace_dist.service.attempt import CorruptAttempt, blocks_of
from pcace_dist.service.cluster import describe_resources
from pcace_dist.service.codes import CodesIndex, index_of, publish_index
from pcace_dist.service.dispatch import Dispatcher
from pcace_dist.service.fleet import Failed, Finished, Fleet, Lost, WorkerShape
from pcace_dist.service.ledger import Ledger
from pcace_dist.service.main_pass import TICK, FrozenPlan, MainPass, farm
from pcace_dist.service.memory import check_fits
from pcace_dist.service.pilot import Facts
from pcace_dist.service.prepare import Preparation
from pcace_dist.service.publish import OUTCOMES, publish_bad_rows, publish_rankings, publish_shown, publish_transforms
from pcace_dist.service.reduce import BlockScores, rankings_table
from pcace_dist.service.store import Store
from pcace_dist.statistics.plan import Plan

log = logging.getLogger(__name__)

UNIT_ROWS = (128, 1024)  # least and most rows of a unit; in between, 1/64 of the data set
UNIT_BYTES = 64 << 20  # a unit reads about this much at most
SHOWN_ATTEMPTS = 64  # attempts whose rows to show are added up by one task


class Coordinator:
    """Drives one run whose ledger this driver has opened."""

    def __init__(
        self,
        preparation: Preparation,
        store: Store,
        ledger: Ledger,
        account: Account,
        *,
        stopping: Callable[[], bool],
        check: Callable[[], None],
    ) -> None:
        self._preparation = preparation
        self._store = store
        self._ledger = ledger
        self._account = account
        self._stopping = stopping
        self._check_held = check
        self._lonely_since: float | None = time.monotonic()
        self._enough = False  # workers.min have been up at the same time

    def run(self) -> int:
        """All of it; the exit code. Raises UserError, Stopped or TakenOver; what is in the ledger stays."""
        workers = self._preparation.job.workers
        shape = WorkerShape(workers.max, workers.cpus, workers.gpus, workers.memory, dict(workers.resources))
        with Fleet(self._preparation.spec, shape, prefix="a") as fleet:
            frozen = self._planned(fleet)
            while True:
                self._main_pass(fleet, frozen)
                try:
                    return self._publish(
                        frozen.plan, self._reduce(fleet, frozen.plan), self._merge_shown(fleet, frozen.plan)
                    )
                except CorruptAttempt as corrupt:
                    log.warning("attempt %s is retracted and redone: %s", corrupt.attempt, corrupt.reason)
                    self._ledger.append("retract", {"attempts": [corrupt.attempt], "reason": corrupt.reason})

    # -- plan and manifest

    def _planned(self, fleet: Fleet) -> FrozenPlan:
        """The recorded plan of a resumed run, or a new one made by one worker and recorded with the units."""
        manifest = self._ledger.state.manifest
        frozen = self._new_plan(fleet) if manifest is None else self._recorded_plan(manifest)
        self._account.planned(frozen.plan, self._units())
        check_fits(frozen.plan, self._units().values(), self._preparation.spec.memory)
        return frozen

    def _new_plan(self, fleet: Fleet) -> FrozenPlan:
        units = make_units(self._preparation.listing, rows_per_unit(self._preparation.listing))
        data, check = self._pilot(fleet)
        plan = Plan.from_bytes(data)
        self._store.put(plan_key(plan.digest), data)
        self._store.put(check_key(plan.digest), check)
        self._ledger.append(
            "manifest",
            {
                "fingerprint": self._preparation.fingerprint,
                "weights": self._preparation.weights,
                "plan": plan.digest,
                "check": hashlib.sha256(check).hexdigest(),
                "units": [unit.to_json() for unit in units],
            },
        )
        return FrozenPlan(plan, data, check)

    def _pilot(self, fleet: Fleet) -> tuple[bytes, bytes]:
        """The first worker that is up makes the plan; if it is lost, the next one does."""
        maker: str | None = None
        waiting = time.monotonic()
        while True:
            for event in fleet.events(TICK):
                match event:
                    case Finished(_, "pilot", value):
                        self._account.seconds["pilot"] += time.monotonic() - waiting
                        plan, check = value
                        return bytes(plan), bytes(check)
                    case Failed(_, _, error):
                        raise error
                    case Lost(actor):
                        fleet.replace()
                        maker = None if actor == maker else maker
                    case _:
                        pass
            if self._stopping():
                raise Stopped("stopped before the plan was made; the same command goes on")
            if maker is None and fleet.up:
                maker = fleet.up[0]
                self._account.seconds["start"] += time.monotonic() - waiting
                waiting = time.monotonic()
                fleet.call(maker, "pilot", self._preparation.listing)
            self._tick(fleet, "starting workers" if maker is None else "pilot")

    def _recorded_plan(self, manifest: dict[str, Any]) -> FrozenPlan:
        check_unchanged(list(self._units().values()), self._preparation.listing)
        data, check = (self._recorded(key(manifest["plan"])) for key in (plan_key, check_key))
        plan = Plan.from_bytes(data)
        if plan.digest != manifest["plan"] or hashlib.sha256(check).hexdigest() != manifest["check"]:
            raise OutputError(f"{self._store.url}/plan: is not the plan that this run recorded; use another output")
        return FrozenPlan(plan, data, check)

    def _recorded(self, key: str) -> bytes:
        data = self._store.get(key)
        if data is None:
            raise OutputError(f"{self._store.url}/{key}: is missing; use another output")
        return data

    def _units(self) -> dict[str, Unit]:
        manifest = self._ledger.state.manifest or {}
        units = (Unit.from_json(unit) for unit in manifest.get("units", ()))
        return {unit.id: unit for unit in units}

    # -- main pass, reduce, publish

    def _main_pass(self, fleet: Fleet, frozen: FrozenPlan) -> None:
        dispatcher = Dispatcher(
            self._ledger.state.pending_units(),
            epoch=self._ledger.epoch,
            plan=frozen.plan.digest,
            weights=self._preparation.weights,
        )
        main_pass = MainPass(
            fleet,
            self._ledger,
            dispatcher,
            self._units(),
            frozen,
            stopping=self._stopping,
            on_tick=lambda: self._tick(fleet, "ranking"),
            least_workers=self._preparation.job.workers.min,
        )
        self._account.main_pass_begins(main_pass)
        with self._account.stage("main_pass"):
            main_pass.run()
        self._tick(fleet, "ranking")

    def _reduce(self, fleet: Fleet, plan: Plan) -> list[BlockScores]:
        """One task per block of channels, on the workers that are up."""
        receipts = tuple(self._ledger.state.accepted_receipts())
        tasks = [(plan.to_bytes(), block, receipts) for block in blocks_of(plan)]
        with self._account.stage("reduce"):
            results = farm(
                fleet, "reduce", tasks, stopping=self._stopping, on_tick=lambda: self._tick(fleet, "reducing")
            )
        return [result for result in results if isinstance(result, BlockScores)]

    def _merge_shown(self, fleet: Fleet, plan: Plan) -> list[dict[str, bytes]]:
        """The rows to show, a task for every SHOWN_ATTEMPTS attempts."""
        receipts = tuple(self._ledger.state.accepted_receipts())
        chunks = [receipts[start : start + SHOWN_ATTEMPTS] for start in range(0, len(receipts), SHOWN_ATTEMPTS)]
        tasks = [(plan.to_bytes(), chunk) for chunk in chunks]
        with self._account.stage("reduce"):
            results = farm(
                fleet, "merge_shown", tasks, stopping=self._stopping, on_tick=lambda: self._tick(fleet, "reducing")
            )
        return [result for result in results if isinstance(result, dict)]

    def _publish(self, plan: Plan, blocks: list[BlockScores], shown: list[dict[str, bytes]]) -> int:
        """Rankings, bad rows, then `done`, then summary.json (docs/protocol.md, item 10)."""
        bad, images = self._account.bad_rows, self._account.images
        if images == 0:
            raise DatasetError(
                f"dataset: none of the {bad} rows could be used; the last fault was: {self._account.last_fault}"
            )
        receipts = self._ledger.state.accepted_receipts()
        self._ledger.check_held()
        with self._account.stage("publish"):
            group_type = self._preparation.group_type
            rankings = rankings_table(plan, blocks, Facts.of(plan).weight_norms, group_type)
            publish_shown(self._store, plan, shown, group_type)
            publish_transforms(self._store, plan, [c for block in blocks for c in block.curves], group_type)
            publish_rankings(self._store, rankings)
            publish_bad_rows(self._store, receipts, self._rows_of_units_set_aside())
            if self._preparation.spec.kept is not None:
                publish_index(self._store, self._codes_index(plan))
        code = 4 if bad > self._preparation.job.max_bad_rows * (images + bad) else 0
        self._ledger.append("done", {"exit_code": code, "outcome": OUTCOMES[code]})
        self._clean_up()
        self._account.report(0)
        self._account.write(OUTCOMES[code], code)
        return code

    def _codes_index(self, plan: Plan) -> CodesIndex:
        preparation = self._preparation
        return index_of(
            plan,
            self._ledger.state.accepted_receipts(),
            fingerprint=preparation.fingerprint,
            weights=preparation.weights,
            fold_by=preparation.job.dataset.fold_by,
        )

    def _clean_up(self) -> None:
        """Remove attempts that no record refers to (docs/protocol.md, item 11); what cannot be removed does no harm."""
        accepted = {receipt.attempt for receipt in self._ledger.state.accepted_receipts()}
        try:
            for key in self._store.list("attempts/"):
                if key.split("/")[1] not in accepted:
                    self._store.delete(key)
            self._store.discard_unfinished()
        except PcaceError as error:
            log.warning("clean-up: %s", error)

    def _rows_of_units_set_aside(self) -> Iterable[dict[str, Any]]:
        """A unit that kept killing its workers is listed row group by row group."""
        units = self._units()
        for unit, reason in self._ledger.state.set_aside.items():
            for piece in units[unit].pieces:
                yield {
                    "file": piece.key,
                    "row_group": piece.row_group,
                    "row": None,
                    "id": None,
                    "stage": "model",
                    "reason": f"{piece.rows} rows: {reason}",
                }

    def _tick(self, fleet: Fleet, stage: str) -> None:
        """Show progress; end when the run was taken over, or no worker could be had for workers.start_timeout."""
        self._check_held()
        self._account.tick(stage, len(fleet.up))
        least = self._preparation.job.workers.min if stage != "reducing" and not self._enough else 1
        if len(fleet.up) >= least:
            self._enough = True
            self._lonely_since = None
            return
        now = time.monotonic()
        self._lonely_since = now if self._lonely_since is None else self._lonely_since
        workers = self._preparation.job.workers
        if now - self._lonely_since > workers.start_timeout:
            raise JobError(
                f"workers: {len(fleet.up)} of at least {least} workers with {fleet.shape} each could start within "
                f"workers.start_timeout {workers.start_timeout:g} s; the cluster has {describe_resources()}"
            )


def plan_key(digest: str) -> str:
    return f"plan/{digest}.safetensors"


def check_key(digest: str) -> str:
    """The rows by which workers are admitted to the plan."""
    return f"plan/{digest}.check.safetensors"


def rows_per_unit(listing: Listing) -> int:
    """From the data set alone, never from the cluster: a retry on more workers has the same units."""
    bytes_per_row = max(1, sum(file.size for file in listing.files) // max(1, listing.rows))
    least, most = UNIT_ROWS
    return max(1, min(max(least, min(most, listing.rows // 64)), UNIT_BYTES // bytes_per_row))
