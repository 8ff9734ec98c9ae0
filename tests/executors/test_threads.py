"""Workers that are threads: one that hangs is given up, one that does not start makes room."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pcace_dist.executors import threads as local_fleet
from pcace_dist.executors.base import Event, Explained, Failed, Finished, Joined, Lost, WorkerShape
from pcace_dist.executors.threads import LocalFleet
from pcace_dist.worker.worker import Progress, WorkerInfo


class Body:
    """A worker without an engine: its calls do what their argument says."""

    def __init__(self, actor: str, shared_model: object = None) -> None:
        self._actor = actor

    def ready(self, spec: Any) -> WorkerInfo:
        if spec == "broken":
            raise RuntimeError("no model")
        return WorkerInfo(self._actor, "host", "", 1, "cpu", "w")

    def wait(self, released: threading.Event) -> str:
        released.wait()
        return "done"

    def progress(self) -> Progress:
        return Progress()

    def stop(self) -> None:
        return None


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_fleet, "WorkerBody", Body)


def events_until(fleet: LocalFleet, kind: type[Event]) -> Iterator[Event]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for event in fleet.events(0.02):
            yield event
            if isinstance(event, kind):
                return
    raise AssertionError(f"no {kind.__name__}")


def test_a_thread_that_hangs_is_lost_and_another_one_takes_its_place(bodies: None) -> None:
    released: Any = threading.Event()
    spec: Any = None
    with LocalFleet(spec, WorkerShape(1)) as fleet:
        assert [type(event) for event in events_until(fleet, Joined)] == [Joined]
        fleet._signs.seconds = 0.1
        fleet.call("a0001", "wait", released)
        lost, explained = events_until(fleet, Explained)
        assert lost == Lost("a0001", "no sign of progress for 0.1 s")
        assert explained == Explained("a0001", with_node=False)
        assert fleet.members == []
        fleet.replace()
        assert [type(event) for event in events_until(fleet, Joined)] == [Joined]
        released.set()  # what the lost thread says now counts no more
        fleet.call("a0002", "wait", released)
        assert list(events_until(fleet, Finished)) == [Finished("a0002", "wait", "done")]


def test_a_thread_that_does_not_start_is_no_member_any_more(bodies: None) -> None:
    spec: Any = "broken"
    with LocalFleet(spec, WorkerShape(1)) as fleet:
        (failed,) = events_until(fleet, Failed)
        assert isinstance(failed, Failed) and failed.method == "ready"
        assert fleet.members == []
