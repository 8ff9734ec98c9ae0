"""The protocol under every interleaving that hypothesis can think of: drivers, workers and a network that may all fail.

Drivers run as threads that stop before each store operation and go on only when the machine says how it ends, so
exactly one thing happens at a time and every history can be replayed. Workers are plain objects; what they say travels
through mailboxes that delay, reorder and duplicate. The invariants are checked by a reading of the ledger that shares
no code with `RunState`. Whatever happened, a last driver must bring the run to its end with every unit counted once or
set aside.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pcace_dist.errors import StoreUnavailable, TakenOver
from pcace_dist.ledger.ledger import FileRef, Ledger, Receipt, Record, UnitCount
from pcace_dist.run.dispatcher import Accepted, Dispatcher
from tests.memory_store import READ_FAULTS, Bucket, Crash, Fault, MemoryStore

PLAN, WEIGHTS = "plan", "weights"


def rows_of(unit: str) -> int:
    return 10 + int(unit[1:])


class SerialLedger(Ledger):
    """Reads in the calling thread, which is the one that the machine holds."""

    def _read_many(self, numbers: range) -> Iterator[Record | None]:
        return map(self._read, numbers)


# -- a worker: computes, accumulates, flushes; never knows whether it is fenced


@dataclass
class Worker:
    name: str
    driver: Driver
    bucket: Bucket
    poison: frozenset[str]
    alive: bool = True
    inbox: list[tuple[str, str]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    flushes: int = 0

    def step(self) -> None:
        """Do the next thing it was told."""
        if not self.alive or not self.inbox:
            return
        command, unit = self.inbox.pop(0)
        if command == "flush":
            self.flush()
        elif unit in self.poison:
            self.die()
        else:
            self.held.append(unit)
            self.driver.mail.append(("finished", self.name, unit))

    def flush(self, *, dies_after: int | None = None) -> None:
        """Write the attempt's files one by one, then say so. `dies_after` so many files."""
        if not self.alive:
            return
        if not self.held:
            self.driver.mail.append(("flushed", self.name, None))
            return
        self.flushes += 1
        attempt = f"e{self.driver.epoch}-{self.name}-f{self.flushes}"
        files = {}
        for i, name in enumerate(("sums", "rows")):
            if i == dies_after:
                self.die()
                return
            data = json.dumps([attempt, name, self.held]).encode()
            self.bucket.objects[f"attempts/{attempt}/{name}"] = data
            files[name] = FileRef(len(data), hashlib.sha256(data).hexdigest())
        units = {unit: UnitCount(rows_of(unit)) for unit in self.held}
        receipt = Receipt(attempt, self.driver.epoch, self.name, PLAN, WEIGHTS, units, files)
        self.held = []
        self.driver.mail.append(("flushed", self.name, receipt))

    def die(self, *, with_node: bool = False) -> None:
        self.alive = False
        self.driver.mail.append(("lost", self.name, "with its node" if with_node else None))


# -- a driver: a thread that is held before each store operation and while it waits for mail


