"""The main pass on a scripted executor: what is flushed when it is told to stop, and when it gives up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.plan_store import FrozenPlan
from pcace_dist.datasets.units import Unit
from pcace_dist.errors import PcaceError, Stopped, StoreUnavailable
from pcace_dist.executors.base import Event, Executor, Explained, Failed, Finished, Joined, Lost, Task
from pcace_dist.executors.event_loop import MOST_LOSSES, LoopControl
from pcace_dist.executors.start_patience import StartPatience
from pcace_dist.ledger.ledger import FileRef, Ledger, Receipt, UnitCount
from pcace_dist.run.dispatcher import Dispatcher
from pcace_dist.run.main_pass import MainPass
from pcace_dist.statistics.plan import Plan
from pcace_dist.worker.admission import Admission
from pcace_dist.worker.engine import UnitReport
from pcace_dist.worker.worker import WorkerInfo, WorkResult

FACTS = PlanMetadata(32, "float32", (8, 8), 2, "w", {"device": "cpu"}, {})
PLAN = Plan((), (), 1, 9, 4, "pixel", 0, FACTS.to_json())


class ScriptedExecutor:
    """Workers that answer at once; a unit in hand is given up once they are told to stop."""

    def __init__(
        self, workers: list[str], *, failing: bool = False, lethal: str = "", with_node: int = 0, silent: bool = False
    ) -> None:
        self.up = list(workers)
        self.calls: list[tuple[str, str]] = []
        self._events: deque[Event] = deque()
        self._held: dict[str, list[str]] = {worker: [] for worker in workers}
        self._stopped = False
        self._failing = failing
        self._lethal = lethal  # a unit whose worker ends
        self._with_node = with_node  # so many of the workers that end go with their nodes
        self._silent = silent  # what became of them is never known
        self.deaths = 0
        self.admissions: dict[str, Admission] = {}
        self._flushes = 0

    @property
    def members(self) -> list[str]:
        return list(self.up)

    def call(self, worker: str, task: Task[Any]) -> None:
        method = task.name
        self.calls.append((worker, method))
        if method == "begin":
            admission = self.admissions.get(worker, Admission(FACTS.numeric_class, 0.0))
            self._events.append(Finished(worker, task, admission))
        elif method == "work" and self._failing:
            self._events.append(Failed(worker, task, RuntimeError("a bug")))
        elif method == "work" and task.arguments[0].id == self._lethal:
            self.up.remove(worker)
            self.deaths += 1
            self._events.append(Lost(worker, "killed"))
            if not self._silent:
                self._events.append(Explained(worker, self.deaths <= self._with_node))
        elif method == "work":
            unit = task.arguments[0].id
            if self._stopped:
                self._events.append(Finished(worker, task, WorkResult(gave_up=unit)))
                return
            self._held[worker].append(unit)
            report = UnitReport(unit, UnitCount(1), 1, {}, 1)
            self._events.append(Finished(worker, task, WorkResult(report=report)))
        elif method == "flush":
            self._flushes += 1
            units = {unit: UnitCount(1) for unit in self._held[worker]}
            self._held[worker] = []
            receipt = Receipt(
                f"e1-{worker}-f{self._flushes}", 1, worker, PLAN.digest, "w", units, {"f": FileRef(1, "0")}
            )
            self._events.append(Finished(worker, task, WorkResult(flushed=receipt)))

    def events(self, _: float) -> Iterator[Event]:
        if self._events:
            yield self._events.popleft()

    def stop_work(self) -> None:
        self._stopped = True

    def release(self, worker: str) -> None:
        if worker in self.up:
            self.up.remove(worker)

    def replace(self) -> None:
        worker = f"n{len(self.calls)}"
        self.up.append(worker)
        self._held[worker] = []
        self._events.append(Joined(worker, WorkerInfo(worker, "host", "node", 1, "cpu", "w")))

    def release_pending(self) -> None:
        return None

    def draining(self) -> set[str]:
        return set()

    def waits_for(self) -> str | None:
        return None

    def images_seen_by(self) -> dict[str, int]:
        return {}


class ListLedger:
    """Keeps what is appended."""

    epoch = 1

    def __init__(self) -> None:
        self.records: list[tuple[str, Any]] = []

    def append(self, kind: str, body: Any) -> None:
        self.records.append((kind, body))

    def accepted(self) -> set[str]:
        return {u for kind, body in self.records if kind == "accept" for r in body["receipts"] for u in r["units"]}


def main_pass(executor: ScriptedExecutor, ledger: ListLedger, units: int, stop_after: int) -> MainPass:
    by_id = {f"u{i}": Unit(f"u{i}", (), 1) for i in range(units)}
    dispatcher = Dispatcher(by_id, epoch=1, plan=PLAN.digest, weights="w")
    return MainPass(
        cast(Executor, executor),
        cast(Ledger, ledger),
        dispatcher,
        by_id,
        FrozenPlan(PLAN, b"", b""),
        LoopControl(
            StartPatience(1, 600),
            stopping=lambda: sum(method == "work" for _, method in executor.calls) >= stop_after,
            on_tick=lambda: None,
        ),
    )


def test_every_unit_is_recorded_once() -> None:
    executor, ledger = ScriptedExecutor(["a", "b"]), ListLedger()
    main_pass(executor, ledger, 7, stop_after=99).run()
    assert ledger.accepted() == {f"u{i}" for i in range(7)}


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_told_to_stop_it_flushes_what_is_finished_before_it_ends(stop_after: int) -> None:
    executor, ledger = ScriptedExecutor(["a", "b"]), ListLedger()
    with pytest.raises(Stopped):
        main_pass(executor, ledger, 50, stop_after=stop_after).run()
    finished = sum(method == "work" for _, method in executor.calls)
    assert 0 < len(ledger.accepted()) <= finished
    assert not any(executor._held.values())


def test_workers_that_all_fail_end_the_run_with_the_reason() -> None:
    executor, ledger = ScriptedExecutor(["a", "b"], failing=True), ListLedger()
    with pytest.raises(PcaceError, match="no unit was finished; the last one: work failed: RuntimeError"):
        main_pass(executor, ledger, 50, stop_after=999).run()


@pytest.mark.parametrize("lethal", [False, True])
def test_the_loss_that_ends_the_run_sets_no_unit_aside(lethal: bool) -> None:
    """It would be the unit's third death."""
    executor, ledger = ScriptedExecutor(["a"], failing=not lethal, lethal="u0" if lethal else ""), ListLedger()
    work = main_pass(executor, ledger, 1, stop_after=999)
    work._losses_in_a_row = MOST_LOSSES - 2
    with pytest.raises(PcaceError, match="no unit was finished"):
        work.run()
    assert work._dispatcher._deaths == {"u0": 2} and set_aside(ledger) == []


