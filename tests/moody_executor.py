"""An executor on a fake clock to which anything may happen: workers that never come, are refused, hang, die, drain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.errors import StoreUnavailable
from pcace_dist.executors.base import Event, Executor, Explained, Lost, Task, WorkerShape
from pcace_dist.executors.start_patience import Heartbeats
from pcace_dist.ledger.ledger import FileRef, Receipt, UnitCount
from pcace_dist.statistics.plan import Plan
from pcace_dist.worker.admission import Admission, NotAdmitted
from pcace_dist.worker.engine import UnitReport
from pcace_dist.worker.worker import Progress, WorkerInfo, WorkResult

FACTS = PlanMetadata(32, "float32", (8, 8), 2, "w", {"device": "cpu"}, {})
PLAN = Plan((), (), 1, 9, 4, "pixel", 0, FACTS.to_json())

WAIT, ANSWER, REFUSE, FAIL = "wait", "answer", "refuse", "fail"
STORE, DIE, NODE, DRAIN = "store", "die", "node", "drain"
FATES = (WAIT, ANSWER, REFUSE, FAIL, STORE, DIE, NODE, DRAIN)


@dataclass(frozen=True)
class Fate:
    """What becomes of one of the outstanding calls, chosen by `index`."""

    kind: str
    index: int = 0


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class MoodyExecutor(Executor):
    """`fate` is asked once in every `step` seconds of the clock."""

    def __init__(self, size: int, clock: FakeClock, fate: Callable[[], Fate], *, step: float = 60.0) -> None:
        spec: Any = None
        super().__init__(spec, WorkerShape(size), prefix="w")
        self._clock, self._fate, self._step = clock, fate, step
        self._heartbeats = Heartbeats(clock=clock)
        self._flushes = 0
        self._calls: list[tuple[str, Task[Any]]] = []
        self._unflushed: dict[str, list[str]] = {}  # units of workers that are up
        self._leaving: set[str] = set()
        self._explain: list[Explained] = []
        self._stopped = False
        self._members: list[str] = []
        self.__enter__()

    @property
    def members(self) -> list[str]:
        return list(self._members)

    def resources(self) -> str:
        return "2 CPU"

    def draining(self) -> set[str]:
        return self._leaving & set(self.up)

    def _progress(self) -> dict[str, Progress]:
        return {}

    def call(self, worker: str, task: Task[Any]) -> None:
        assert worker in self._members, "only workers that are there are called"
        assert not any(name == worker for name, _ in self._calls), "one call at a time"
        self._calls.append((worker, task))

    def stop_work(self) -> None:
        self._stopped = True

    def release(self, worker: str) -> None:
        self._members = [member for member in self._members if member != worker]
        self._infos.pop(worker, None)
        self._unflushed.pop(worker, None)
        self._calls = [call for call in self._calls if call[0] != worker]

    def _start(self, worker: str) -> None:
        self._members.append(worker)
        self.call(worker, self._start_task)

    def events(self, timeout: float) -> Iterator[Event]:
        self._clock.now += max(timeout, self._step)
        while self._explain:
            yield self._explain.pop()
        for worker in self._heartbeats.silent({w: task for w, task in self._calls if w in self._infos}):
            yield self._lose(worker, with_node=False)
        fate = self._fate()
        if fate.kind == DRAIN and self.up:
            self._leaving.add(self.up[fate.index % len(self.up)])
        elif self._calls:
            yield from self._happen(fate.kind, *self._calls[fate.index % len(self._calls)])

    def _happen(self, kind: str, worker: str, task: Task[Any]) -> Iterator[Event]:
        if kind in (WAIT, DRAIN) or (kind == REFUSE and task.name != "begin"):
            return
        if kind in (DIE, NODE):
            yield self._lose(worker, with_node=kind == NODE)
            return
        self._calls.remove((worker, task))
        if kind == ANSWER:
            yield self._finished(worker, task, self._answer(worker, task))
            return
        error = {REFUSE: NotAdmitted("other bits"), FAIL: RuntimeError("a bug"), STORE: StoreUnavailable("away")}[kind]
        yield self._failed(worker, task, error)

    def _lose(self, worker: str, *, with_node: bool) -> Lost:
        was_up = worker in self._infos
        if was_up:
            self._explain.append(Explained(worker, with_node))
        self.release(worker)
        return Lost(worker, "gone", was_up)

    def _answer(self, worker: str, task: Task[Any]) -> object:
        match task.name:
            case "ready":
                self._unflushed[worker] = []
                return WorkerInfo(worker, "host", "node", 1, "cpu", "w")
            case "begin":
                return Admission(FACTS.numeric_class, 0.0)
            case "flush":
                return WorkResult(flushed=self._receipt(worker))
            case "work":
                unit, _, flush_first, _ = task.arguments
                first = self._receipt(worker) if flush_first and self._unflushed[worker] else None
                if self._stopped:
                    return WorkResult(gave_up=unit.id, flushed_first=first)
                self._unflushed[worker].append(unit.id)
                return WorkResult(report=UnitReport(unit.id, UnitCount(1), 1, {}, 1), flushed_first=first)
            case _:
                return f"did {task.arguments[0]}"

    def _receipt(self, worker: str) -> Receipt:
        self._flushes += 1
        units = {unit: UnitCount(1) for unit in self._unflushed[worker]}
        self._unflushed[worker] = []
        return Receipt(f"e1-{worker}-f{self._flushes}", 1, worker, PLAN.digest, "w", units, {"f": FileRef(1, "0")})
