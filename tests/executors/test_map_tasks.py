"""Tasks that any worker can do, on an executor whose tasks end in an order of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Never, cast

import pytest

from pcace_dist.executors.base import Event, Executor, Failed, Finished, Task
from pcace_dist.executors.event_loop import LoopControl
from pcace_dist.executors.map_tasks import map_tasks
from pcace_dist.executors.start_patience import StartPatience


def reduce(worker: Never, name: str) -> str:
    """What the executor is asked."""
    raise NotImplementedError


class LastFirst:
    """Two workers whose tasks end one at a time, the last first; the task `bad` fails."""

    def __init__(self) -> None:
        self.up = self.members = ["a", "b"]
        self.calls: list[tuple[str, Task[Any]]] = []

    def waits_for(self) -> str | None:
        return None

    def call(self, worker: str, task: Task[Any]) -> None:
        self.calls.append((worker, task))

    def events(self, _: float) -> Iterator[Event]:
        if self.calls:
            worker, task = self.calls.pop()
            (name,) = task.arguments
            yield Failed(worker, task, KeyError(name)) if name == "bad" else Finished(worker, task, f"did {name}")


def mapped(executor: LastFirst, names: list[str]) -> list[str]:
    control = LoopControl(StartPatience(1, 600), stopping=lambda: False, on_tick=lambda: None)
    return map_tasks(cast(Executor, executor), [Task.of(reduce, name) for name in names], control)


def test_what_other_workers_did_when_a_task_failed_is_no_answer_to_later_tasks() -> None:
    executor = LastFirst()
    with pytest.raises(KeyError, match="bad"):
        mapped(executor, ["one", "bad", "two", "three"])
    assert mapped(executor, ["four", "five", "six"]) == ["did four", "did five", "did six"]


def test_the_end_of_a_task_of_a_former_loop_is_no_news() -> None:
    executor = LastFirst()
    executor.call("a", Task.of(reduce, "former"))
    assert mapped(executor, ["one", "two", "three"]) == ["did one", "did two", "did three"]