def test_storage_that_stays_away_ends_the_pass_and_blames_nobody() -> None:
    executor, ledger = ScriptedExecutor(["a", "b"]), ListLedger()
    work = main_pass(executor, ledger, 50, stop_after=999)
    call, seen = executor.call, 0

    def away_at_the_third(worker: str, task: Task[Any]) -> None:
        nonlocal seen
        seen += task.name == "work"
        if task.name == "work" and seen == 3:
            executor.calls.append((worker, task.name))
            executor._events.append(Failed(worker, task, StoreUnavailable("s3://b/k: no answer (for 900 s)")))
        else:
            call(worker, task)

    executor.call = away_at_the_third  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable, match="no answer"):
        work.run()
    assert len(executor.up) == 1, "nobody takes the place of who waited in vain"
    assert ledger.accepted() and set_aside(ledger) == [], "what others had finished is recorded"
    assert not work._dispatcher._deaths and work._losses_in_a_row == 0


def test_storage_that_is_away_at_the_beginning_is_no_lost_worker() -> None:
    executor, ledger = ScriptedExecutor([f"w{i}" for i in range(20)]), ListLedger()
    work = main_pass(executor, ledger, 50, stop_after=999)
    call = executor.call

    def away(worker: str, task: Task[Any]) -> None:
        if task.name == "work":
            executor._events.append(Failed(worker, task, StoreUnavailable("no answer")))
        else:
            call(worker, task)

    executor.call = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        work.run()
    assert set_aside(ledger) == [] and work._losses_in_a_row == 0


def set_aside(ledger: ListLedger) -> list[str]:
    return [body["units"][0] for kind, body in ledger.records if kind == "set_aside"]


def test_a_unit_that_kills_is_tried_last_and_set_aside_the_third_time() -> None:
    executor, ledger = ScriptedExecutor(["a", "b"], lethal="u2"), ListLedger()
    main_pass(executor, ledger, 7, stop_after=99).run()
    assert ledger.accepted() == {f"u{i}" for i in range(7)} - {"u2"}
    assert set_aside(ledger) == ["u2"]
    assert executor.deaths == 3
    assert [body for kind, body in ledger.records][-1]["units"] == ["u2"]  # nothing waited for it


def test_workers_that_go_with_their_nodes_blame_no_unit() -> None:
    executor, ledger = ScriptedExecutor(["a", "b"], lethal="u2", with_node=9), ListLedger()
    main_pass(executor, ledger, 7, stop_after=99).run()
    assert executor.deaths == 9 + 3
    assert set_aside(ledger) == ["u2"]


def test_any_number_of_nodes_may_go_in_a_row() -> None:
    executor, ledger = ScriptedExecutor(["a"], lethal="u0", with_node=40), ListLedger()
    main_pass(executor, ledger, 1, stop_after=99).run()
    assert executor.deaths == 40 + 3


def test_the_units_of_a_lost_worker_wait_until_it_is_known_whether_its_node_went_too() -> None:
    executor, ledger = ScriptedExecutor(["a", "b"], lethal="u0", silent=True), ListLedger()
    with pytest.raises(Stopped):
        main_pass(executor, ledger, 3, stop_after=3).run()
    assert ledger.accepted() == {"u1", "u2"}


def test_the_ledger_is_told_of_workers_of_another_class() -> None:
    executor, ledger = ScriptedExecutor(["a", "b"]), ListLedger()
    executor.admissions["b"] = Admission({"device": "tpu"}, 0.25)
    main_pass(executor, ledger, 7, stop_after=99).run()
    foreign = {body["receipts"][0]["actor"]: body.get("foreign") for kind, body in ledger.records if kind == "accept"}
    assert foreign == {"a": None, "b": [{"class": {"device": "tpu"}, "differing": 0.25}]}


def test_workers_stay_while_another_pass_follows() -> None:
    released: list[str] = []
    executor = ScriptedExecutor(["a", "b"])
    executor.release_pending = lambda: released.append("pending")  # type: ignore[method-assign]
    work = main_pass(executor, ListLedger(), 3, stop_after=99)
    work._last = False
    work.run()
    assert not released and executor.up == ["a", "b"]
