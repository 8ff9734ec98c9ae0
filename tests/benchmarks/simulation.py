"""A run with simulated workers: the driver itself, and workers' requests, on a clock that jumps from event to event.

Real are the main pass, dispatcher, event loop, ledger, lease and statistics of the driver. A worker computes nothing: a
unit takes the time of its rows, a flush and a reduce task that of their requests one after the other. The files of an
attempt are those that `write_attempt` wrote once. Every request counts in the second in which it begins; all of them go
to one prefix, as a run's do.
"""

from __future__ import annotations

import heapq
import io
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pcace_dist.artifacts.attempt import blocks_of
from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.plan_store import FrozenPlan
from pcace_dist.datasets.units import Unit
from pcace_dist.executors.base import Event, Executor, Task, WorkerShape
from pcace_dist.executors.choice import ExecutorKind
from pcace_dist.executors.event_loop import LoopControl
from pcace_dist.executors.map_tasks import map_tasks
from pcace_dist.executors.start_patience import StartPatience
from pcace_dist.ledger.lease import Lease
from pcace_dist.ledger.ledger import FileRef, Ledger, Receipt, UnitCount
from pcace_dist.progress.display import RunDisplay
from pcace_dist.run.coordinator import receipts_for
from pcace_dist.run.dispatcher import Dispatcher
from pcace_dist.run.main_pass import MainPass
from pcace_dist.run.run_stats import RunStats
from pcace_dist.statistics.plan import Plan
from pcace_dist.worker.admission import Admission
from pcace_dist.worker.attempt_buffer import FLUSH_PAUSE, FLUSH_SHARE
from pcace_dist.worker.engine import UnitReport
from pcace_dist.worker.worker import Progress, WorkerBody, WorkerInfo, WorkResult
from tests.memory_store import Fault, MemoryStore

PUTS, GETS = "put", "get"
LIMITS = {PUTS: 3500, GETS: 5500}  # of S3: requests a second and prefix
FLUSH_SECONDS = 600.0


