"""The lease: who lives, by the observer's own clock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pcace_dist.errors import StoreUnavailable, TakenOver
from pcace_dist.ledger.lease import KEY, Lease, LeaseFile, LeaseObserver, ProcessProbe
from pcace_dist.ledger.lease_keeper import LeaseKeeper
from pcace_dist.ledger.ledger import Record, RunState
from tests.memory_store import Bucket, Fault, MemoryStore


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


ELSEWHERE = {"host": "elsewhere", "boot": "b", "pid": 7}


def state(epoch: int = 1, holder: dict[str, Any] = ELSEWHERE) -> RunState:
    made = RunState()
    for n in range(1, epoch + 1):
        made = made.apply(Record(n, "open", n, "x", 1e9, {"holder": holder}))
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def observer(store: MemoryStore, clock: Clock, run_state: RunState | None = None) -> LeaseObserver:
    return LeaseObserver(store, state() if run_state is None else run_state, clock=clock)


# -- the holder


def test_a_lease_is_renewed_when_it_is_due(store: MemoryStore, clock: Clock) -> None:
    lease = Lease(store, 1, clock=clock)
    lease.write()
    first = store.get(KEY)
    clock.sleep(9)
    assert not lease.renew_if_due()
    clock.sleep(1)
    assert lease.renew_if_due()
    assert not lease.renew_if_due()
    assert store.get(KEY) != first


def test_a_holder_that_was_overtaken_learns_it_and_writes_nothing(store: MemoryStore) -> None:
    old, new = Lease(store, 1), Lease(store, 2)
    old.write()
    new.write()
    before = store.get(KEY)
    with pytest.raises(TakenOver, match="epoch 2"):
        old.renew()
    old.release()
    assert store.get(KEY) == before


def test_a_renewal_that_failed_is_due_at_once(store: MemoryStore, clock: Clock) -> None:
    lease = Lease(store, 1, clock=clock)
    clock.sleep(10)
    store.decide = lambda operation, key: Fault.FAIL
    with pytest.raises(StoreUnavailable):
        lease.renew_if_due()
    store.decide = lambda operation, key: Fault.NONE
    assert lease.renew_if_due()


# -- the observer


def test_a_run_that_nobody_opened_is_free(store: MemoryStore, clock: Clock) -> None:
    status = observer(store, clock, RunState()).check()
    assert status.liveness == "free"
    assert status.may_take


def test_a_counter_that_moves_is_held_and_says_by_whom_since_when(store: MemoryStore, clock: Clock) -> None:
    lease = Lease(store, 1, clock=clock)
    lease.write()
    watching = observer(store, clock)
    assert watching.check().liveness == "watching"
    clock.sleep(10)
    lease.renew()
    status = watching.check()
    assert status.liveness == "held"
    assert not status.may_take
    assert str(status) == "held: process 7 on elsewhere (epoch 1) since 2001-09-09T01:46:40+00:00"


def test_a_counter_that_stands_still_is_dead_after_30_seconds_of_the_observers_clock(
    store: MemoryStore, clock: Clock
) -> None:
    Lease(store, 1).write()
    watching = observer(store, clock)
    for _ in range(30):
        assert watching.check().liveness == "watching"
        clock.sleep(1)
    assert watching.check().liveness == "dead"


def test_an_old_counter_is_not_dead_at_first_sight(store: MemoryStore, clock: Clock) -> None:
    Lease(store, 1, clock=clock).write()
    clock.sleep(10_000)
    assert observer(store, clock).check().liveness == "watching"


def test_a_holder_that_never_wrote_a_lease_is_dead_after_30_seconds(store: MemoryStore, clock: Clock) -> None:
    began = clock.now
    assert observer(store, clock).wait(clock.sleep).liveness == "dead"
    assert clock.now == began + 30


def test_a_released_lease_is_free_at_once(store: MemoryStore, clock: Clock) -> None:
    lease = Lease(store, 1)
    lease.write()
    lease.release()
    status = observer(store, clock).check()
    assert status.liveness == "released"
    assert status.may_take


def test_the_release_of_an_epoch_before_frees_nothing(store: MemoryStore, clock: Clock) -> None:
    lease = Lease(store, 1)
    lease.write()
    lease.release()
    assert observer(store, clock, state(epoch=2)).check().liveness == "watching"


def test_a_zombie_that_writes_the_lease_keeps_nobody_alive(clock: Clock) -> None:
    bucket = Bucket()
    store = MemoryStore(bucket)
    zombie = Lease(store, 1)
    watching = observer(store, clock, state(epoch=2))
    for _ in range(30):
        assert watching.check().liveness == "watching"
        zombie.renew()
        clock.sleep(1)
    assert watching.check().liveness == "dead"


def test_a_later_epoch_that_appears_is_held(store: MemoryStore, clock: Clock) -> None:
    Lease(store, 1).write()
    watching = observer(store, clock)
    watching.check()
    Lease(store, 2).write()
    assert watching.check().liveness == "held"


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'{"epoch": "x"}'])
def test_a_broken_lease_counts_as_none(store: MemoryStore, clock: Clock, data: bytes) -> None:
    store.put(KEY, data)
    assert observer(store, clock).wait(clock.sleep).liveness == "dead"
    Lease(store, 1).write()


# -- processes of this machine


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield started
    started.kill()
    started.wait()


def holder_of(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    probe = ProcessProbe()
    return replace(probe.this_process(), pid=process.pid, started=probe.started(process.pid)).to_json()


def test_a_holder_whose_process_is_gone_is_dead_at_once(
    store: MemoryStore, clock: Clock, process: subprocess.Popen[bytes]
) -> None:
    Lease(store, 1).write()
    holder = holder_of(process)
    assert observer(store, clock, state(holder=holder)).check().liveness == "watching"
    process.kill()
    process.wait()
    assert observer(store, clock, state(holder=holder)).check().liveness == "dead"


def test_a_killed_process_that_nobody_has_waited_for_is_gone(process: subprocess.Popen[bytes]) -> None:
    holder = holder_of(process)
    process.kill()
    while not ProcessProbe().is_gone(holder):
        pass


def test_a_pid_that_was_given_to_another_process_is_gone(process: subprocess.Popen[bytes]) -> None:
    assert ProcessProbe().is_gone(holder_of(process) | {"started": "1"})


@pytest.mark.parametrize("other", [{"host": "x"}, {"boot": "x"}, {"namespace": "x"}, {"pid": None}, {"pid": "1; rm"}])
def test_of_processes_elsewhere_nothing_is_known(process: subprocess.Popen[bytes], other: dict[str, Any]) -> None:
    holder = holder_of(process)
    process.kill()
    process.wait()
    assert ProcessProbe().is_gone(holder)
    assert not ProcessProbe().is_gone(holder | other)


def test_this_process_lives() -> None:
    probe = ProcessProbe()
    assert not probe.is_gone(probe.this_process().to_json())


def test_a_lease_that_cannot_be_written_at_once_ends_no_run() -> None:
    store = MemoryStore()
    faults = iter([Fault.FAIL, Fault.FAIL])
    store.decide = lambda operation, key: next(faults, Fault.NONE) if operation == "put" else Fault.NONE
    with LeaseKeeper(Lease(store, 1)) as keeper:
        keeper.check()
    written = LeaseFile.read(store)
    assert written is not None and written.released, "the second try to release it has succeeded"