class Driver:
    def __init__(self, name: str, bucket: Bucket, units: list[str], nonce: Callable[[], str]) -> None:
        self.name, self.bucket, self.units = name, bucket, units
        self.store = MemoryStore(bucket, name, self._park)
        self.ledger = SerialLedger(self.store, nonce=nonce, now=lambda: 0.0)
        self.mail: list[tuple[str, str, Any]] = []
        self.workers: dict[str, Worker] = {}
        self.parked_at: str | None = None
        self.outcome: str | None = None
        self.error: BaseException | None = None
        self.lost: set[str] = set()
        self._flushing: set[str] = set()
        self._in_hand: dict[str, str | None] = {}  # of the workers that are up
        self._answer: Any = None
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    @property
    def epoch(self) -> int:
        return self.ledger.epoch

    @property
    def is_running(self) -> bool:
        return self.outcome is None

    def resume(self, answer: Any) -> None:
        """Let the parked thread go on until it parks again or ends."""
        self._answer = answer
        self._go.release()
        self._stopped.acquire()
        if self.error is not None:
            raise self.error

    def crash(self) -> None:
        if self.is_running:
            self.resume(Crash)

    def _park(self, operation: str, key: str = "") -> Any:
        self.parked_at = operation
        self._stopped.release()
        self._go.acquire()
        self.parked_at = None
        if self._answer is Crash:
            raise Crash
        return self._answer

    def _run(self) -> None:
        try:
            self._park("start")
            self._drive()
            self.outcome = "done"
        except Crash:
            self.outcome = "crashed"
        except TakenOver:
            self.outcome = "taken over"
            self._must_stay_silent()
        except StoreUnavailable:
            self.outcome = "gave up"
            if self.epoch:
                self._must_stay_silent()
        except BaseException as error:
            self.outcome, self.error = "failed", error
        finally:
            self._stopped.release()

    def _must_stay_silent(self) -> None:
        before = len(self.store.operations)
        self.store.decide = lambda operation, key: Fault.FAIL
        with contextlib.suppress(TakenOver, StoreUnavailable):
            self.ledger.append("set_aside", {"units": [], "reason": "zombie"})
        if len(self.store.operations) != before:
            self.error = AssertionError(f"{self.name} touched the store after {self.outcome}")

    # the coordinator in small

    def _drive(self) -> None:
        if self.ledger.load().done is not None:
            return
        self.ledger.open({"host": self.name})
        if self.ledger.state.manifest is None:
            self.ledger.append("manifest", {"plan": PLAN, "weights": WEIGHTS, "units": [{"id": u} for u in self.units]})
        while True:
            self._main_pass()
            corrupt = [r.attempt for r in self.ledger.state.accepted_receipts() if not files_are_whole(self.bucket, r)]
            if not corrupt:
                break
            self.ledger.append("retract", {"attempts": corrupt, "reason": "corrupt"})
        self.ledger.append("done", {"exit_code": 0})

    def _main_pass(self) -> None:
        dispatcher = Dispatcher(self.ledger.state.pending_units(), epoch=self.epoch, plan=PLAN, weights=WEIGHTS)
        self._in_hand = {}
        for worker in self.workers.values():
            if worker.alive and worker.name not in self.lost:
                self._handle(dispatcher, "joined", worker.name, None)
        while not dispatcher.all_done():
            self._feed(dispatcher)
            self._handle(dispatcher, *self._park("mail"))
            busy = sum(unit is not None for unit in self._in_hand.values())
            placed = dispatcher.waiting + busy + len(dispatcher.finished_unrecorded())
            if placed != len(dispatcher.outstanding()):
                raise AssertionError("a unit is lost or in two places")

    def _feed(self, dispatcher: Dispatcher) -> None:
        for worker, unit in self._in_hand.items():
            if unit is not None or worker in self._flushing:
                continue
            lend = dispatcher.lend(worker)
            if lend is not None:
                if lend.alone and dispatcher.holds_unrecorded(worker):
                    raise AssertionError("a unit that must run alone was lent to a worker with unflushed units")
                dispatcher.peek_next(worker)
                self._in_hand[worker] = lend.unit
                self.workers[worker].inbox.append(("work", lend.unit))
            elif dispatcher.holds_unrecorded(worker):
                self._flushing.add(worker)
                self.workers[worker].inbox.append(("flush", ""))

    def _handle(self, dispatcher: Dispatcher, kind: str, worker: str, value: Any) -> None:
        if kind == "joined":
            dispatcher.worker_joined(worker)
            self._in_hand.setdefault(worker, None)
        elif kind == "finished":
            if dispatcher.finished(worker, value):
                self._in_hand[worker] = None
        elif kind == "lost":
            self.lost.add(worker)
            self._in_hand.pop(worker, None)
            dispatcher.worker_lost(worker, "it is gone", blame=value != "with its node")
            for unit, reason in dispatcher.take_set_aside():
                self.ledger.append("set_aside", {"units": [unit], "reason": reason})
        elif kind == "flushed":
            self._flushing.discard(worker)
            if value is not None and isinstance(dispatcher.receipt(worker, value), Accepted):
                if self._in_hand[worker] in value.units:
                    self._in_hand[worker] = None
                self.ledger.append("accept", {"receipts": [value.to_json()]})


