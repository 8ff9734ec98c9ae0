"""The output of a schedule: one folder per run, the line of those that were published, and a pointer to the last one.

    runs/<date>-<fingerprint>/    whole runs, each with its own ledger
    history/00000003.json         what was published, dense and immutable
    latest.json                   the run that counts now; moves by put-if-match (docs/protocol.md, item 14)
    schedule/                     ledger and lease of the tick that is at work: one at a time

`Schedule` only reads; `Tick` is what the holder of the lock may do. A tick that dies anywhere leaves a pointer to a
complete run, and the next one goes on. Knows stores, not what a run holds, and no Ray.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pcace_dist.errors import OutputError, Stopped, TakenOver
from pcace_dist.service.keeper import LeaseKeeper
from pcace_dist.service.lease import Lease, LeaseObserver, ProcessProbe
from pcace_dist.service.ledger import Ledger
from pcace_dist.service.store import OutcomeUnknown, Store, Versioned, open_store, probe

LATEST = "latest.json"
HISTORY = "history/"
RUNS = "runs/"
LOCK = "schedule"

_ENTRY = re.compile(r"history/\d{8}\.json")


class Busy(Stopped):
    """Another tick of the schedule is at work; nothing was done."""


@dataclass(frozen=True)
class Pointer:
    """Content of latest.json, and the tag by which it is replaced; no content and no tag while there is none."""

    content: dict[str, Any] | None
    etag: str | None

    def __getitem__(self, name: str) -> Any:
        return None if self.content is None else self.content.get(name)


class Schedule:
    """Reads what a schedule has published. Raises OutputError for what it cannot have written."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def latest(self) -> Pointer:
        found: Versioned | None = self.store.read_versioned(LATEST)
        if found is None:
            return Pointer(None, None)
        try:
            content: dict[str, Any] = json.loads(found.data)
            content["run"]
        except (ValueError, KeyError, TypeError):
            raise OutputError(
                f"{self.store.url}/{LATEST}: was not written by pcace rerank; use another output"
            ) from None
        return Pointer(content, found.etag)

    def entries(self) -> list[dict[str, Any]]:
        """What was published, the first first."""
        keys = [key for key in self.store.list(HISTORY) if _ENTRY.fullmatch(key)]
        return [json.loads(data) for data in map(self.store.get, keys) if data is not None]

    def runs(self) -> list[str]:
        """Names of the folders below runs/, sorted: dates come first."""
        return sorted({key.split("/")[1] for key in self.store.list(RUNS) if key.count("/") > 1})


class Tick(Schedule):
    """A schedule whose lock this process holds. `check` raises TakenOver once it does not."""

    def __init__(self, store: Store, ledger: Ledger, keeper: LeaseKeeper) -> None:
        super().__init__(store)
        self._ledger = ledger
        self._keeper = keeper

    def check(self) -> None:
        self._keeper.check()
        self._ledger.check_held()

    def record(self, entry: dict[str, Any]) -> int:
        """Append to the history; the number of the entry. Raises TakenOver when another tick has written it."""
        self.check()
        number = len(self.entries()) + 1
        key = f"{HISTORY}{number:08d}.json"
        data = _to_bytes(entry | {"n": number, "nonce": uuid.uuid4().hex})
        if not self._mine(lambda: self.store.put_if_absent(key, data), key, data):
            raise TakenOver(f"{self.store.url}/{key}: another tick has written it")
        return number

    def publish(self, content: dict[str, Any], before: Pointer) -> None:
        """Move the pointer from what it was when the tick began. Raises TakenOver when it has been moved meanwhile."""
        self.check()
        data = _to_bytes(content | {"nonce": uuid.uuid4().hex})
        if not self._mine(lambda: self.store.put_if_match(LATEST, data, before.etag), LATEST, data):
            raise TakenOver(f"{self.store.url}/{LATEST}: was moved by another tick")

    def remove(self, run: str) -> None:
        """Remove a run's folder, its ledger last: what is left of an interrupted removal is no finished run."""
        self.check()
        keys = self.store.list(f"{RUNS}{run}/")
        for key in sorted(keys, key=lambda key: (f"{RUNS}{run}/ledger/" in key, key)):
            self.store.delete(key)

    def _mine(self, put: Any, key: str, data: bytes) -> bool:
        """Whether the object is the one that was put, also where no answer came."""
        try:
            return bool(put()) or self.store.get(key) == data
        except OutcomeUnknown:
            return self.store.get(key) == data


@contextlib.contextmanager
def lock(store: Store, storage: Any, *, take_over: bool = False) -> Iterator[Tick]:
    """Hold the schedule of an output. Raises Busy when another tick lives (see `lease`), TakenOver after a race."""
    guarded = open_store(f"{store.url}/{LOCK}", storage)
    ledger = Ledger(guarded)
    state = ledger.load()
    if not take_over:
        verdict = LeaseObserver(guarded, state).wait()
        if not verdict.may_take:
            raise Busy(f"{store.url}: another tick is at work ({verdict.who} since {verdict.since}); nothing was done")
    probe(guarded)
    ledger.open(ProcessProbe().this_process().to_json())
    with LeaseKeeper(Lease(guarded, ledger.epoch)) as keeper:
        yield Tick(store, ledger, keeper)


def _to_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