class Clock:
    """Simulated seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Meter:
    """Requests of everybody, by the second in which they begin."""

    def __init__(self) -> None:
        self._by_second: dict[str, Counter[int]] = defaultdict(Counter)

    def request(self, kind: str, at: float) -> None:
        self._by_second[kind][int(at)] += 1

    def total(self, kind: str) -> int:
        return self._by_second[kind].total()

    def busiest(self, kind: str) -> int:
        """Requests of the second that has most."""
        return max(self._by_second[kind].values(), default=0)


@dataclass(frozen=True)
class Network:
    """Assumed of S3, for one connection: seconds until a request is answered, and bytes a second."""

    latency: float = 0.03
    rate: float = 80e6

    def seconds(self, size: int) -> float:
        return self.latency + size / self.rate


@dataclass(frozen=True)
class Work:
    """What there is to do: units, bytes of an image, rows a second of one worker, the files of an attempt, and seconds
    that solving a channel takes."""

    plan: Plan
    units: Sequence[Unit]
    image_bytes: int
    rate: float
    files: Mapping[str, FileRef]
    solve: float = 0.0012

    @property
    def rows(self) -> int:
        return sum(unit.rows for unit in self.units)

    @property
    def attempt_bytes(self) -> int:
        return sum(file.size for file in self.files.values())


class SimulatedExecutor(Executor):
    """Workers that are up at once and end their tasks one after the other. `seconds`: processor time of the simulation
    itself."""

    def __init__(self, workers: int, work: Work, clock: Clock, meter: Meter, network: Network) -> None:
        spec: Any = None
        super().__init__(spec, WorkerShape(workers))
        self._work, self._clock, self._meter, self._network = work, clock, meter, network
        self._members: dict[str, _Worker] = {}
        self._ends: list[tuple[float, int, str, Task[Any], Any]] = []
        self._calls = 0
        self.seconds = 0.0

    @property
    def members(self) -> list[str]:
        return list(self._members)

    def resources(self) -> str:
        return "as many workers as are wanted"

    def call(self, worker: str, task: Task[Any]) -> None:
        began = time.process_time()
        seconds, value = self._members[worker].answer(task, self._clock.now)
        self._calls += 1
        heapq.heappush(self._ends, (self._clock.now + seconds, self._calls, worker, task, value))
        self.seconds += time.process_time() - began

    def events(self, timeout: float) -> Iterator[Event]:
        """One at a time: the driver has to turn its loop for each."""
        began = time.process_time()
        found = heapq.heappop(self._ends) if self._ends else None
        self._clock.now = self._clock.now + timeout if found is None else found[0]
        self.seconds += time.process_time() - began
        if found is not None and found[2] in self._members:
            yield self._finished(*found[2:])

    def stop_work(self) -> None:
        raise AssertionError("nobody stops a simulated run")

    def release(self, worker: str) -> None:
        self._members.pop(worker, None)
        self._infos.pop(worker, None)

    def _start(self, worker: str) -> None:
        self._members[worker] = _Worker(worker, self._work, self._meter, self._network)
        self.call(worker, self._start_task)

    def _progress(self) -> dict[str, Progress]:
        return {name: worker.progress for name, worker in self._members.items()}


class _Worker:
    """What one worker holds, and how long its tasks take."""

    def __init__(self, name: str, work: Work, meter: Meter, network: Network) -> None:
        self._name, self._work, self._meter, self._network = name, work, meter, network
        self._units: dict[str, UnitCount] = {}
        self._rows = 0
        self._written_at = 0.0
        self._flushes = 0
        self.progress = Progress()

    def answer(self, task: Task[Any], now: float) -> tuple[float, Any]:
        """Seconds from now on, and the result."""
        match task.name:
            case "ready":
                return 0.0, WorkerInfo(self._name, "host", "node", 1, "cpu", "w")
            case "begin":
                return 0.0, Admission(PlanMetadata.of(self._work.plan).numeric_class, 0.0)
            case "work":
                return self._compute(task.arguments[0], now)
            case "flush":
                receipt, seconds = self._flush(now)
                return seconds, WorkResult(flushed=receipt)
            case "reduce":
                block, receipts = task.arguments[1:]
                return self._read(receipts, now) + (block.stop - block.start) * self._work.solve, None
            case _:
                return self._read(task.arguments[1], now), None

    def _compute(self, unit: Unit, now: float) -> tuple[float, WorkResult]:
        seconds = unit.rows / self._work.rate * (0.9 + 0.2 * int(unit.id[:4], 16) / 0xFFFF)  # workers drift apart
        self._units[unit.id] = UnitCount(unit.rows)
        self._rows += unit.rows
        self.progress = Progress(self.progress.images + unit.rows)
        report = UnitReport(unit.id, UnitCount(unit.rows), unit.rows, {"forward": seconds}, self._bytes(unit.rows))
        if not self._is_due(now + seconds):
            return seconds, WorkResult(report=report)
        receipt, flushing = self._flush(now + seconds)
        return seconds + flushing, WorkResult(report=report, flushed=receipt)

    def _bytes(self, rows: int) -> int:
        return rows * self._work.image_bytes

    def _is_due(self, now: float) -> bool:
        """As AttemptBuffer.is_due."""
        small = self._work.attempt_bytes <= FLUSH_SHARE * self._bytes(self._rows)
        return now - self._written_at >= (FLUSH_PAUSE if small else FLUSH_SECONDS)

    def _flush(self, now: float) -> tuple[Receipt, float]:
        """The receipt of an attempt, and the seconds of writing its files."""
        seconds = 0.0
        for file in self._work.files.values():
            self._meter.request(PUTS, now + seconds)
            seconds += self._network.seconds(file.size)
        self._flushes += 1
        attempt = f"e00001-{self._name}-f{self._flushes:05d}"
        receipt = Receipt(attempt, 1, self._name, self._work.plan.digest, "w", self._units, self._work.files)
        self._units, self._rows, self._written_at = {}, 0, now + seconds
        return receipt, seconds

    def _read(self, receipts: Sequence[Receipt], now: float) -> float:
        seconds = 0.0
        for receipt in receipts:
            for file in receipt.files.values():
                self._meter.request(GETS, now + seconds)
                seconds += self._network.seconds(file.size)
        return seconds


class _Metered(MemoryStore):
    """The driver's store."""

    def __init__(self, meter: Meter, clock: Clock) -> None:
        super().__init__(decide=self._count)
        self._meter, self._clock = meter, clock

    def _count(self, operation: str, key: str) -> Fault:
        self._meter.request(GETS if operation in ("get", "list") else PUTS, self._clock.now)
        return Fault.NONE


