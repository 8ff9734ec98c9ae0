"""The fleet: worker actors as a stream of plain events. Every Ray exception becomes an event here and goes no further.

Actors up to the maximum are asked for, the pending ones are the autoscaler's demand; calls go only to actors that are
up. A lost actor is replaced by a new one with a new name, so that a name never means two processes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray
from ray._private.state import state  # draining nodes have no public interface in Ray 2.60
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from pcace_dist.errors import PcaceError
from pcace_dist.executors.base import Event, Explained, Failed, Finished, Joined, Lost, WorkerShape
from pcace_dist.executors.ray_actor import Worker
from pcace_dist.executors.ray_session import describe_resources
from pcace_dist.executors.start_patience import SignsOfLife
from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import Progress, WorkerInfo

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
DOUBT_SECONDS = 20.0  # to wait for the news that a lost worker's node went too; Ray's health checks take 15 s
FAILED_STARTS = 3  # workers in a row that die before they are up, with none up: the job cannot run here


@dataclass
class _Member:
    handle: Any
    info: WorkerInfo | None = None
    progress: Progress = field(default_factory=Progress)
    polled_at: float = 0.0


@dataclass(frozen=True)
class _Doubt:
    """A lost worker whose node may have gone too; after `until` it is taken to live."""

    node: str
    until: float


class Fleet:
    """Worker actors of one driver. Use as a context manager; leaving it ends all actors."""

    def __init__(self, spec: WorkSpec | CodesSpec, shape: WorkerShape, *, prefix: str = "a") -> None:
        self._spec = spec
        self._shape = shape
        self._prefix = prefix
        self._count = 0
        self._failed_starts = 0
        self._members: dict[str, _Member] = {}
        self._calls: dict[Any, tuple[str, str]] = {}
        self._looked_at = 0.0
        self._leaving: set[str] = set()
        self._doubts: dict[str, _Doubt] = {}
        self._asked_at = 0.0
        self._signs = SignsOfLife()

    def __enter__(self) -> Fleet:
        for _ in range(self._shape.maximum):
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in list(self._members):
            self.release(actor)

    @property
    def shape(self) -> WorkerShape:
        """What one worker asks of the cluster."""
        return self._shape

    def resources(self) -> str:
        """What the cluster has, for messages."""
        return describe_resources()

    @property
    def up(self) -> list[str]:
        """Names of the workers that are up, oldest first."""
        return [actor for actor, member in self._members.items() if member.info is not None]

    @property
    def members(self) -> list[str]:
        """Names of all workers asked for, up or not."""
        return list(self._members)

    def draining(self) -> set[str]:
        """Workers that are up on nodes which are about to leave, as of a look every few seconds."""
        now = time.monotonic()
        if now - self._looked_at >= POLL_SECONDS:
            self._looked_at = now
            self._leaving = set(state.get_draining_nodes())
        up = {actor: member.info for actor, member in self._members.items() if member.info is not None}
        return {actor for actor, info in up.items() if info.node in self._leaving}

    def images_seen_by(self) -> dict[str, int]:
        """Images forwarded so far by each worker that is up, as of the last poll."""
        return {actor: member.progress.images for actor, member in self._members.items() if member.info is not None}

    def waits_for(self) -> str | None:
        """What of the storage a worker waits for, as of the last poll."""
        return next((m.progress.waits_for for m in self._members.values() if m.progress.waits_for is not None), None)

    def call(self, actor: str, method: str, *args: Any) -> None:
        """Call a method of a worker; its result comes back as an event."""
        ref = getattr(self._members[actor].handle, method).remote(*args)
        self._calls[ref] = (actor, method)

    def stop_work(self) -> None:
        """Tell every worker to give up the unit in hand."""
        for actor in self.up:
            self.call(actor, "stop")

    def release(self, actor: str) -> None:
        """End a worker on purpose; no event follows."""
        member = self._members.pop(actor, None)
        self._calls = {ref: call for ref, call in self._calls.items() if call[0] != actor}
        if member is not None:
            ray.kill(member.handle, no_restart=True)

    def release_pending(self) -> None:
        """Withdraw the demand for workers that are not up yet."""
        for actor, member in list(self._members.items()):
            if member.info is None:
                self.release(actor)

    def replace(self) -> None:
        """Ask for another worker in place of a lost one."""
        if len(self._members) < self._shape.maximum:
            self._start()

    def events(self, timeout: float) -> Iterator[Event]:
        """What has happened, waiting up to `timeout` seconds for the first event."""
        self._poll()
        yield from self._explain()
        yield from self._give_up_silent()
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
                yield from self._event(ref, *call)

    def _event(self, ref: Any, actor: str, method: str) -> Iterator[Event]:
        member = self._members[actor]
        try:
            value = ray.get(ref, timeout=60)
        except RayTaskError as error:
            if method == "ready":
                self.release(actor)
            yield Failed(actor, method, error.cause or error)
        except (RayError, GetTimeoutError) as error:
            yield self._lose(actor, error)
        else:
            if method == "ready":
                member.info = value
                self._failed_starts = 0
                yield Joined(actor, value)
            elif method == "progress":
                member.progress = value
            else:
                yield Finished(actor, method, value)

    def _lose(self, actor: str, error: Exception) -> Lost:
        reason = f"{type(error).__name__}: {_cause(error)}"
        log.warning("worker %s is lost: %s", actor, reason, extra={"actor": actor})
        info = self._members[actor].info
        if info is None:
            self._failed_starts += 1
        else:
            self._doubts[actor] = _Doubt(info.node, time.monotonic() + DOUBT_SECONDS)
        self.release(actor)
        if self._failed_starts >= FAILED_STARTS and not self.up:
            raise PcaceError(f"{FAILED_STARTS} workers in a row ended before they were up; the last one: {reason}")
        return Lost(actor, reason)

    def _explain(self) -> Iterator[Explained]:
        """Lost workers of which it is known by now whether their nodes went too.

        The driver's own node lives, or the driver would not. A worker that dies a moment before its node (the order in
        which a machine is shut down) is told from one that dies alone only by waiting.
        """
        now = time.monotonic()
        if not self._doubts or now - self._asked_at < POLL_SECONDS / 4:
            return
        self._asked_at = now
        staying = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - set(state.get_draining_nodes())
        here = ray.get_runtime_context().get_node_id()
        for actor, doubt in list(self._doubts.items()):
            with_node = doubt.node not in staying
            if with_node or doubt.node == here or now >= doubt.until:
                del self._doubts[actor]
                yield Explained(actor, with_node)

    def _give_up_silent(self) -> Iterator[Lost]:
        """Workers that are up and have worked for too long on a call without progress are lost."""
        signs = {
            actor: (ref, self._members[actor].progress)
            for ref, (actor, method) in self._calls.items()
            if method not in ("progress", "stop", "ready")
        }
        for actor in self._signs.silent(signs):
            yield self._lose(actor, TimeoutError(f"no sign of progress for {self._signs.seconds:g} s"))

    def _start(self) -> None:
        self._count += 1
        actor = f"{self._prefix}{self._count:04d}"
        actor_class: Any = Worker  # Ray's decorator makes it one
        handle = actor_class.options(**self._shape.options()).remote(actor)
        self._members[actor] = _Member(handle)
        self.call(actor, "ready", self._spec)

    def _poll(self) -> None:
        """Ask how far the busy workers are; a dead idle worker shows here too."""
        waiting = {actor for actor, method in self._calls.values() if method == "progress"}
        now = time.monotonic()
        for actor, member in self._members.items():
            if member.info is not None and actor not in waiting and now - member.polled_at >= POLL_SECONDS:
                member.polled_at = now
                self.call(actor, "progress")


def _cause(error: Exception) -> str:
    """The line of Ray's message that says why: not the first, which is the same for all, and no indented details."""
    lines = [line for line in str(error).strip().splitlines() if line.strip() and not line.startswith(("\t", " "))]
    return (lines[1] if len(lines) > 1 else lines[0] if lines else "no reason given").strip()
