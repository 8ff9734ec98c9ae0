"""No run waits for ever: whatever happens to its workers, it makes progress, waits for a time that passes, or ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Never, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcace_dist.artifacts.plan_store import FrozenPlan
from pcace_dist.datasets.units import Unit
from pcace_dist.errors import JobError, PcaceError, Stopped
from pcace_dist.executors.base import Task
from pcace_dist.executors.event_loop import LoopControl
from pcace_dist.executors.map_tasks import map_tasks
from pcace_dist.executors.start_patience import Heartbeats, StartPatience
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.run.dispatcher import Dispatcher
from pcace_dist.run.main_pass import MainPass
from tests.moody_executor import (
    ANSWER,
    DIE,
    DRAIN,
    FAIL,
    FATES,
    PLAN,
    REFUSE,
    STORE,
    WAIT,
    FakeClock,
    Fate,
    MoodyExecutor,
)
from tests.run.test_main_pass import ListLedger

MOST_TICKS = 4000  # of a minute each: none of the endings takes longer
START_TIMEOUT = 600.0

fates = st.builds(Fate, st.sampled_from(FATES), st.integers(0, 5))
lasting = st.sampled_from([WAIT, ANSWER, REFUSE, FAIL, STORE, DIE])


def reduce(worker: Never, name: str) -> str:
    """What the workers of the executor are asked; they do it in their own way."""
    raise NotImplementedError


class WaitsForEver(AssertionError):
    """More ticks have gone by than any rule allows."""


def then_always(first: list[Fate], last: str) -> Iterator[Fate]:
    """What was drawn, then the same for ever, of one call after the other."""
    yield from first
    for index in range(MOST_TICKS):
        yield Fate(last, index)
    raise WaitsForEver


class Scene:
    """An executor to which these fates happen, and what is recorded of its work."""

    def __init__(
        self,
        fates: Iterator[Fate],
        *,
        size: int = 2,
        least: int = 1,
        stop_after: int | None = None,
        step: float = 60.0,
    ) -> None:
        self.clock = FakeClock()
        self.executor = MoodyExecutor(size, self.clock, lambda: next(fates), step=step)
        self.ledger = ListLedger()
        self.patience = StartPatience(least, START_TIMEOUT, clock=self.clock)
        self.seen: list[str] = []  # what the progress said the run waits for
        self._ticks = 0
        self._stop_after = stop_after

    def stopping(self) -> bool:
        self._ticks += 1
        return self._stop_after is not None and self._ticks > self._stop_after

    def main_pass(self, units: int, *, last: bool = True) -> None:
        named = {f"u{i}": Unit(f"u{i}", (), 1) for i in range(units)}
        work = MainPass(
            self.executor,
            cast(Ledger, self.ledger),
            Dispatcher(named, epoch=1, plan=PLAN.digest, weights="w"),
            named,
            FrozenPlan(PLAN, b"", b""),
            LoopControl(self.patience, self.stopping, lambda: self.seen.append(work.waits_for)),
            last=last,
        )
        work.run()

    def map_tasks(self, tasks: int) -> list[str]:
        named = [Task.of(reduce, f"t{i}") for i in range(tasks)]
        return map_tasks(self.executor, named, LoopControl(self.patience, self.stopping, lambda: None))

    def settled(self) -> list[str]:
        """Units in the order in which they were accepted or set aside; each must be there once."""
        accepted = [
            u for kind, body in self.ledger.records if kind == "accept" for r in body["receipts"] for u in r["units"]
        ]
        return accepted + [body["units"][0] for kind, body in self.ledger.records if kind == "set_aside"]


def ended(work: Callable[[], Any]) -> BaseException | None:
    """How it ended: None, or what it raised on purpose."""
    try:
        work()
    except PcaceError as error:
        return error
    return None


@given(
    first=st.lists(fates, max_size=50),
    last=lasting,
    size=st.integers(1, 3),
    least=st.integers(1, 3),
    units=st.integers(1, 6),
    stop_after=st.none() | st.integers(0, 60),
    passes=st.integers(1, 2),
)
@settings(max_examples=1500, deadline=None, derandomize=True, database=None)
def test_a_main_pass_ends_whatever_happens_to_its_workers(
    first: list[Fate], last: str, size: int, least: int, units: int, stop_after: int | None, passes: int
) -> None:
    scene = Scene(then_always(first, last), size=size, least=min(least, size), stop_after=stop_after)
    error = None
    for number in range(passes):
        error = error or ended(partial(scene.main_pass, units, last=number == passes - 1))
        if error is None:
            assert sorted(scene.settled()) == sorted([f"u{i}" for i in range(units)] * (number + 1))
    assert error is None or str(error)
    assert stop_after is not None or not isinstance(error, Stopped)


@given(
    first=st.lists(fates, max_size=40),
    last=lasting,
    size=st.integers(1, 3),
    tasks=st.integers(1, 5),
    stop_after=st.none() | st.integers(0, 40),
)
@settings(max_examples=600, deadline=None, derandomize=True, database=None)
def test_mapped_tasks_end_whatever_happens_to_the_workers(
    first: list[Fate], last: str, size: int, tasks: int, stop_after: int | None
) -> None:
    scene = Scene(then_always(first, last), size=size, stop_after=stop_after)

    def work() -> None:
        assert scene.map_tasks(tasks) == [f"did t{i}" for i in range(tasks)]

    try:
        ended(work)
    except RuntimeError as error:
        assert str(error) == "a bug"


def test_fewer_workers_than_min_start_after_the_timeout_and_the_run_says_so(caplog: pytest.LogCaptureFixture) -> None:
    one_is_admitted = [Fate(ANSWER, 0), Fate(ANSWER, 1), *[Fate(WAIT)] * 12]
    scene = Scene(itertools.chain(one_is_admitted, only_the_first_works()), least=2)
    scene.main_pass(3)
    assert sorted(scene.settled()) == ["u0", "u1", "u2"]
    assert "started with 1 of workers.min 2 workers: no other one was admitted within" in str(scene.patience.short)
    assert "started with 1 of workers.min 2" in caplog.text
    assert any("waits for workers: 1 of workers.min 2 admitted (1 starting)" in line for line in scene.seen)


def only_the_first_works() -> Iterator[Fate]:
    while True:
        yield Fate(ANSWER, 1)  # the call after that of the worker that never comes


def test_fewer_workers_than_min_start_at_once_where_no_more_can_come() -> None:
    admitted = [Fate(ANSWER, 0), Fate(ANSWER, 1), Fate(ANSWER, 0)]
    refused = [Fate(REFUSE), Fate(ANSWER)] * 9  # each a new worker
    scene = Scene(itertools.chain(admitted, refused, itertools.repeat(Fate(ANSWER))), least=2, step=1)
    scene.main_pass(3)
    assert sorted(scene.settled()) == ["u0", "u1", "u2"]
    assert scene.patience.refusals == 9
    assert "no other one can be had; 9 were refused, the last one w0010: other bits" in str(scene.patience.short)
    assert scene.clock.now < START_TIMEOUT


def test_without_any_admitted_worker_the_run_ends_and_says_who_was_refused() -> None:
    fates = itertools.chain([Fate(ANSWER), Fate(REFUSE, 1)], itertools.repeat(Fate(WAIT)))
    scene = Scene(fates, least=2)
    with pytest.raises(
        JobError, match=r"0 of up to 2 workers .*start_timeout 600 s; .*1 was refused.*w0001: other bits"
    ):
        scene.main_pass(3)


def test_workers_that_never_end_beginning_are_named() -> None:
    scene = Scene(itertools.chain([Fate(ANSWER), Fate(ANSWER)], itertools.repeat(Fate(WAIT))))
    with pytest.raises(JobError, match="2 loaded the model but did not begin"):
        scene.main_pass(3)
    assert any("waits for workers: 0 admitted (2 checking the plan)" in line for line in scene.seen)


def test_a_worker_that_never_ends_beginning_does_not_keep_a_finished_pass() -> None:
    fates = itertools.chain(
        [Fate(ANSWER, 0), Fate(ANSWER, 1), *[Fate(ANSWER, 0)] * 2], itertools.repeat(Fate(ANSWER, 1))
    )
    scene = Scene(fates)
    scene.main_pass(2)
    assert sorted(scene.settled()) == ["u0", "u1"]


def test_a_worker_that_was_there_and_left_is_waited_for_as_long() -> None:
    fates = itertools.chain([Fate(ANSWER), Fate(ANSWER), Fate(DIE)], itertools.repeat(Fate(WAIT)))
    scene = Scene(fates, size=1)
    with pytest.raises(JobError, match="0 of up to 1 workers"):
        scene.main_pass(3)


def test_a_drained_cluster_that_gets_no_new_node_ends_the_run() -> None:
    fates = itertools.chain(
        [Fate(ANSWER), Fate(ANSWER), Fate(DRAIN), *[Fate(ANSWER)] * 3], itertools.repeat(Fate(WAIT))
    )
    scene = Scene(fates, size=1)
    with pytest.raises(JobError, match="0 of up to 1 workers"):
        scene.main_pass(30)


def test_a_task_that_ends_every_worker_ends_the_run() -> None:
    def fates() -> Iterator[Fate]:
        while True:
            yield Fate(ANSWER)  # up
            yield Fate(DIE)

    scene = Scene(fates(), size=1)
    with pytest.raises(PcaceError, match="12 workers in a row were lost and none finished reduce"):
        scene.map_tasks(1)


def test_workers_that_all_left_before_a_map_are_asked_for_anew() -> None:
    scene = Scene(itertools.repeat(Fate(ANSWER)), size=1)
    scene.executor.release("w0001")
    assert scene.map_tasks(2) == ["did t0", "did t1"]


def test_a_call_is_silent_once_its_sign_stands_still() -> None:
    clock = FakeClock()
    signs = Heartbeats(100, clock=clock)
    assert signs.silent({"a": 1, "b": 1}) == []
    clock.now = 90
    assert signs.silent({"a": 1, "b": 2}) == []
    clock.now = 110
    assert signs.silent({"a": 1, "b": 2}) == ["a"]
    assert signs.silent({"b": 2}) == []
    clock.now = 120
    assert signs.silent({"a": 1, "b": 2}) == []  # another call
