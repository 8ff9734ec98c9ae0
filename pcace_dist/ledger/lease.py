"""The lease: whether the driver that holds a run still lives (docs/protocol.md, item 4). For liveness only.

    lease.json = {epoch, counter, released}

The holder raises the counter every 10 s. A driver that wants the run watches the counter by its own monotonic clock: if
it stands still for 30 s, the holder is dead. A released lease is free at once; so is the lease of a process that is
known to be gone. Two drivers that both think they hold the run do no harm: the ledger decides. Wall clocks are never
compared. No Ray.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pcace_dist.errors import TakenOver
from pcace_dist.ledger.ledger import RunState
from pcace_dist.storage.store import Store

KEY = "lease.json"
RENEW_SECONDS = 10.0
DEAD_SECONDS = 30.0

Liveness = Literal["free", "held", "watching", "dead", "released"]


# -- the holder's side


@dataclass(frozen=True)
class LeaseFile:
    """Content of lease.json."""

    epoch: int
    counter: int
    released: bool = False

    def to_bytes(self) -> bytes:
        return json.dumps({"epoch": self.epoch, "counter": self.counter, "released": self.released}).encode()

    @staticmethod
    def read(store: Store) -> LeaseFile | None:
        """The stored lease; None if there is none, or none that can be read: nothing exact depends on a lease."""
        data = store.get(KEY)
        try:
            value = json.loads(data or b"null")
            return LeaseFile(int(value["epoch"]), int(value["counter"]), bool(value["released"]))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return None


class Lease:
    """The lease of one opened epoch. Call `renew_if_due` every few seconds and `release` at an orderly end."""

    def __init__(
        self, store: Store, epoch: int, *, clock: Callable[[], float] = time.monotonic, every: float = RENEW_SECONDS
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._clock = clock
        self._every = every
        self._counter = 0
        self._written_at = clock()

    def write(self) -> None:
        """Take the lease, right after the ledger was opened. Raises TakenOver when a later epoch has it."""
        self._put(released=False)

    def renew(self) -> None:
        """Raise the counter. Raises TakenOver when a later epoch has the lease; StoreUnavailable may pass."""
        self._counter += 1
        self._put(released=False)

    def renew_if_due(self) -> bool:
        """Renew if the last time is long enough ago; whether it did."""
        if self._clock() - self._written_at < self._every:
            return False
        self.renew()
        return True

    def release(self) -> None:
        """Let the next driver have the run at once. Nothing happens when a later epoch has the lease."""
        self._counter += 1
        try:
            self._put(released=True)
        except TakenOver:
            return

    def _put(self, *, released: bool) -> None:
        current = LeaseFile.read(self._store)
        if current is not None and current.epoch > self._epoch:
            raise TakenOver(f"{self._store.url}: another driver has taken the lease (epoch {current.epoch})")
        self._store.put(KEY, LeaseFile(self._epoch, self._counter, released).to_bytes())
        self._written_at = self._clock()


# -- processes


@dataclass(frozen=True)
class ProcessId:
    """Which process, beyond doubt: pids repeat on other hosts, after a boot, in other containers and over time."""

    host: str
    boot: str
    pid: int
    namespace: str  # of pids: containers on one host have their own
    started: str  # clock ticks after the boot

    def to_json(self) -> dict[str, Any]:
        """The `holder` of an open record."""
        return {
            "host": self.host,
            "boot": self.boot,
            "pid": self.pid,
            "namespace": self.namespace,
            "started": self.started,
        }


class ProcessProbe:
    """Asks this machine whether a process lives."""

    def __init__(self) -> None:
        self.host = socket.gethostname()
        self.boot = _read("/proc/sys/kernel/random/boot_id")
        try:
            self.namespace = os.readlink("/proc/self/ns/pid")
        except OSError:
            self.namespace = ""

    def this_process(self) -> ProcessId:
        pid = os.getpid()
        return ProcessId(self.host, self.boot, pid, self.namespace, self.started(pid))

    def started(self, pid: int) -> str:
        """When a process started, in clock ticks after the boot; "" if there is none or this system does not tell."""
        state_and_on = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name before may hold anything
        return state_and_on[19] if len(state_and_on) > 19 and state_and_on[0] not in ("Z", "X") else ""

    def is_gone(self, holder: Mapping[str, Any]) -> bool:
        """True only if the holder certainly ran here and no longer does."""
        if not self.boot or not self.namespace or not _is_pid(holder.get("pid")):
            return False
        this_machine = (self.host, self.boot, self.namespace)
        if (holder.get("host"), holder.get("boot"), holder.get("namespace")) != this_machine:
            return False
        started = self.started(holder["pid"])
        return not started or started != holder.get("started", started)


def _is_pid(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


# -- the observer's side


@dataclass(frozen=True)
class LeaseStatus:
    """Whether the run may be taken. `who` and `since` are for the message to the user."""

    liveness: Liveness
    who: str = ""
    since: str = ""

    @property
    def may_take(self) -> bool:
        return self.liveness in ("free", "dead", "released")

    def __str__(self) -> str:
        return f"{self.liveness}: {self.who} since {self.since}" if self.who else self.liveness


class LeaseObserver:
    """Watches the lease of a run whose ledger says `state`. Call `check` about once a second until it is decided.

    free      nobody ever opened the run
    released  the holder has let go
    dead      its process is gone, or the counter stood still for DEAD_SECONDS while we watched
    held      the counter moved while we watched
    watching  not decided yet
    """

    def __init__(
        self,
        store: Store,
        state: RunState,
        *,
        probe: ProcessProbe | None = None,
        clock: Callable[[], float] = time.monotonic,
        dead_after: float = DEAD_SECONDS,
    ) -> None:
        self._store = store
        self._state = state
        self._probe = ProcessProbe() if probe is None else probe
        self._clock = clock
        self._dead_after = dead_after
        self._first: LeaseFile | None = None
        self._since: float | None = None

    def check(self) -> LeaseStatus:
        """Read the lease once and say what is known by now. Raises StoreUnavailable."""
        holder = self._state.holder
        if holder is None:
            return LeaseStatus("free")
        stored = LeaseFile.read(self._store)
        lease = stored if stored is not None and stored.epoch >= self._state.epoch else None  # not a zombie's
        if lease is not None and lease.released and lease.epoch == self._state.epoch:
            return self._say("released")
        if self._probe.is_gone(holder) and (lease is None or lease.epoch == self._state.epoch):
            return self._say("dead")
        if self._since is None:
            self._first, self._since = lease, self._clock()
        elif lease is not None and lease != self._first:
            return self._say("held")
        return self._say("dead" if self._clock() - self._since >= self._dead_after else "watching")

    def wait(self, sleep: Callable[[float], None] = time.sleep, *, every: float = 1.0) -> LeaseStatus:
        """Watch until it is decided: at once, when the counter moves, or after DEAD_SECONDS."""
        while (status := self.check()).liveness == "watching":
            sleep(every)
        return status

    def _say(self, liveness: Liveness) -> LeaseStatus:
        holder = self._state.holder or {}
        opened = self._state.opened_at or 0.0
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} (epoch {self._state.epoch})"
        return LeaseStatus(liveness, who, datetime.fromtimestamp(opened, UTC).isoformat(timespec="seconds"))
