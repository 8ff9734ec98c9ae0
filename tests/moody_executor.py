"""A crew on a fake clock to which anything may happen: workers that never come, are refused, hang, die or drain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pcace_dist.artifacts.plan_metadata import Facts
from pcace_dist.errors import StoreUnavailable
from pcace_dist.executors.base import Event, Explained, Failed, Finished, Joined, Lost, WorkerShape
from pcace_dist.executors.start_patience import SignsOfLife
from pcace_dist.ledger.ledger import FileRef, Receipt, UnitCount
from pcace_dist.statistics.plan import Plan
from pcace_dist.worker.admission import Admission, NotAdmitted
from pcace_dist.worker.engine import UnitReport
from pcace_dist.worker.worker import WorkerInfo, WorkResult

FACTS = Facts(32, "float32", (8, 8), 2, "w", {"device": "cpu"}, {})
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


class MoodyCrew:
    """`fate` is asked once in every `step` seconds of the clock."""

    def __init__(self, size: int, clock: FakeClock, fate: Callable[[], Fate], *, step: float = 60.0) -> None:
        self.shape = WorkerShape(size)
        self._clock, self._fate, self._step = clock, fate, step
        self._signs = SignsOfLife(clock=clock)
        self._count = 0
        self._flushes = 0
        self._calls: list[tuple[str, str, tuple[Any, ...]]] = []
        self._held: dict[str, list[str]] = {}  # of workers that are up
        self._leaving: set[str] = set()
        self._explain: list[Explained] = []
        self._stopped = False
        self.members: list[str] = []
        for _ in range(size):
            self.replace()

    @property
    def up(self) -> list[str]:
        return [actor for actor in self.members if actor in self._held]

    def resources(self) -> str:
        return "2 CPU"

    def draining(self) -> set[str]:
        return self._leaving & set(self.up)

    def waits_for(self) -> str | None:
        return None

    def images_seen_by(self) -> dict[str, int]:
        return {}

    def call(self, actor: str, method: str, *args: Any) -> None:
        assert actor in self.members, "only workers that are there are called"
        assert not any(name == actor for name, _, _ in self._calls), "one call at a time"
        self._calls.append((actor, method, args))

    def stop_work(self) -> None:
        self._stopped = True

    def release(self, actor: str) -> None:
        self.members.remove(actor)
        self._held.pop(actor, None)
        self._calls = [call for call in self._calls if call[0] != actor]

    def release_pending(self) -> None:
        for actor in [actor for actor in self.members if actor not in self._held]:
            self.release(actor)

    def replace(self) -> None:
        if len(self.members) < self.shape.maximum:
            self._count += 1
            self.members.append(f"w{self._count}")
            self.call(self.members[-1], "ready")

    def events(self, timeout: float) -> Iterator[Event]:
        self._clock.now += max(timeout, self._step)
        while self._explain:
            yield self._explain.pop()
        for actor in self._signs.silent({a: (m, id(args)) for a, m, args in self._calls if m != "ready"}):
            yield self._lose(actor, with_node=False)
        fate = self._fate()
        if fate.kind == DRAIN and self.up:
            self._leaving.add(self.up[fate.index % len(self.up)])
        elif self._calls:
            yield from self._happen(fate.kind, *self._calls[fate.index % len(self._calls)])

    def _happen(self, kind: str, actor: str, method: str, args: tuple[Any, ...]) -> Iterator[Event]:
        if kind in (WAIT, DRAIN) or (kind == REFUSE and method != "begin"):
            return
        if kind in (DIE, NODE):
            yield self._lose(actor, with_node=kind == NODE)
            return
        self._calls.remove((actor, method, args))
        if kind == ANSWER:
            yield self._answer(actor, method, args)
            return
        if method == "ready":
            self.release(actor)
        error = {REFUSE: NotAdmitted("other bits"), FAIL: RuntimeError("a bug"), STORE: StoreUnavailable("away")}[kind]
        yield Failed(actor, method, error)

    def _lose(self, actor: str, *, with_node: bool) -> Lost:
        if actor in self._held:
            self._explain.append(Explained(actor, with_node))
        self.release(actor)
        return Lost(actor, "gone")

    def _answer(self, actor: str, method: str, args: tuple[Any, ...]) -> Event:
        match method:
            case "ready":
                self._held[actor] = []
                return Joined(actor, WorkerInfo(actor, "host", "node", 1, "cpu", "w"))
            case "begin":
                return Finished(actor, method, Admission(FACTS.numeric_class, 0.0))
            case "flush":
                return Finished(actor, method, WorkResult(flushed=self._receipt(actor)))
            case "work":
                first = self._receipt(actor) if args[2] and self._held[actor] else None
                if self._stopped:
                    return Finished(actor, method, WorkResult(gave_up=args[0].id, flushed_first=first))
                self._held[actor].append(args[0].id)
                report = UnitReport(args[0].id, UnitCount(1), 1, {}, 1)
                return Finished(actor, method, WorkResult(report=report, flushed_first=first))
            case _:
                return Finished(actor, method, f"did {args[0]}")

    def _receipt(self, actor: str) -> Receipt:
        self._flushes += 1
        units = {unit: UnitCount(1) for unit in self._held[actor]}
        self._held[actor] = []
        return Receipt(f"e1-{actor}-f{self._flushes}", 1, actor, PLAN.digest, "w", units, {"f": FileRef(1, "0")})
