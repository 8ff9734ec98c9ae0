"""Every executor does the same: over Ray, threads and the caller's own thread, with small workers without an engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pcace_dist.errors import JobError, PcaceError, Stopped
from pcace_dist.executors.base import (
    Event,
    Executor,
    Explained,
    Failed,
    Finished,
    Joined,
    Lost,
    StartFailed,
    Task,
    WorkerShape,
)
from pcace_dist.executors.event_loop import MOST_LOSSES, LoopControl
from pcace_dist.executors.inline import InlineExecutor
from pcace_dist.executors.map_tasks import map_tasks
from pcace_dist.executors.ray_executor import RayExecutor
from pcace_dist.executors.start_patience import StartPatience
from pcace_dist.executors.threads import ThreadExecutor
from tests.fake_worker import FakeActor, FakeWorker

DEADLINE = 60.0  # seconds, for an event that must come


Open: TypeAlias = Callable[..., Executor]


def on_ray(size: int = 2, spec: Any = None) -> Executor:
    return RayExecutor(spec, WorkerShape(size), actor_class=FakeActor)


def in_threads(size: int = 2, spec: Any = None) -> Executor:
    return ThreadExecutor(spec, WorkerShape(size), make_worker=FakeWorker)


def inline(size: int = 2, spec: Any = None) -> Executor:
    return InlineExecutor(spec, WorkerShape(1), make_worker=FakeWorker)


def opener(request: pytest.FixtureRequest) -> Open:
    opened: Open = request.param
    if opened is on_ray:
        request.getfixturevalue("local_ray")
    return opened


@pytest.fixture(params=[on_ray, in_threads, inline])
def executor_of(request: pytest.FixtureRequest) -> Open:
    return opener(request)


@pytest.fixture(params=[on_ray, in_threads])
def executor_that_can_lose(request: pytest.FixtureRequest) -> Open:
    return opener(request)


def control(*, seconds: float = 600, stopping: bool = False) -> LoopControl:
    return LoopControl(StartPatience(1, seconds), lambda: stopping, lambda: None)


def events_until(executor: Executor, over: Callable[[], bool]) -> list[Event]:
    """All events until a condition holds."""
    seen: list[Event] = []
    deadline = time.monotonic() + DEADLINE
    while not over():
        assert time.monotonic() < deadline, f"only {seen}"
        seen += executor.events(0.02)
    return seen


def events_to(executor: Executor, kind: type[Event], count: int = 1) -> list[Event]:
    """All events, to the last of `count` of a kind."""
    seen: list[Event] = []
    deadline = time.monotonic() + DEADLINE
    while sum(isinstance(event, kind) for event in seen) < count:
        assert time.monotonic() < deadline, f"only {seen}"
        seen += executor.events(0.02)
    return seen


# -- start


def test_the_workers_come_up_and_are_gone_after_the_block(executor_of: Open) -> None:
    with executor_of() as executor:
        assert executor.members and executor.up == []
        joined = events_to(executor, Joined, len(executor.members))
        assert {event.worker for event in joined} == set(executor.members) == set(executor.up)
        assert executor.members[0] == "a0001" and executor.resources()
    assert executor.members == executor.up == []


def test_a_worker_that_cannot_start_is_no_member(executor_of: Open) -> None:
    with executor_of(1, "broken") as executor:
        (failed,) = events_to(executor, StartFailed)
        assert isinstance(failed, StartFailed) and isinstance(failed.error, JobError)
        assert executor.members == []
        executor.replace()
        assert executor.members == ["a0002"], "a name never means two workers"


def test_the_jobs_mistake_in_the_start_ends_a_map(executor_of: Open) -> None:
    with executor_of(2, "broken") as executor, pytest.raises(JobError, match=r"model\.factory: no such module"):
        map_tasks(executor, [Task.of(FakeWorker.double, 1)], control())


def test_there_are_no_more_workers_than_wanted(executor_of: Open) -> None:
    with executor_of() as executor:
        before = executor.members
        executor.replace()
        assert executor.members == before


# -- tasks


def test_results_are_in_the_order_of_the_tasks(executor_of: Open) -> None:
    with executor_of() as executor:
        doubled: list[int] = map_tasks(executor, [Task.of(FakeWorker.double, number) for number in range(7)], control())
        assert doubled == [0, 2, 4, 6, 8, 10, 12]
        assert map_tasks(executor, [Task.of(FakeWorker.double, number=4)], control()) == [8]
        assert map_tasks(executor, [], control()) == []


def test_a_task_is_finished_once_and_names_itself(executor_of: Open) -> None:
    with executor_of(1) as executor:
        events_to(executor, Joined)
        task = Task.of(FakeWorker.double, 3)
        executor.call("a0001", task)
        assert events_to(executor, Finished) == [Finished("a0001", task, 6)]
        assert list(executor.events(0.01)) == []


def test_what_a_task_raises_is_an_event_and_its_worker_lives_on(executor_of: Open) -> None:
    with executor_of(1) as executor:
        events_to(executor, Joined)
        executor.call("a0001", Task.of(FakeWorker.fail, 3))
        (failed,) = events_to(executor, Failed)
        assert isinstance(failed, Failed) and str(failed.error) == "target 3: is beyond the outputs"
        assert executor.up == ["a0001"]


def test_what_a_task_raises_is_raised_by_the_map_and_later_tasks_are_not_answered_by_former_ones(
    executor_of: Open,
) -> None:
    with executor_of() as executor:
        tasks = [Task.of(FakeWorker.double_or_fail, number) for number in range(5)]
        with pytest.raises(JobError, match="target 3"):
            map_tasks(executor, tasks, control())
        assert map_tasks(executor, [Task.of(FakeWorker.double, 10)], control()) == [20]


def test_a_map_that_is_told_to_stop_stops(executor_of: Open) -> None:
    with executor_of() as executor, pytest.raises(Stopped):
        map_tasks(executor, [Task.of(FakeWorker.double, 1)], control(stopping=True))


def test_stop_reaches_every_worker(executor_of: Open) -> None:
    with executor_of() as executor:
        events_to(executor, Joined, len(executor.members))
        executor.stop_work()
        waiting, deadline = set(executor.up), time.monotonic() + DEADLINE
        while waiting and time.monotonic() < deadline:  # nothing says when a worker has been told
            for worker in waiting:
                executor.call(worker, Task.of(FakeWorker.is_stopped))
            answers = events_to(executor, Finished, len(waiting))
            waiting -= {answer.worker for answer in answers if isinstance(answer, Finished) and answer.value}
        assert not waiting


def test_only_inline_works_in_the_callers_thread() -> None:
    for opened in (in_threads, inline):
        with opened(1) as executor:
            (thread,) = map_tasks(executor, [Task.of(FakeWorker.thread)], control())
        assert (thread == threading.get_ident()) == (opened is inline)


@pytest.mark.parametrize("executor_class", [ThreadExecutor, InlineExecutor])
def test_a_worker_of_this_process_is_closed_by_its_own_thread(executor_class: type[ThreadExecutor]) -> None:
    workers: list[FakeWorker] = []

    def made(name: str) -> FakeWorker:
        workers.append(FakeWorker(name))
        return workers[-1]

    spec: Any = None
    with executor_class(spec, WorkerShape(2), make_worker=made) as executor:
        (thread,) = map_tasks(executor, [Task.of(FakeWorker.thread)], control())
        assert [worker.closed_by for worker in workers] == [None, None]
        executor.release("a0002")
        assert workers[0].closed_by is None and workers[1].closed_by is not None
    assert thread in [worker.closed_by for worker in workers]
    assert all(worker.closed_by is not None for worker in workers)


# -- what workers tell


def test_what_a_worker_waits_for_and_how_far_it_is(executor_of: Open) -> None:
    with executor_of(1) as executor:
        events_to(executor, Joined)
        assert executor.waits_for() is None and executor.images_seen_by() == {"a0001": 0}
        executor.call("a0001", Task.of(FakeWorker.double, 1))
        events_to(executor, Finished)
        executor.call("a0001", Task.of(FakeWorker.wait_for, "s3://bucket/data (for 3 s by now)"))
        events_until(executor, lambda: executor.waits_for() is not None)
        assert executor.waits_for() == "s3://bucket/data (for 3 s by now)"
        assert executor.images_seen_by() == {"a0001": 1}


def test_waiting_for_storage_is_no_missing_worker(executor_of: Open) -> None:
    with executor_of(1) as executor:
        patience = StartPatience(1, 0.0)
        events_to(executor, Joined)
        executor.call("a0001", Task.of(FakeWorker.wait_for, "storage"))
        events_until(executor, lambda: executor.waits_for() is not None)
        for _ in range(2):
            patience.check(0, executor)
        executor.release("a0001")
        patience.check(0, executor)
        time.sleep(0.01)
        with pytest.raises(JobError, match=r"0 of up to 1 workers .*start_timeout 0 s"):
            patience.check(0, executor)


# -- workers go


def test_of_a_released_worker_nothing_is_heard(executor_of: Open) -> None:
    with executor_of() as executor:
        events_to(executor, Joined, len(executor.members))
        executor.call("a0001", Task.of(FakeWorker.double, 1))
        executor.release("a0001")
        executor.release("a0001")
        assert "a0001" not in executor.members and "a0001" not in executor.up
        assert [event for event in [*executor.events(0.3), *executor.events(0.3)] if event.worker == "a0001"] == []


def test_workers_that_are_not_up_yet_can_be_called_off(executor_of: Open) -> None:
    with executor_of() as executor:
        executor.release_pending()
        assert executor.members == []
        assert map_tasks(executor, [Task.of(FakeWorker.double, 1)], control()) == [2], "and asked for again"


def test_a_silent_worker_is_lost_and_another_takes_its_place(executor_that_can_lose: Open) -> None:
    with executor_that_can_lose(1) as executor:
        events_to(executor, Joined)
        executor._heartbeats.seconds = 0.3  # type: ignore[attr-defined]
        executor.call("a0001", Task.of(FakeWorker.hang))
        lost, explained = events_to(executor, Explained)
        assert isinstance(lost, Lost) and lost.worker == "a0001" and lost.was_up
        assert "no sign of progress for 0.3 s" in lost.reason
        assert explained == Explained("a0001", with_node=False)
        assert executor.members == []
        executor.replace()
        assert [event.worker for event in events_to(executor, Joined)] == ["a0002"]


def test_the_task_of_a_lost_worker_is_given_to_another(executor_that_can_lose: Open, tmp_path: Path) -> None:
    with executor_that_can_lose() as executor:
        events_to(executor, Joined, 2)
        executor._heartbeats.seconds = 0.5  # type: ignore[attr-defined]
        tasks = [Task.of(FakeWorker.hang_once, tmp_path / "hung") for _ in range(3)]
        assert map_tasks(executor, tasks, control()) == ["done"] * 3


def test_a_process_that_dies_is_a_lost_worker(local_ray: None) -> None:
    with on_ray(1) as executor:
        events_to(executor, Joined)
        executor.call("a0001", Task.of(FakeWorker.die))
        lost, explained = events_to(executor, Explained)
        assert isinstance(lost, Lost) and lost.was_up and "died" in lost.reason.lower()
        assert explained == Explained("a0001", with_node=False), "the driver's own node lives"
        assert executor.members == []


def test_a_task_that_ends_every_worker_ends_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcace_dist.executors.threads.Heartbeats", lambda: _Impatient())
    with (
        in_threads(1) as executor,
        pytest.raises(PcaceError, match=f"{MOST_LOSSES} workers in a row were lost and none"),
    ):
        map_tasks(executor, [Task.of(FakeWorker.hang)], control())


class _Impatient:
    """Takes every worker that has a task for silent."""

    seconds = 0.0

    def silent(self, signs: dict[str, object]) -> Iterator[str]:
        yield from signs


def test_workers_on_a_node_that_drains_are_known(executor_of: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with executor_of(1) as executor:
        (joined,) = events_to(executor, Joined)
        assert executor.draining() == set()
        assert isinstance(joined, Joined)
        if isinstance(executor, RayExecutor):
            nodes = {joined.info.node: 0}
            monkeypatch.setattr("pcace_dist.executors.ray_executor.state.get_draining_nodes", lambda: nodes)
            executor._draining_asked_at = 0.0
            assert executor.draining() == {"a0001"}
