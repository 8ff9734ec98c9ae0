"""The output of a schedule: one folder per run, the history of published runs, and a pointer to the last one.

    runs/<date>-<fingerprint>/    whole runs, each with its own ledger
    history/00000003.json         what was published, dense and immutable
    latest.json                   the run that counts now; moves by put-if-match (docs/protocol.md, item 14)
    schedule/                     ledger and lease of the tick that is at work: one at a time
    schedule/runs/<name>.json     a mark for each folder that this schedule has made

`Schedule` only reads; `ScheduleLock` is what the holder of the lock may do. A tick that dies anywhere leaves a pointer
to a complete run, and the next one goes on. Nothing is removed but files of runs in folders that are shown to be this
schedule's. Knows stores and the names of a run's files, no Ray.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pcace_dist.artifacts.attempt import ATTEMPT, ATTEMPT_FILE
from pcace_dist.artifacts.checked import RESTORE, Damaged, parse_json
from pcace_dist.artifacts.reading.data_reading import IMAGE_LIST
from pcace_dist.errors import OutputError, Stopped, TakenOver
from pcace_dist.ledger.lease import Lease, LeaseObserver, ProcessProbe
from pcace_dist.ledger.lease_keeper import LeaseKeeper
from pcace_dist.ledger.ledger import PREFIX, IllegalHistory, Ledger, Record
from pcace_dist.storage.store import OutcomeUnknown, Store, Versioned, open_store, probe

log = logging.getLogger(__name__)

LATEST = "latest.json"
HISTORY = "history/"
RUNS = "runs/"
LOCK = "schedule"
MARKS = f"{LOCK}/runs/"
POINTER = ("n", "run", "published", "fingerprint", "weights", "data", "exit_code")  # of an entry, in latest.json

_ENTRY = re.compile(r"history/\d{8}\.json")
_TABLES = (
    "rankings|rankings_across_groups|bad_rows|classes|jackknife|exemplars|sample|transforms|comparison|matching|"
    "evaluation|select"
)
_OF_A_RUN = re.compile(
    r"(?:select/codes/)?(?:"  # below it what `pcace select` has made
    rf"job\.yaml|report\.(html|pdf)|(summary|lease|comparison|evaluation|select)\.json|({_TABLES})\.parquet"
    r"|evaluation-[a-z]+\.svg"
    r"|plan/[0-9a-f]+(\.check)?\.safetensors|ledger/\d{8}\.json|codes/index\.json"
    rf"|attempts/{ATTEMPT}/{ATTEMPT_FILE}|{IMAGE_LIST})"
)


class Busy(Stopped):
    """Another tick of the schedule is at work; nothing was done."""


@dataclass(frozen=True)
class Pointer:
    """Content of latest.json, and the tag by which it is replaced; no content and no tag while there is none.

    damaged: what is there cannot be read; the content is that of the last entry of the history.
    """

    content: dict[str, Any] | None
    etag: str | None
    damaged: bool = False

    def __getitem__(self, name: str) -> Any:
        return None if self.content is None else self.content.get(name)


class Schedule:
    """Reads what a schedule has published. Raises OutputError for what it cannot have written."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def latest(self) -> Pointer:
        stored: Versioned | None = self.store.read_versioned(LATEST)
        if stored is None:
            return Pointer(None, None)
        try:
            content = parse_json(stored.data, f"{self.store.url}/{LATEST}")
            if isinstance(content.get("run"), str):
                return Pointer(content, stored.etag)
        except Damaged:
            pass
        entries = self.entries()
        if not entries:
            raise OutputError(f"{self.store.url}/{LATEST}: was not written by pcace rerank; use another output")
        return Pointer(pointer_to(entries[-1]), stored.etag, damaged=True)

    def entries(self) -> list[dict[str, Any]]:
        """What was published, the first first. Raises Damaged, naming the entry."""
        keys = [key for key in self.store.list(HISTORY) if _ENTRY.fullmatch(key)]
        return [self._entry(key) for key in keys]

    def _entry(self, key: str) -> dict[str, Any]:
        url = f"{self.store.url}/{key}"
        entry = parse_json(self.store.get(key) or b"", url)
        if not isinstance(entry.get("run"), str) or not entry.keys() >= set(POINTER):
            raise Damaged(f"{url}: is no entry of a history; {RESTORE}")
        return entry

    def runs(self) -> list[str]:
        """Names of the folders below runs/, sorted: dates come first."""
        return sorted({key.split("/")[1] for key in self.store.list(RUNS) if key.count("/") > 1})

    def owns(self, name: str) -> bool:
        """Whether a folder below runs/ is certainly this schedule's: it is marked, or (of version 0.1.0, which left no
        marks) its own history names it and the run in it is of the weights that the entry says."""
        if self.store.get(_mark(name)) is not None:
            return True
        weights = {entry["weights"] for entry in self.entries() if entry["run"] == f"{RUNS}{name}"}
        try:
            manifests = [record for record in self._records(name) if record.kind == "manifest"] if weights else []
        except IllegalHistory:
            return False
        return any(record.body.get("weights") in weights for record in manifests)

    def finished(self, name: str) -> bool:
        """Whether the run in a folder is done, by its ledger. Raises IllegalHistory."""
        records = list(self._records(name))
        return bool(records) and records[-1].kind == "done"

    def _records(self, name: str) -> Iterator[Record]:
        """The ledger of a run."""
        keys = self.store.list(f"{RUNS}{name}/{PREFIX}")
        for n, data in enumerate(map(self.store.get, keys), start=1):
            yield Record.from_bytes(data or b"", n)


