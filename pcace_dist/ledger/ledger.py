"""The ledger: what a run has accepted, as dense immutable records. The only truth of a run
(docs/protocol.md, items 1 to 3).

    ledger/00000017.json = {n, kind, epoch, nonce, time, body, digest}   digest: sha256 of what stands before it

    open       {holder}                    a driver takes the run; the epoch goes up by one
    reopen     {holder, attempts, reason}  after done: an open that also retracts; the result is to be published anew
    manifest   {plan, weights, units, ..}  once: what the run is made of
    inherit    {receipts}                  attempts of a finished run, copied, that count here too (extend)
    accept     {receipts, foreign}         attempts that count from here on; `foreign`, if any: {class, differing} of
                                           workers of another numeric class than the plan's
    set_aside  {units, reason}             units that are given up
    retract    {attempts, reason}          accepted attempts that no longer count; their units are pending again
    settled    {look, units}               the answer is known without these units (stop): they are spared
    done       {exit_code, summary, ..}    every unit is accepted, set aside or spared and the result is published

`RunState` is a pure fold over the records and refuses illegal histories. `Ledger` adds a store: creating record n + 1
is the fence, for only one driver can. Knows a unit's id and rows, the rest is opaque JSON. No clock decides, no Ray.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pcace_dist.errors import StoreUnavailable, TakenOver
from pcace_dist.ledger.records import PREFIX as PREFIX
from pcace_dist.ledger.records import RESTORE as RESTORE
from pcace_dist.ledger.records import IllegalHistory as IllegalHistory
from pcace_dist.ledger.records import Json as Json
from pcace_dist.ledger.records import Record as Record
from pcace_dist.storage.store import OutcomeUnknown, Store

KINDS = ("open", "reopen", "manifest", "inherit", "accept", "set_aside", "retract", "settled", "done")
READERS = 16  # threads that load a long ledger

_KEY = re.compile(r"ledger/(\d{8})\.json")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


# -- what the records hold


@dataclass(frozen=True)
class UnitCount:
    """Rows of one finished unit: used in the sums, set aside as bad, left out by the filter, left out for want of a
    label."""

    rows: int
    bad: int = 0
    filtered: int = 0
    unlabelled: int = 0

    def to_json(self) -> dict[str, int]:
        """As version 0.1.0 wrote it where every row has a label."""
        return {name: count for name, count in asdict(self).items() if count or name != "unlabelled"}

    @staticmethod
    def from_json(value: Any) -> UnitCount:
        rows, bad, filtered = (int(value[name]) for name in ("rows", "bad", "filtered"))
        return UnitCount(rows, bad, filtered, int(value.get("unlabelled", 0)))


@dataclass(frozen=True)
class FileRef:
    """A file of an attempt as it was written."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Receipt:
    """What a worker says of a flushed attempt: which units it holds, under which plan and weights, in which files."""

    attempt: str
    epoch: int
    worker: str
    plan: str
    weights: str
    units: Mapping[str, UnitCount]
    files: Mapping[str, FileRef]

    def to_json(self) -> Json:
        return {
            "attempt": self.attempt,
            "epoch": self.epoch,
            "actor": self.worker,
            "plan": self.plan,
            "weights": self.weights,
            "units": {unit: count.to_json() for unit, count in self.units.items()},
            "files": {name: asdict(ref) for name, ref in self.files.items()},
        }

    @staticmethod
    def from_json(value: Any) -> Receipt:
        """Raises IllegalHistory when fields are missing or of a wrong kind, or a name could lead out of the attempt."""
        try:
            receipt = Receipt(
                attempt=str(value["attempt"]),
                epoch=int(value["epoch"]),
                worker=str(value["actor"]),
                plan=str(value["plan"]),
                weights=str(value["weights"]),
                units={unit: UnitCount.from_json(count) for unit, count in value["units"].items()},
                files={name: FileRef(int(ref["size"]), str(ref["sha256"])) for name, ref in value["files"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise IllegalHistory(f"a receipt is malformed: {error!r}") from error
        for name in (receipt.attempt, *receipt.files):
            if not _NAME.fullmatch(name):
                raise IllegalHistory(f"receipt {receipt.attempt!r}: {name!r} is no name of an attempt or a file")
        return receipt


# -- the fold


@dataclass(frozen=True)
class RunState:
    """What a prefix of the ledger says. Never changed in place: `apply` gives the next one."""

    length: int = 0
    epoch: int = 0
    holder: Json | None = None
    opened_at: float | None = None  # wall clock of the holder, for messages only; so is the next
    finished_at: float | None = None
    manifest: Json | None = None
    set_aside: Mapping[str, str] = field(default_factory=dict)  # unit: reason
    inherited: bool = False
    settled: Json | None = None
    done: Json | None = None
    foreign: tuple[Json, ...] = ()  # workers of other numeric classes, each once, in the ledger's order
    units: tuple[str, ...] = ()  # in the manifest's order
    spared: frozenset[str] = frozenset()  # units without which the answer is known
    _rows_of: Mapping[str, int] = field(default_factory=dict)  # of units whose row groups the manifest lists
    _receipts: Mapping[str, Receipt] = field(default_factory=dict)  # accepted attempts in the ledger's order
    _attempt_of: Mapping[str, str] = field(default_factory=dict)  # accepted unit: its attempt
    _retracted: frozenset[str] = frozenset()

    # -- queries

    def is_settled(self, unit: str) -> bool:
        """Whether a unit is accepted, set aside or spared."""
        return unit in self._attempt_of or unit in self.set_aside or unit in self.spared

    def pending_units(self) -> list[str]:
        """Units still to be computed, in the manifest's order."""
        return [unit for unit in self.units if not self.is_settled(unit)]

    def accepted_receipts(self) -> tuple[Receipt, ...]:
        """Receipts that count, in the order in which the ledger took them."""
        return tuple(self._receipts.values())

    def attempt_of(self, unit: str) -> str | None:
        """The accepted attempt that holds a unit."""
        return self._attempt_of.get(unit)

    # -- the fold itself

    def apply(self, record: Record) -> RunState:
        """The state after one more record. Raises IllegalHistory when the protocol cannot have written it here."""
        if record.n != self.length + 1:
            raise _illegal(record, f"comes after record {self.length}")
        if record.kind not in KINDS:
            raise _illegal(record, f"its kind {record.kind!r} is not known; was it written by a newer version?")
        if self.done is not None and record.kind != "reopen":
            raise _illegal(record, "comes after done")
        if self.done is None and record.kind == "reopen":
            raise _illegal(record, "comes before done")
        if not self.epoch and record.kind != "open":
            raise _illegal(record, "comes before the first open")
        if record.epoch != self.epoch + (record.kind in ("open", "reopen")):
            raise _illegal(record, f"is of epoch {record.epoch} after epoch {self.epoch}")
        if record.kind not in ("open", "manifest") and self.manifest is None:
            raise _illegal(record, "comes before the manifest")
        step: Callable[[Record], RunState] = getattr(self, f"_{record.kind}")
        try:
            return replace(step(record), length=record.n)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _illegal(record, f"its body is malformed: {error!r}") from error

    def _open(self, record: Record) -> RunState:
        return replace(self, epoch=record.epoch, holder=dict(record.body["holder"]), opened_at=record.time)

    def _reopen(self, record: Record) -> RunState:
        return replace(self._open(record)._retract(record), done=None, finished_at=None)

    def _manifest(self, record: Record) -> RunState:
        if self.manifest is not None:
            raise _illegal(record, "is a second manifest")
        units = tuple(str(unit["id"]) for unit in record.body["units"])
        if len(set(units)) != len(units):
            raise _illegal(record, "names a unit twice")
        if not isinstance(record.body["plan"], str) or not isinstance(record.body["weights"], str):
            raise _illegal(record, "plan and weights must be digests")
        rows_of = {
            str(unit["id"]): sum(int(row_group["rows"]) for row_group in unit["pieces"])
            for unit in record.body["units"]
            if "pieces" in unit
        }
        return replace(self, manifest=record.body, units=units, _rows_of=rows_of)

    def _accept(self, record: Record) -> RunState:
        for receipt in _receipts_of(record):
            if receipt.epoch != self.epoch:
                raise _illegal(record, f"attempt {receipt.attempt} is of epoch {receipt.epoch}, not {self.epoch}")
        foreign = tuple(dict(worker) for worker in record.body.get("foreign", ()))
        new_foreign = tuple(worker for worker in foreign if worker not in self.foreign)
        return replace(self._with_receipts(record), foreign=self.foreign + new_foreign)

    def _inherit(self, record: Record) -> RunState:
        if self._receipts or self._retracted:
            raise _illegal(record, "comes after attempts of this run")
        return replace(self._with_receipts(record), inherited=True)

    def _with_receipts(self, record: Record) -> RunState:
        """With all receipts of a record, or none."""
        manifest = self.manifest or {}
        receipts, attempt_of, manifest_units = dict(self._receipts), dict(self._attempt_of), set(self.units)
        for receipt in _receipts_of(record):
            if receipt.attempt in receipts or receipt.attempt in self._retracted:
                raise _illegal(record, f"attempt {receipt.attempt} was accepted before")
            if (receipt.plan, receipt.weights) != (manifest["plan"], manifest["weights"]):
                raise _illegal(record, f"attempt {receipt.attempt} was made with another plan or other weights")
            for unit, count in receipt.units.items():
                self._check_count(record, receipt.attempt, unit, count)
                if unit not in manifest_units:
                    raise _illegal(record, f"unit {unit} of attempt {receipt.attempt} is not in the manifest")
                if unit in attempt_of or unit in self.set_aside or unit in self.spared:
                    raise _illegal(record, f"unit {unit} of attempt {receipt.attempt} is accepted or set aside already")
                attempt_of[unit] = receipt.attempt
            receipts[receipt.attempt] = receipt
        return replace(self, _receipts=receipts, _attempt_of=attempt_of)

    def _check_count(self, record: Record, attempt: str, unit: str, count: UnitCount) -> None:
        """Every row of a unit is used, set aside or left out, once."""
        parts = (count.rows, count.bad, count.filtered, count.unlabelled)
        rows = self._rows_of.get(unit, sum(parts))
        if min(parts) < 0 or sum(parts) != rows:
            counted = " + ".join(map(str, parts))
            raise _illegal(
                record, f"attempt {attempt} counts {counted} rows in unit {unit}, which has {rows}; {RESTORE}"
            )

    def _set_aside(self, record: Record) -> RunState:
        units, reason = [str(unit) for unit in record.body["units"]], str(record.body["reason"])
        manifest_units = set(self.units)
        for unit in units:
            if unit not in manifest_units:
                raise _illegal(record, f"unit {unit} is not in the manifest")
            if self.is_settled(unit):
                raise _illegal(record, f"unit {unit} is accepted or set aside already")
        return replace(self, set_aside={**self.set_aside, **dict.fromkeys(units, reason)})

    def _retract(self, record: Record) -> RunState:
        attempts = {str(attempt) for attempt in record.body["attempts"]}
        unknown = attempts - self._receipts.keys()
        if unknown:
            raise _illegal(record, f"attempt {min(unknown)} is not accepted")
        return replace(
            self,
            _receipts={attempt: receipt for attempt, receipt in self._receipts.items() if attempt not in attempts},
            _attempt_of={unit: attempt for unit, attempt in self._attempt_of.items() if attempt not in attempts},
            _retracted=self._retracted | attempts,
        )

    def _settled(self, record: Record) -> RunState:
        if self.settled is not None:
            raise _illegal(record, "is a second settled")
        units = [str(unit) for unit in record.body["units"]]
        if set(units) != set(self.pending_units()) or not units:
            raise _illegal(record, "spares other units than those that are pending")
        return replace(self, settled=record.body, spared=frozenset(units))

    def _done(self, record: Record) -> RunState:
        pending = self.pending_units()
        if pending:
            raise _illegal(record, f"unit {pending[0]} is neither accepted, set aside nor spared")
        return replace(self, done=record.body, finished_at=record.time)


def fold(records: Iterable[Record], state: RunState | None = None) -> RunState:
    """The state after all records."""
    state = RunState() if state is None else state
    for record in records:
        state = state.apply(record)
    return state


def _receipts_of(record: Record) -> list[Receipt]:
    try:
        return [Receipt.from_json(receipt) for receipt in record.body["receipts"]]
    except IllegalHistory as error:
        raise _illegal(record, f"{error}; {RESTORE}") from error


def _illegal(record: Record, why: str) -> IllegalHistory:
    return IllegalHistory(f"{record.key} ({record.kind}): {why}")


# -- the ledger on a store


def _new_nonce() -> str:
    return uuid.uuid4().hex


class Ledger:
    """One driver's hold on a run's ledger: `load`, perhaps `open`, then `append`. Not for several threads.

    Once another driver has opened the run, or once it stays unknown whether a record was written, this instance writes
    nothing more: every further `append` raises the same TakenOver or StoreUnavailable.
    """

    def __init__(
        self,
        store: Store,
        *,
        nonce: Callable[[], str] = _new_nonce,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._nonce = nonce
        self._now = now
        self._state = RunState()
        self._loaded = False
        self._epoch = 0
        self._ended: TakenOver | StoreUnavailable | None = None

    @property
    def state(self) -> RunState:
        """What this driver knows the ledger to say."""
        return self._state

    @property
    def epoch(self) -> int:
        """The epoch that this driver has opened; 0 before `open`."""
        return self._epoch

    def load(self) -> RunState:
        """Read all records that this instance has not read yet. Raises IllegalHistory, StoreUnavailable, OutputError.

        List once, then n + 1, n + 2 ... until absent, for a listing may be old by the time it is read.
        """
        try:
            if not self._loaded:
                self._load_listed()
            while (record := self._read(self._state.length + 1)) is not None:
                self._state = self._state.apply(record)
        except IllegalHistory as error:
            with_url = f"{self._store.url}/{error}" if str(error).startswith(PREFIX) else str(error)
            raise IllegalHistory(with_url) from error
        return self._state

    def _load_listed(self) -> None:
        listed = max(self._listed(), default=0)
        for record in self._read_many(range(self._state.length + 1, listed + 1)):
            if record is None:
                raise self._gap(self._state.length + 1)
            self._state = self._state.apply(record)
        self._loaded = True

    def open(self, holder: Mapping[str, Any]) -> int:
        """Take the run; the new epoch. `holder` (host, boot id, pid, ...) is what another driver will be told.

        Raises TakenOver when another driver opened or finished the run after this one read the ledger.
        """
        if not self._loaded:
            self.load()
        while True:
            self._check_not_ended()
            state = self._state
            if state.done is not None:
                raise self._end(TakenOver(f"{self._store.url}: the run is done; the same command gives its result"))
            stored = self._take("open", {"holder": dict(holder)})
            if stored is None:
                return self._epoch
            self.load()  # late records of the driver before
            if self._state.epoch != state.epoch:
                raise self._lost_to(stored)

    def reopen(self, holder: Mapping[str, Any], attempts: Iterable[str], reason: str) -> int:
        """Take a finished run again, and retract attempts of it; the new epoch. Raises TakenOver, IllegalHistory."""
        if not self._loaded:
            self.load()
        self._check_not_ended()
        body = {"holder": dict(holder), "attempts": list(attempts), "reason": reason}
        stored = self._take("reopen", body)
        if stored is not None:
            raise self._lost_to(stored)
        return self._epoch

    def _take(self, kind: str, body: Json) -> Record | None:
        """Begin the next epoch. Returns None, or the record of another driver that is in its place."""
        state = self._state
        record = Record(state.length + 1, kind, state.epoch + 1, self._nonce(), self._now(), body)
        next_state = state.apply(record)
        stored = self._create(record)
        if stored.nonce != record.nonce:
            return stored
        self._state, self._epoch = next_state, record.epoch
        return None

    def append(self, kind: str, body: Json) -> Record:
        """Add one record. Raises IllegalHistory (nothing was written), TakenOver, StoreUnavailable."""
        self._check_not_ended()
        if not self._epoch:
            raise RuntimeError("a ledger must be opened before it can be appended to")
        record = Record(self._state.length + 1, kind, self._epoch, self._nonce(), self._now(), body)
        next_state = self._state.apply(record)
        stored = self._create(record)
        if stored.nonce != record.nonce:
            raise self._lost_to(stored)
        self._state = next_state
        return record

    def check_held(self) -> None:
        """Raises TakenOver if another driver has opened the run: one read, for drivers that append rarely."""
        self._check_not_ended()
        successor = self._read(self._state.length + 1)
        if successor is not None:
            raise self._lost_to(successor)
        if self._state.length and self._read(self._state.length) is None:
            raise self._gap(self._state.length)

    def check_whole(self) -> None:
        """Raises IllegalHistory if a record of this ledger is gone: whoever reads it later could not trust the rest."""
        listed = set(self._listed())
        for n in range(1, self._state.length + 1):
            if n not in listed and self._read(n) is None:
                raise self._gap(n)

    def _listed(self) -> list[int]:
        return [int(match[1]) for match in map(_KEY.fullmatch, self._store.list(PREFIX)) if match]

    def _gap(self, n: int) -> IllegalHistory:
        return IllegalHistory(f"{self._store.url}/{PREFIX}{n:08d}.json: is missing; {RESTORE}")

    def _create(self, record: Record) -> Record:
        """Put a record in its place. Returns the record that is there afterwards: this one or another driver's.

        The caller tells them apart by the nonce, also where the answer to the first put was lost and the second one
        finds the record in its place.
        """
        data = record.to_bytes()
        self._ended = StoreUnavailable(f"{self._store.url}/{record.key}: was interrupted while it was written")
        stored = self._try_to_create(record, data)
        if isinstance(stored, StoreUnavailable):
            stored = self._create_patiently(record, data, stored)
        self._ended = None
        return stored

    def _create_patiently(self, record: Record, data: bytes, last: StoreUnavailable) -> Record:
        with self._store.patience.outage(f"output {self._store.url}/{record.key}") as wait:
            while wait.on(last):
                stored = self._try_to_create(record, data)
                if isinstance(stored, Record):
                    return stored
                last = stored
            raise self._end(wait.ended(last)) from last

    def _try_to_create(self, record: Record, data: bytes) -> Record | StoreUnavailable:
        """The record that is there after one put, or the error that left it unknown."""
        unknown: StoreUnavailable | None = None
        try:
            if self._store.put_if_absent(record.key, data):
                return record
        except OutcomeUnknown as error:
            unknown = error
        stored = self._read_or_none(record.n)
        return stored or unknown or StoreUnavailable(f"{self._store.url}/{record.key}: is there, but cannot be read")

    def _read(self, n: int) -> Record | None:
        data = self._store.get(f"{PREFIX}{n:08d}.json")
        return None if data is None else Record.from_bytes(data, n)

    def _read_many(self, numbers: range) -> Iterator[Record | None]:
        """Records in order; a long ledger is read by several threads."""
        if len(numbers) <= READERS:
            yield from map(self._read, numbers)
            return
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(self._read, numbers)

    def _read_or_none(self, n: int) -> Record | None:
        try:
            return self._read(n)
        except StoreUnavailable:
            return None

    def _lost_to(self, record: Record) -> TakenOver | StoreUnavailable:
        holder = record.body.get("holder") if record.kind in ("open", "reopen") else None
        holder_fields = holder if isinstance(holder, dict) else {"record": record.kind}
        who = ", ".join(f"{name} {value}" for name, value in holder_fields.items())
        return self._end(
            TakenOver(f"{self._store.url}: another driver has opened the run (epoch {record.epoch}: {who})")
        )

    def _end(self, error: TakenOver | StoreUnavailable) -> TakenOver | StoreUnavailable:
        self._ended = error
        return error

    def _check_not_ended(self) -> None:
        if self._ended is not None:
            raise self._ended