@dataclass(frozen=True)
class Simulated:
    """What came of a run: simulated seconds of the main pass and the reduce, processor seconds of the driver in them,
    its records and their bytes, and the requests of everybody."""

    workers: int
    rows: int
    units: int
    attempts: int
    main_pass: float
    reduce: float
    driver: float
    driver_reduce: float
    records: int
    ledger_bytes: int
    written_bytes: int
    puts: int
    gets: int
    busiest_puts: int
    busiest_gets: int


def simulate(work: Work, workers: int, network: Network | None = None) -> Simulated:
    """A run from an opened ledger to the last reduce task."""
    clock, meter = Clock(), Meter()
    store = _Metered(meter, clock)
    ledger = Ledger(store, nonce=iter(map(str, range(1 << 30))).__next__, now=clock)
    ledger.open({"host": "simulated"})
    frozen = FrozenPlan(work.plan, b"", b"")
    units = {unit.id: unit for unit in work.units}
    manifest = {"plan": work.plan.digest, "weights": "w", "units": [unit.to_json() for unit in work.units]}
    ledger.append("manifest", manifest)
    lease = Lease(store, ledger.epoch, clock=clock)
    stats = RunStats(store, ledger, RunDisplay(io.StringIO()), "f", ExecutorKind.THREADS)
    stats.planned(work.plan, units)
    patience = StartPatience(workers, 600.0, clock=clock)

    with SimulatedExecutor(workers, work, clock, meter, network or Network()) as executor:

        def tick(stage: str) -> None:
            lease.renew_if_due()
            executor.waits_for()
            stats.tick(stage, len(executor.up))

        def timed(run: Any) -> tuple[float, float]:
            """Simulated seconds, and the driver's processor seconds."""
            began, processor, inside = clock.now, time.process_time(), executor.seconds
            run()
            return clock.now - began, time.process_time() - processor - (executor.seconds - inside)

        dispatcher = Dispatcher(list(units), epoch=ledger.epoch, plan=work.plan.digest, weights="w")
        control = LoopControl(patience, lambda: False, lambda: tick("ranking"))
        main_pass = MainPass(executor, ledger, dispatcher, units, frozen, control)
        stats.main_pass_begins(main_pass)
        passed, driver = timed(main_pass.run)

        def reduce() -> None:
            receipts = ledger.state.accepted_receipts()
            tasks = [
                Task.of(WorkerBody.reduce, work.plan.digest, block, receipts_for(receipts, block))
                for block in blocks_of(work.plan)
            ]
            map_tasks(executor, tasks, replace(control, on_tick=lambda: tick("reducing")))

        reduced, driver_reduce = timed(reduce)
    records = {key: len(data) for key, data in store.bucket.objects.items() if key.startswith("ledger/")}
    attempts = len(ledger.state.accepted_receipts())
    return Simulated(
        workers=workers,
        rows=stats.images,
        units=len(units),
        attempts=attempts,
        main_pass=passed,
        reduce=reduced,
        driver=driver,
        driver_reduce=driver_reduce,
        records=len(records),
        ledger_bytes=sum(records.values()),
        written_bytes=attempts * work.attempt_bytes,
        puts=meter.total(PUTS),
        gets=meter.total(GETS),
        busiest_puts=meter.busiest(PUTS),
        busiest_gets=meter.busiest(GETS),
    )
