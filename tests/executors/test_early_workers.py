"""Workers asked for before the run knows its job: an executor takes them by name, and asks for others itself."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from pcace_dist.executors.base import WorkerShape
from pcace_dist.executors.ray_executor import EarlyWorkers, RayExecutor, _places
from tests.fake_worker import FakeActor

DEADLINE = 60.0  # seconds, for workers to come up


def executor(early: EarlyWorkers, size: int) -> RayExecutor:
    return RayExecutor("", WorkerShape(size), actor_class=FakeActor, early=early)  # type: ignore[arg-type]


def wait_until_up(opened: RayExecutor, count: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while len(opened.up) < count:
        assert time.monotonic() < deadline
        list(opened.events(0.1))


def test_the_executor_works_with_the_workers_that_are_on_their_way(local_ray: None) -> None:
    early = EarlyWorkers(WorkerShape(2), actor_class=FakeActor)
    handles: dict[str, Any] = dict(early._handles)
    assert list(handles) == ["a0001", "a0002"]
    with executor(early, 2) as opened:
        assert {name: member.handle for name, member in opened._members.items()} == handles
        assert early.take("a0001") is None, "a worker is given once"
        wait_until_up(opened, 2)
        assert [ray.get(handle.has_imported.remote()) for handle in handles.values()] == [True, True]
        opened.release("a0001")
        opened.replace()
        assert opened.members == ["a0002", "a0003"]
        wait_until_up(opened, 2)


def test_one_that_has_died_meanwhile_is_replaced(local_ray: None) -> None:
    early = EarlyWorkers(WorkerShape(1), actor_class=FakeActor)
    ray.kill(early._handles["a0001"])
    with executor(early, 1) as opened:
        assert "a0001" in [getattr(event, "worker", None) for event in opened.events(DEADLINE)]
        opened.replace()
        wait_until_up(opened, 1)
        assert opened.up == ["a0002"]


@pytest.mark.parametrize(
    "shape", [WorkerShape(2, gpus=1), WorkerShape(2, resources={"spot": 1.0}), WorkerShape(2, cpus=1000)]
)
def test_no_machine_is_asked_for_early(local_ray: None, shape: WorkerShape) -> None:
    assert not EarlyWorkers(shape, actor_class=FakeActor)._handles


def test_there_are_no_more_than_there_are_places_and_those_that_nobody_takes_end(local_ray: None) -> None:
    deadline = time.monotonic() + DEADLINE
    while not _places(WorkerShape(1, cpus=2)):  # those of the tests before are on their way out
        assert time.monotonic() < deadline
        time.sleep(0.1)
    early = EarlyWorkers(WorkerShape(1000, cpus=2), actor_class=FakeActor)
    handles = list(early._handles.values())
    assert 0 < len(handles) <= ray.cluster_resources()["CPU"] // 2
    early.release()
    for handle in handles:
        with pytest.raises(ActorDiedError):
            ray.get(handle.has_imported.remote(), timeout=DEADLINE)


def test_nodes_are_counted_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"one": {"CPU": 3.0, "memory": 8e9}, "two": {"CPU": 3.0}, "full": {"memory": 8e9}}
    monkeypatch.setattr("pcace_dist.executors.ray_executor.available_resources_per_node", lambda: nodes)
    assert [_places(WorkerShape(9, cpus=cpus)) for cpus in (1, 2, 4)] == [6, 2, 0]
    assert _places(WorkerShape(9, cpus=1, memory=4_000_000_000)) == 2