class ScheduleLock(Schedule):
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
        if not self._put(lambda: self.store.put_if_absent(key, data), key, data):
            raise TakenOver(f"{self.store.url}/{key}: another tick has written it")
        return number

    def publish(self, content: dict[str, Any], before: Pointer) -> None:
        """Move the pointer from what it was when the tick began. Raises TakenOver when it has been moved meanwhile."""
        self.check()
        data = _to_bytes(content | {"nonce": uuid.uuid4().hex})
        if not self._put(lambda: self.store.put_if_match(LATEST, data, before.etag), LATEST, data):
            raise TakenOver(f"{self.store.url}/{LATEST}: was moved by another tick")

    def begin(self, name: str) -> None:
        """Mark the folder of a new run, before anything is in it."""
        if not self.store.list(f"{RUNS}{name}/"):
            self.store.put(_mark(name), _to_bytes({"run": f"{RUNS}{name}"}))

    def remove(self, name: str) -> bool:
        """Remove the run in a folder of this schedule; returns whether the folder is gone.

        Its ledger goes last, so that an interrupted removal leaves no finished run. A folder that nothing shows to be
        this schedule's stays, as do files that no run writes; a warning names them.
        """
        self.check()
        folder = f"{RUNS}{name}/"
        if not self.owns(name):
            log.warning("%s/%s is left: nothing shows that this schedule has made it", self.store.url, folder)
            return False
        keys = self.store.list(folder)
        foreign = [key for key in keys if not _OF_A_RUN.fullmatch(key.removeprefix(folder))]
        for key in sorted(set(keys) - set(foreign), key=lambda key: (f"{folder}{PREFIX}" in key, key)):
            self.store.delete(key)
        if foreign:
            others = f" and {len(foreign) - 1} more files" if len(foreign) > 1 else ""
            log.warning("%s/%s%s: left, for no run has written it", self.store.url, foreign[0], others)
            return False
        self.store.delete(_mark(name))
        return True

    def _put(self, put: Any, key: str, data: bytes) -> bool:
        """Put an object; whether it is the one that is there afterwards, also where no answer came."""
        try:
            return bool(put()) or self.store.get(key) == data
        except OutcomeUnknown:
            return self.store.get(key) == data


@contextlib.contextmanager
def lock(store: Store, storage: Any, *, take_over: bool = False) -> Iterator[ScheduleLock]:
    """Hold the schedule of an output. Raises Busy when another tick lives (see `lease`), TakenOver after a race."""
    guarded = open_store(f"{store.url}/{LOCK}", storage)
    ledger = Ledger(guarded)
    state = ledger.load()
    if not take_over:
        lease = LeaseObserver(guarded, state).wait()
        if not lease.may_take:
            raise Busy(f"{store.url}: another tick is at work ({lease.who} since {lease.since}); nothing was done")
    probe(guarded)
    ledger.open(ProcessProbe().this_process().to_json())
    with LeaseKeeper(Lease(guarded, ledger.epoch)) as keeper:
        yield ScheduleLock(store, ledger, keeper)


def pointer_to(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The content of latest.json that names an entry of the history."""
    return {"format_version": 1} | {name: entry[name] for name in POINTER}


def _mark(name: str) -> str:
    return f"{MARKS}{name}.json"


def _to_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
