"""A run of the model over images: the pilot's plan, then units out to workers that forward them.

The main pass itself is main_pass.py; here is what it is given, and how a plan comes to be recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.units import check_unchanged, make_units
from pcace_dist.errors import Stopped
from pcace_dist.service.account import Account
from pcace_dist.service.codes import index_of, publish_index
from pcace_dist.service.coordinator import Coordinator, worker_shape
from pcace_dist.service.dispatch import Dispatcher
from pcace_dist.service.events import Crew, Failed, Finished, Lost
from pcace_dist.service.frozen import FrozenPlan
from pcace_dist.service.ledger import Ledger
from pcace_dist.service.main_pass import TICK, MainPass
from pcace_dist.service.memory import check_fits
from pcace_dist.service.prepare import Preparation
from pcace_dist.service.store import Store
from pcace_dist.statistics.plan import Plan

UNIT_ROWS = (128, 1024)  # least and most rows of a unit; in between, 1/64 of the data set
UNIT_BYTES = 64 << 20  # a unit reads about this much at most


class ModelRun(Coordinator):
    """The usual run: images through the model."""

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
        super().__init__(preparation, store, ledger, account, stopping=stopping, check=check)
        self._preparation = preparation

    def _crew(self) -> AbstractContextManager[Crew]:
        from pcace_dist.service.fleet import Fleet

        return Fleet(self._preparation.spec, worker_shape(self._job))

    def _planned(self, crew: Crew) -> FrozenPlan:
        """The recorded plan of a resumed run, or a new one made by one worker and recorded with the units."""
        manifest = self._ledger.state.manifest
        frozen = self._new_plan(crew) if manifest is None else self._recorded_plan(manifest)
        self._account.planned(frozen.plan, self._units())
        check_fits(frozen.plan, self._units().values(), self._preparation.spec.memory)
        return frozen

    def _new_plan(self, crew: Crew) -> FrozenPlan:
        units = make_units(self._preparation.listing, rows_per_unit(self._preparation.listing))
        frozen = FrozenPlan.of(*self._pilot(crew))
        self._ledger.append(
            "manifest",
            {
                "fingerprint": self._preparation.fingerprint,
                "weights": self._preparation.weights,
                **frozen.store(self._store),
                "units": [unit.to_json() for unit in units],
            },
        )
        return frozen

    def _pilot(self, crew: Crew) -> tuple[bytes, bytes]:
        """The first worker that is up makes the plan; if it is lost, the next one does."""
        maker: str | None = None
        waiting = time.monotonic()
        while True:
            for event in crew.events(TICK):
                match event:
                    case Finished(_, "pilot", value):
                        self._account.seconds["pilot"] += time.monotonic() - waiting
                        plan, check = value
                        return bytes(plan), bytes(check)
                    case Failed(_, _, error):
                        raise error
                    case Lost(actor):
                        crew.replace()
                        maker = None if actor == maker else maker
                    case _:
                        pass
            if self._stopping():
                raise Stopped("stopped before the plan was made; the same command goes on")
            if maker is None and crew.up:
                maker = crew.up[0]
                self._account.seconds["start"] += time.monotonic() - waiting
                waiting = time.monotonic()
                crew.call(maker, "pilot", self._preparation.listing)
            self._tick(crew, "starting workers" if maker is None else "pilot")

    def _recorded_plan(self, manifest: dict[str, Any]) -> FrozenPlan:
        check_unchanged(list(self._units().values()), self._preparation.listing)
        return FrozenPlan.recorded(self._store, manifest)

    def _main_pass(self, crew: Crew, frozen: FrozenPlan) -> None:
        dispatcher = Dispatcher(
            self._ledger.state.pending_units(),
            epoch=self._ledger.epoch,
            plan=frozen.plan.digest,
            weights=self._preparation.weights,
        )
        main_pass = MainPass(
            crew,
            self._ledger,
            dispatcher,
            self._units(),
            frozen,
            stopping=self._stopping,
            on_tick=lambda: self._tick(crew, "ranking"),
            least_workers=self._job.workers.min,
        )
        self._account.main_pass_begins(main_pass)
        with self._account.stage("main_pass"):
            main_pass.run()
        self._tick(crew, "ranking")

    def _publish_more(self, plan: Plan) -> None:
        if self._preparation.spec.kept is None:
            return
        index = index_of(
            plan,
            self._ledger.state.accepted_receipts(),
            fingerprint=self._preparation.fingerprint,
            weights=self._preparation.weights,
            fold_by=self._job.dataset.fold_by,
        )
        publish_index(self._store, index)


def rows_per_unit(listing: Listing) -> int:
    """From the data set alone, never from the cluster: a retry on more workers has the same units."""
    bytes_per_row = max(1, sum(file.size for file in listing.files) // max(1, listing.rows))
    least, most = UNIT_ROWS
    return max(1, min(max(least, min(most, listing.rows // 64)), UNIT_BYTES // bytes_per_row))