def files_are_whole(bucket: Bucket, receipt: Receipt) -> bool:
    return all(
        hashlib.sha256(bucket.objects.get(f"attempts/{receipt.attempt}/{name}", b"")).hexdigest() == ref.sha256
        for name, ref in receipt.files.items()
    )


# -- an independent reading of the ledger


class Reading:
    """Checks each record when it comes into being."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.copies: list[bytes] = []
        self.writers: list[str] = []
        self.epoch = 0
        self.holder = ""
        self.units: list[str] = []
        self.accepted: dict[str, dict[str, int]] = {}
        self.ever: set[str] = set()
        self.aside: set[str] = set()
        self.done = False

    def on_created(self, who: str, key: str, data: bytes) -> None:
        self.copies.append(data)
        self.writers.append(who)
        assert key == f"ledger/{len(self.copies):08d}.json", "the ledger is dense"
        record = json.loads(data)
        assert not self.done, "nothing follows done"
        if record["kind"] == "open":
            assert record["epoch"] == self.epoch + 1
            self.epoch = record["epoch"]
            self.holder = who
        assert record["epoch"] == self.epoch, "a fenced driver writes nothing"
        assert who == self.holder, "only the holder writes"
        getattr(self, f"_{record['kind']}")(record["body"])
        units = [unit for held in self.accepted.values() for unit in held]
        assert len(units) == len(set(units)), "at most one accepted attempt holds a unit"
        assert not self.aside & set(units), "no unit is both accepted and set aside"

    def _open(self, body: Any) -> None:
        assert not self.done

    def _manifest(self, body: Any) -> None:
        assert not self.units, "the manifest is never remade"
        self.units = [unit["id"] for unit in body["units"]]

    def _accept(self, body: Any) -> None:
        for receipt in body["receipts"]:
            assert receipt["epoch"] == self.epoch
            assert receipt["attempt"] not in self.ever
            assert files_are_whole(self.bucket, Receipt.from_json(receipt)), "files exist before they count"
            self.ever.add(receipt["attempt"])
            self.accepted[receipt["attempt"]] = {unit: count["rows"] for unit, count in receipt["units"].items()}

    def _set_aside(self, body: Any) -> None:
        self.aside |= set(body["units"])

    def _retract(self, body: Any) -> None:
        for attempt in body["attempts"]:
            del self.accepted[attempt]

    def _done(self, body: Any) -> None:
        self.done = True

    def check_unchanged(self) -> None:
        ledger = {key: data for key, data in self.bucket.objects.items() if key.startswith("ledger/")}
        assert ledger == {f"ledger/{i:08d}.json": data for i, data in enumerate(self.copies, 1)}, "records never change"


# -- the machine

INDEX = st.integers(0, 7)
FAULTS = st.sampled_from([Fault.NONE] * 24 + list(Fault))


MOVES = {
    "advance": 60,
    "work": 25,
    "flush": 8,
    "kill_worker": 1,
    "suspect_worker": 0.5,
    "start_worker": 4,
    "start_driver": 1,
    "crash_driver": 0.2,
    "land": 3,
    "corrupt": 0.5,
}
STORM_FAULTS = list(Fault)
STORM_WEIGHTS = [0.3 if "killed" in fault.value else 3 for fault in Fault]
STORM_WEIGHTS[STORM_FAULTS.index(Fault.NONE)] = 80


class Protocol(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bucket = Bucket()
        self.reading = Reading(self.bucket)
        self.bucket.on_created = lambda who, key, data: self._on_created(who, key, data)
        self.nonces = (f"nonce{i}" for i in itertools.count())
        self.drivers: list[Driver] = []
        self.workers: list[Worker] = []

    def _on_created(self, who: str, key: str, data: bytes) -> None:
        if key.startswith("ledger/"):
            self.reading.on_created(who, key, data)

    @initialize(units=st.integers(1, 40), poison=st.sets(st.integers(0, 5), max_size=1))
    def begin(self, units: int, poison: set[int]) -> None:
        self.units = [f"u{i}" for i in range(units)]
        self.poison = frozenset(f"u{i}" for i in poison) & set(self.units)
        self.start_driver(steps=12)

    # drivers

    @precondition(lambda self: sum(driver.is_running for driver in self.drivers) < 3)
    @rule(steps=st.integers(0, 12))
    def start_driver(self, steps: int) -> None:
        driver = Driver(f"d{len(self.drivers)}", self.bucket, self.units, lambda: next(self.nonces))
        self.drivers.append(driver)
        for _ in range(2):
            self._start_worker(driver)
        self._run_driver(driver, steps)

    @rule(i=INDEX, fault=FAULTS)
    def step(self, i: int, fault: Fault) -> None:
        """One store operation of one driver, ending so or so."""
        self._step(self._running(i), fault)

    @rule(i=INDEX, steps=st.integers(1, 10))
    def run_driver(self, i: int, steps: int) -> None:
        self._run_driver(self._running(i), steps)

    @rule(i=INDEX, mail=INDEX, again=st.booleans())
    def deliver(self, i: int, mail: int, again: bool) -> None:
        """Any letter of the mailbox, perhaps to be delivered a second time."""
        self._deliver(self._running(i), mail, again=again)

    @rule(i=INDEX)
    def crash_driver(self, i: int) -> None:
        driver = self._running(i)
        if driver is not None:
            driver.crash()

    # workers: those of a crashed or fenced driver go on as zombies

    @rule(i=INDEX)
    def start_worker(self, i: int) -> None:
        driver = self._running(i)
        if driver is not None and sum(worker.alive for worker in driver.workers.values()) < 4:
            self._start_worker(driver)

    @rule(i=INDEX)
    def work(self, i: int) -> None:
        worker = self._worker(i)
        if worker is not None:
            worker.step()

    @rule(i=INDEX)
    def everyone_works(self, i: int) -> None:
        for worker in self.workers:
            worker.step()

    @rule(i=INDEX)
    def flush(self, i: int) -> None:
        worker = self._worker(i)
        if worker is not None and worker.held:
            worker.flush()

    @rule(i=INDEX, files=st.sampled_from([None, None, 0, 1]), with_node=st.booleans())
    def kill_worker(self, i: int, files: int | None, with_node: bool = False) -> None:
        worker = self._worker(i)
        if worker is None:
            return
        if files is not None and worker.held:
            worker.flush(dies_after=files)
        else:
            worker.die(with_node=with_node)

    @rule(i=INDEX)
    def suspect_worker(self, i: int) -> None:
        """Its driver believes it lost; it lives on."""
        worker = self._worker(i)
        if worker is not None:
            worker.driver.mail.append(("lost", worker.name, None))

    # storage

    @precondition(lambda self: self.bucket.in_flight)
    @rule(i=INDEX)
    def land(self, i: int) -> None:
        self.bucket.land(i % len(self.bucket.in_flight))

    @precondition(lambda self: self.reading.accepted and not self.reading.done)
    @rule(i=INDEX)
    def corrupt(self, i: int) -> None:
        attempts = sorted(self.reading.accepted)
        self.bucket.objects[f"attempts/{attempts[i % len(attempts)]}/sums"] = b"corrupt"

    @invariant()
    def the_ledger_is_immutable(self) -> None:
        self.reading.check_unchanged()

    # many things at once: what one rule a step reaches too rarely

    @rule(seed=st.integers(0, 2**32), moves=st.integers(1, 600))
    def storm(self, seed: int, moves: int) -> None:
        rng = random.Random(seed)
        names, weights = list(MOVES), list(MOVES.values())
        for name in rng.choices(names, weights, k=moves):
            if self.reading.done and not any(driver.is_running for driver in self.drivers):
                return
            i = rng.randrange(8)
            match name:
                case "advance":
                    self.deliver(i, rng.choice((0, 0, 0, rng.randrange(8))), rng.random() < 0.1)
                    self.step(i, rng.choices(STORM_FAULTS, STORM_WEIGHTS)[0])
                case "start_driver" if sum(driver.is_running for driver in self.drivers) < 3:
                    self.start_driver(rng.randrange(12))
                case "kill_worker":
                    self.kill_worker(i, rng.choice((None, 0, 1)), rng.random() < 0.5)
                case "land" if self.bucket.in_flight:
                    self.land(i)
                case "corrupt" if self.reading.accepted and not self.reading.done:
                    self.corrupt(i)
                case "work":
                    busy = [worker for worker in self.workers if worker.alive and worker.inbox]
                    if busy:
                        busy[i % len(busy)].step()
                case "flush" | "suspect_worker" | "start_worker" | "crash_driver":
                    getattr(self, name)(i)

    # the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "units"):
                self._bring_to_its_end()
        finally:
            for driver in self.drivers:
                driver.error = None
                driver.crash()

    def _bring_to_its_end(self) -> None:
        """A last driver without faults, beside zombies that keep talking, must settle every unit."""
        for driver in self.drivers:
            if not driver.epoch:
                driver.crash()
        for _ in range(6):
            last = Driver(f"d{len(self.drivers)}", self.bucket, self.units, lambda: next(self.nonces))
            self.drivers.append(last)
            for turn in range(400):
                if not last.is_running:
                    break
                if turn < 20 and turn % 4 == 3:  # a loss that the last driver itself must make good
                    for worker in [worker for worker in last.workers.values() if worker.alive and worker.held][:1]:
                        worker.die()
                for driver in self.drivers:
                    self._run_driver(driver, 8)
                    self._deliver(driver, 0, again=False)
                for worker in self.workers:
                    worker.step()
                if self.bucket.in_flight:
                    self.bucket.land(0)
                if not any(worker.alive and worker.name not in last.lost for worker in last.workers.values()):
                    self._start_worker(last)
            if last.outcome == "done":
                break
        assert last.outcome == "done", last.outcome
        while self.bucket.in_flight:
            self.bucket.land(0)
        for driver in self.drivers:
            for _ in range(20):
                self._run_driver(driver, 8)
                self._deliver(driver, 0, again=False)
        self.reading.check_unchanged()
        accepted = {unit: rows for held in self.reading.accepted.values() for unit, rows in held.items()}
        assert sorted([*accepted, *self.reading.aside]) == sorted(self.units), "each unit once, accepted or set aside"
        expected = sum(map(rows_of, self.units)) - sum(map(rows_of, self.reading.aside))
        assert sum(accepted.values()) == expected
        assert not self.poison & accepted.keys()

    # helpers

    def _running(self, i: int) -> Driver | None:
        running = [driver for driver in self.drivers if driver.is_running]
        return running[i % len(running)] if running else None

    def _worker(self, i: int) -> Worker | None:
        alive = [worker for worker in self.workers if worker.alive]
        return alive[i % len(alive)] if alive else None

    def _start_worker(self, driver: Driver) -> None:
        name = f"{driver.name}w{len(driver.workers)}"
        worker = Worker(name, driver, self.bucket, self.poison)
        driver.workers[name] = worker
        self.workers.append(worker)
        driver.mail.append(("joined", name, None))

    def _run_driver(self, driver: Driver | None, steps: int) -> None:
        for _ in range(steps):
            if driver is None or not driver.is_running or driver.parked_at == "mail":
                return
            self._step(driver, Fault.NONE)

    def _step(self, driver: Driver | None, fault: Fault) -> None:
        if driver is None or not driver.is_running or driver.parked_at == "mail":
            return
        if driver.parked_at in ("get", "list") and fault not in READ_FAULTS:
            fault = Fault.NONE
        driver.resume(fault)

    def _deliver(self, driver: Driver | None, index: int, *, again: bool) -> None:
        if driver is None or not driver.is_running or driver.parked_at != "mail" or not driver.mail:
            return
        letter = driver.mail[index % len(driver.mail)]
        if not again:
            driver.mail.remove(letter)
        if letter[0] == "joined" and letter[1] in driver.lost:
            return
        driver.resume(letter)


def run_machine(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_unit_counts_once_under_every_interleaving() -> None:
    run_machine(examples=300, steps=30)


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_every_unit_counts_once_under_many_more_interleavings() -> None:
    run_machine(examples=6000, steps=40)
