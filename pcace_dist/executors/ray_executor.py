"""Workers as Ray actors. Every exception of Ray becomes an event here and goes no further.

As many actors as the maximum are asked for; the autoscaler sees the pending ones as demand.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import available_resources_per_node, state  # neither these nor draining nodes are public
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from pcace_dist.errors import PcaceError
from pcace_dist.executors.base import Event, Executor, Explained, Lost, Task, WorkerShape, name_of_worker
from pcace_dist.executors.ray_actor import Worker
from pcace_dist.executors.ray_session import describe_resources
from pcace_dist.executors.start_patience import Heartbeats
from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import Progress, WorkerBody

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
DOUBT_SECONDS = 20.0  # how long a lost worker's node may take to be reported dead; Ray's health checks take 15 s
FAILED_STARTS = 3  # workers in a row that die before they are up, with none up: the job cannot run here


PROGRESS, STOP = Task.of(WorkerBody.progress), Task.of(WorkerBody.stop)  # answered beside the task in hand


@dataclass
class _Member:
    handle: Any
    progress: Progress = field(default_factory=Progress)
    polled_at: float = 0.0


@dataclass(frozen=True)
class _Doubt:
    """The node of a lost worker may have gone too. After `until` it counts as alive."""

    node: str
    until: float


class EarlyWorkers:
    """Actors that import their libraries while the run is prepared; an executor takes them by their names.

    Only as many as the cluster's nodes have room for now: a job that may yet be refused is no reason to start machines.
    Where Ray answers with an error there are none.
    """

    def __init__(self, shape: WorkerShape, *, actor_class: Any = Worker) -> None:
        """`shape`, `actor_class`: those of the executor."""
        self._handles: dict[str, Any] = {}
        with contextlib.suppress(RayError):
            actor = actor_class.options(**shape.options())
            for number in range(min(shape.maximum, _places(shape))):
                name = name_of_worker("a", number + 1)  # as an executor calls its own
                self._handles[name] = actor.remote(name)
                self._handles[name].imports.remote()

    def take(self, worker: str) -> Any:
        """The actor of this name; None where there is none, or no more."""
        return self._handles.pop(worker, None)

    def release(self) -> None:
        """End those that nobody has taken: Ray may live on in this process."""
        for handle in self._handles.values():
            with contextlib.suppress(RayError):
                ray.kill(handle, no_restart=True)
        self._handles.clear()


def _places(shape: WorkerShape) -> int:
    """Workers that the nodes of the cluster have room for, each by itself, beside what they hold."""
    asked = {"CPU": shape.cpus, "GPU": shape.gpus, "memory": shape.memory or 0, **shape.resources}
    needed = {name: amount for name, amount in asked.items() if amount}
    nodes = available_resources_per_node().values()
    return sum(int(min((free.get(name, 0) / amount for name, amount in needed.items()), default=0)) for free in nodes)


class RayExecutor(Executor):
    """An actor for each worker. Use as a context manager."""

    def __init__(
        self,
        spec: WorkSpec | CodesSpec,
        shape: WorkerShape,
        *,
        prefix: str = "a",
        actor_class: Any = Worker,
        early: EarlyWorkers | None = None,
    ) -> None:
        """`actor_class`: of Ray; takes the worker's name. `early`: workers of this shape that are on their way."""
        super().__init__(spec, shape, prefix=prefix)
        self._early = early
        self._actor_class = actor_class
        self._failed_starts = 0
        self._members: dict[str, _Member] = {}
        self._calls: dict[Any, tuple[str, Task[Any]]] = {}
        self._draining_nodes: set[str] = set()
        self._draining_asked_at = 0.0
        self._doubts: dict[str, _Doubt] = {}
        self._nodes_asked_at = 0.0
        self._heartbeats = Heartbeats()

    def resources(self) -> str:
        return describe_resources()

    @property
    def members(self) -> list[str]:
        return list(self._members)

    def draining(self) -> set[str]:
        """As of the last question to Ray, POLL_SECONDS ago at most."""
        now = time.monotonic()
        if now - self._draining_asked_at >= POLL_SECONDS:
            self._draining_asked_at = now
            self._draining_nodes = set(state.get_draining_nodes())
        return {worker for worker, info in self._infos.items() if info.node in self._draining_nodes}

    def call(self, worker: str, task: Task[Any]) -> None:
        method = getattr(self._members[worker].handle, task.name)
        self._calls[method.remote(*task.arguments, **task.keywords)] = worker, task

    def stop_work(self) -> None:
        for worker in self.up:
            self.call(worker, STOP)

    def release(self, worker: str) -> None:
        member = self._members.pop(worker, None)
        self._infos.pop(worker, None)
        self._calls = {ref: call for ref, call in self._calls.items() if call[0] != worker}
        if member is not None:
            ray.kill(member.handle, no_restart=True)

    def events(self, timeout: float) -> Iterator[Event]:
        self._poll()
        yield from self._explain()
        yield from self._lose_silent()
        refs = list(self._calls)
        if not refs:
            time.sleep(timeout)
            return
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ready:
            call = self._calls.pop(ref, None)
            if call is not None:
                yield from self._end_of(ref, *call)

    def _end_of(self, ref: Any, worker: str, task: Task[Any]) -> Iterator[Event]:
        """The event of a call that is over; none where it was about progress or `stop`."""
        try:
            value = ray.get(ref, timeout=60)
        except RayTaskError as error:
            is_control = task in (PROGRESS, STOP)
            yield self._lose(worker, error) if is_control else self._failed(worker, task, error.cause or error)
        except (RayError, GetTimeoutError) as error:
            yield self._lose(worker, error)
        else:
            if task is PROGRESS:
                self._members[worker].progress = value
            elif task is not STOP:
                self._failed_starts = 0 if task is self._start_task else self._failed_starts
                yield self._finished(worker, task, value)

    def _lose(self, worker: str, error: Exception) -> Lost:
        reason = f"{type(error).__name__}: {_cause(error)}"
        log.warning("worker %s is lost: %s", worker, reason, extra={"actor": worker})
        info = self._infos.get(worker)
        if info is None:
            self._failed_starts += 1
        else:
            self._doubts[worker] = _Doubt(info.node, time.monotonic() + DOUBT_SECONDS)
        self.release(worker)
        if self._failed_starts >= FAILED_STARTS and not self.up:
            raise PcaceError(f"{FAILED_STARTS} workers in a row ended before they were up; the last one: {reason}")
        return Lost(worker, reason, was_up=info is not None)

    def _explain(self) -> Iterator[Explained]:
        """Lost workers for which it is known by now whether their nodes went too.

        The driver's own node is alive, because the driver is. When a machine shuts down, a worker dies a moment before
        its node; only waiting distinguishes this from a worker that dies alone.
        """
        now = time.monotonic()
        if not self._doubts or now - self._nodes_asked_at < POLL_SECONDS / 4:
            return
        self._nodes_asked_at = now
        staying = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - set(state.get_draining_nodes())
        driver_node = ray.get_runtime_context().get_node_id()
        for worker, doubt in list(self._doubts.items()):
            with_node = doubt.node not in staying
            if with_node or doubt.node == driver_node or now >= doubt.until:
                del self._doubts[worker]
                yield Explained(worker, with_node)

    def _lose_silent(self) -> Iterator[Lost]:
        """Workers that are up and whose task has shown no progress for too long are lost."""
        calls = {
            worker: (ref, self._members[worker].progress)
            for ref, (worker, task) in self._calls.items()
            if task not in (PROGRESS, STOP, self._start_task)
        }
        for worker in self._heartbeats.silent(calls):
            yield self._lose(worker, TimeoutError(f"no sign of progress for {self._heartbeats.seconds:g} s"))

    def _start(self, worker: str) -> None:
        early = None if self._early is None else self._early.take(worker)
        handle = early or self._actor_class.options(**self.shape.options()).remote(worker)
        self._members[worker] = _Member(handle)
        self.call(worker, self._start_task)

    def _progress(self) -> dict[str, Progress]:
        """As of the last poll."""
        return {worker: member.progress for worker, member in self._members.items()}

    def _poll(self) -> None:
        """Ask all workers that are up for their progress. This also detects an idle worker that died."""
        waiting = {worker for worker, task in self._calls.values() if task is PROGRESS}
        now = time.monotonic()
        for worker, member in self._members.items():
            if worker in self._infos and worker not in waiting and now - member.polled_at >= POLL_SECONDS:
                member.polled_at = now
                self.call(worker, PROGRESS)


def _cause(error: Exception) -> str:
    """The line of Ray's message that says why: the second. The first is always the same; details are indented."""
    lines = [line for line in str(error).strip().splitlines() if line.strip() and not line.startswith(("\t", " "))]
    return (lines[1] if len(lines) > 1 else lines[0] if lines else "no reason given").strip()
