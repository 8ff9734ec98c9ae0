"""What a crew of workers tells the coordinator: plain events, whatever runs the workers. No Ray.

`Fleet` (fleet.py) runs them as Ray actors, `LocalFleet` (local_fleet.py) as threads of this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from pcace_dist.worker.worker import WorkerInfo


@dataclass(frozen=True)
class Joined:
    """A worker is up and has loaded the model."""

    actor: str
    info: WorkerInfo


@dataclass(frozen=True)
class Finished:
    """A call came back."""

    actor: str
    method: str
    value: Any


@dataclass(frozen=True)
class Failed:
    """A call raised in the worker's own code; the worker lives on."""

    actor: str
    method: str
    error: BaseException


@dataclass(frozen=True)
class Lost:
    """A worker is gone or unreachable; whatever it says later must not count. If it was up, `Explained` follows."""

    actor: str
    reason: str


@dataclass(frozen=True)
class Explained:
    """What became of a lost worker: it went with its node (lost, drained, preempted), or died while that lives on."""

    actor: str
    with_node: bool


Event = Joined | Finished | Failed | Lost | Explained


@dataclass(frozen=True)
class WorkerShape:
    """Resources of one worker and how many of them are wanted."""

    maximum: int
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int | None = None
    resources: dict[str, float] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": self.resources}
        return options if self.memory is None else {**options, "memory": self.memory}

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"]
        parts += [f"{self.gpus:g} GPU"] if self.gpus else []
        parts += [f"{self.memory / 2**30:.1f} GiB memory"] if self.memory else []
        parts += [f"{amount:g} {name}" for name, amount in self.resources.items()]
        return ", ".join(parts)


class Crew(Protocol):
    """Workers of one driver, as the coordinator and the main pass use them; `Fleet` says what each member means."""

    @property
    def shape(self) -> WorkerShape: ...

    def resources(self) -> str: ...

    @property
    def up(self) -> list[str]: ...

    @property
    def members(self) -> list[str]: ...

    def draining(self) -> set[str]: ...

    def images_seen_by(self) -> dict[str, int]: ...

    def waits_for(self) -> str | None: ...

    def call(self, actor: str, method: str, *args: Any) -> None: ...

    def events(self, timeout: float) -> Iterator[Event]: ...

    def stop_work(self) -> None: ...

    def release(self, actor: str) -> None: ...

    def release_pending(self) -> None: ...

    def replace(self) -> None: ...
