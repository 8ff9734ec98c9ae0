"""What an executor is: it runs tasks on workers and reports events, whatever the workers are. No Ray.

    tasks -> executor -> events

`RayExecutor` runs workers as Ray actors, `ThreadExecutor` as threads of this process, `InlineExecutor` one worker in
the caller's thread. tests/executors/test_conformance.py holds all of them to what is said here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import Progress, WorkerBody, WorkerInfo

if TYPE_CHECKING:
    from pcace_dist.config.sections import Workers

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")


@dataclass(frozen=True, eq=False)
class Task(Generic[R_co]):
    """One call of a worker's method; R_co is the type of its result. Two tasks are never equal."""

    method: Callable[..., R_co]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    @staticmethod
    def of(method: Callable[Concatenate[Any, P], R], *arguments: P.args, **keywords: P.kwargs) -> Task[R]:
        """`method`: of the worker's class, for example WorkerBody.flush; the type checker checks the arguments."""
        return Task(method, arguments, keywords)

    @property
    def name(self) -> str:
        return self.method.__name__

    def run_on(self, worker: object) -> R_co:
        """Call the method of this worker, in this thread."""
        result: R_co = getattr(worker, self.name)(*self.arguments, **self.keywords)
        return result


@dataclass(frozen=True)
class Joined:
    """A worker is up: it has loaded the model."""

    worker: str
    info: WorkerInfo


@dataclass(frozen=True)
class StartFailed:
    """A worker raised while it started. It is no member any more."""

    worker: str
    error: BaseException


@dataclass(frozen=True)
class Finished:
    """A task is done; `value` is its result."""

    worker: str
    task: Task[Any]
    value: Any


@dataclass(frozen=True)
class Failed:
    """A task raised. The worker lives on."""

    worker: str
    task: Task[Any]
    error: BaseException


@dataclass(frozen=True)
class Lost:
    """A worker is gone or out of reach, and no member any more. If it `was_up`, `Explained` follows."""

    worker: str
    reason: str
    was_up: bool = True


@dataclass(frozen=True)
class Explained:
    """Why a worker was lost: its node went (lost, drained, preempted), or it died and the node lives on."""

    worker: str
    with_node: bool


Event = Joined | StartFailed | Finished | Failed | Lost | Explained


@dataclass(frozen=True)
class WorkerShape:
    """Resources of one worker and how many of them are wanted."""

    maximum: int
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int | None = None
    resources: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def of(workers: Workers) -> WorkerShape:
        """What a job's section asks for."""
        return WorkerShape(workers.max, workers.cpus, workers.gpus, workers.memory, dict(workers.resources))

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": self.resources}
        return options if self.memory is None else {**options, "memory": self.memory}

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"]
        parts += [f"{self.gpus:g} GPU"] if self.gpus else []
        parts += [f"{self.memory / 2**30:.1f} GiB memory"] if self.memory else []
        parts += [f"{amount:g} {name}" for name, amount in self.resources.items()]
        return ", ".join(parts)


def name_of_worker(prefix: str, number: int) -> str:
    """number: from 1, in the order in which workers are asked for."""
    return f"{prefix}{number:04d}"


class Executor(ABC):
    """Workers of one driver, asked for when the block is entered and ended when it is left.

    A lost worker's place is taken by a new one with a new name, so that a name never means two workers. A subclass
    answers the abstract members, and reports the end of a task with `_finished` or `_failed`.
    """

    def __init__(self, spec: WorkSpec | CodesSpec, shape: WorkerShape, *, prefix: str = "a") -> None:
        """`spec`: the argument of every worker's start. `prefix`: of the workers' names."""
        self.shape = shape
        self._prefix = prefix
        self._count = 0
        self._infos: dict[str, WorkerInfo] = {}
        self._start_task = Task.of(WorkerBody.ready, spec)

    def __enter__(self) -> Self:
        for _ in range(self.shape.maximum):
            self.replace()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.members:
            self.release(worker)

    # -- what each executor does in its own way

    @abstractmethod
    def resources(self) -> str:
        """The resources that workers can have, for messages."""

    @property
    @abstractmethod
    def members(self) -> list[str]:
        """Names of all workers asked for, up or not, oldest first."""

    @abstractmethod
    def call(self, worker: str, task: Task[Any]) -> None:
        """Give a worker that is up a task. It has at most one; `Finished` or `Failed` tells its end."""

    @abstractmethod
    def events(self, timeout: float) -> Iterator[Event]:
        """The events since the last call. Waits at most `timeout` seconds for the first one."""

    @abstractmethod
    def stop_work(self) -> None:
        """Tell every worker to give up the unit in hand."""

    @abstractmethod
    def release(self, worker: str) -> None:
        """End a worker on purpose. No event follows, not of its task either. Does nothing for one that is gone."""

    @abstractmethod
    def _start(self, worker: str) -> None:
        """Ask for a worker of this name, with `_start_task` as its first call."""

    @abstractmethod
    def _progress(self) -> dict[str, Progress]:
        """How far each member is, as far as that is known."""

    # -- the same for all

    @property
    def up(self) -> list[str]:
        """Names of the workers that are up, oldest first."""
        return [worker for worker in self.members if worker in self._infos]

    def draining(self) -> set[str]:
        """Workers that are up on nodes which are about to leave."""
        return set()

    def images_seen_by(self) -> dict[str, int]:
        """Images that each worker that is up has forwarded so far."""
        return {worker: progress.images for worker, progress in self._progress().items() if worker in self._infos}

    def pilot_share(self) -> float:
        """How much of the pilot is done, from 0 to 1."""
        return max((progress.pilot_share for progress in self._progress().values()), default=0.0)

    def waits_for(self) -> str | None:
        """The storage that a worker waits for, in words."""
        return next((progress.waits_for for progress in self._progress().values() if progress.waits_for), None)

    def release_pending(self) -> None:
        """Ask no longer for the workers that are not up yet."""
        for worker in self.members:
            if worker not in self._infos:
                self.release(worker)

    def replace(self) -> None:
        """Ask for one more worker, unless there are `shape.maximum`."""
        if len(self.members) < self.shape.maximum:
            self._count += 1
            self._start(name_of_worker(self._prefix, self._count))

    def _finished(self, worker: str, task: Task[Any], value: Any) -> Event:
        """The event of a task that is done."""
        if task is not self._start_task:
            return Finished(worker, task, value)
        self._infos[worker] = value
        return Joined(worker, value)

    def _failed(self, worker: str, task: Task[Any], error: BaseException) -> Event:
        """The event of a task that raised."""
        if task is not self._start_task:
            return Failed(worker, task, error)
        self.release(worker)
        return StartFailed(worker, error)
