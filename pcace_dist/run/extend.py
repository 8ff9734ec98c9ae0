"""Extending a finished run: which of its results are still valid for the current files, and what must be computed.

An accepted attempt is taken over whole when all its units' files are still there unchanged. Where one is gone, the
attempt is not taken over and its surviving units are redone, from kept codes where there are any. The gone file is
never read and nothing is subtracted. Knows the ledger and the data set's listing, not Ray (docs/protocol.md, item 12).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from pcace_dist.artifacts.attempt import CODES_FILE, CorruptAttempt, attempt_key, is_inherited, read_checked
from pcace_dist.artifacts.done import recorded_job
from pcace_dist.artifacts.plan_store import FrozenPlan
from pcace_dist.config.job import Job, read_job
from pcace_dist.datasets.listing import DataFile, Listing
from pcace_dist.datasets.units import RowGroupRef, Unit, make_units
from pcace_dist.errors import JobError, OutputError
from pcace_dist.ledger.ledger import Ledger, Receipt, RunState
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import Store, open_store

log = logging.getLogger(__name__)

COPIES = 8  # files copied at the same time


@dataclass(frozen=True, eq=False)
class Base:
    """The finished run that is extended."""

    url: str
    store: Store
    state: RunState
    frozen: FrozenPlan


@dataclass(frozen=True)
class Inheritance:
    """What a new run begins with: all its units, the receipts that it takes over under their new names, where their
    files lie, and the units whose rows are taken from kept codes of the base: {unit: codes file}."""

    units: tuple[Unit, ...]
    receipts: tuple[Receipt, ...]
    sources: Mapping[str, str]
    from_codes: Mapping[str, str]


def open_base(job: Job, storage: Storage, *, weights: str, layers: tuple[str, ...]) -> Base:
    """The run that `extend` names. Raises JobError unless it is finished and asked the same question."""
    url = str(job.extend)
    store = open_store(url, storage)
    state = Ledger(store).load()
    text = recorded_job(store, state)
    if state.done is None or state.manifest is None or text is None:
        raise JobError(f"extend {url}: is not a finished run; finish it first, or leave the key out")
    if state.settled is not None:
        raise JobError(f"extend {url}: that run stopped before the end of its data; extend a run without stop")
    if job.stop is not None:
        raise JobError("extend: a run that takes over another has no use for stop; leave one of the keys out")
    frozen = FrozenPlan.recorded(store, state.manifest)
    if state.manifest["weights"] != weights:
        raise JobError(f"extend {url}: was ranked with other model.weights; rank without extend")
    if tuple(layer.name for layer in frozen.plan.layers) != layers:
        raise JobError(f"extend {url}: was ranked with other layers; rank without extend")
    for key, mine, theirs in _different(job, read_job(text, name=f"{url}/job.yaml")):
        raise JobError(f"extend {url}: has {key} {theirs} where this job has {mine}; rank without extend")
    return Base(url, store, state, frozen)


def _different(job: Job, base: Job) -> Iterable[tuple[str, Any, Any]]:
    """Keys that both runs must share: not the path, which may name more folders now, nor how weights are written."""
    free = {"extend", "stop", "layers"}
    one, two = (json.loads(json.dumps(each.dependent())) for each in (job, base))
    for tree in (one, two):
        del tree["dataset"]["path"], tree["model"]["weights"], tree["statistics"]["plan"]
    for key in one.keys() - free:
        if one[key] != two[key]:
            inner = (
                [name for name in one[key] if one[key][name] != two[key][name]] if isinstance(one[key], dict) else []
            )
            yield (f"{key}.{inner[0]}", one[key][inner[0]], two[key][inner[0]]) if inner else (key, one[key], two[key])


def inherit(base: Base, listing: Listing, rows_per_unit: int) -> Inheritance:
    """Sort the base's units by whether their files are still there, and make units of what is new."""
    files = {file.key: file for file in listing.files}
    base_units = [Unit.from_json(unit) for unit in (base.state.manifest or {})["units"]]
    whole, survivors = [], []
    for unit in base_units:
        there = [_today(piece, files) for piece in unit.row_groups]
        found = [piece for piece in there if piece is not None]
        if len(found) == len(there):
            whole.append(Unit.of(found))
        elif found:
            survivors.append((unit.id, Unit.of(found)))
    known = {(p.key, p.size, p.version) for unit in base_units for p in unit.row_groups}
    new = [file for file in listing.files if (file.key, file.size, file.version) not in known]
    fresh = make_units(replace(listing, files=tuple(new)), rows_per_unit) if new else ()
    standing = {unit.id for unit in whole}
    receipts, sources = [], {}
    for receipt in base.state.accepted_receipts():
        if standing.issuperset(receipt.units):
            renamed = _renamed(receipt, base)
            receipts.append(renamed)
            sources[renamed.attempt] = receipt.attempt
    taken = {unit for receipt in receipts for unit in receipt.units}
    redo = {unit.id: unit.id for unit in whole if unit.id not in taken} | {unit.id: old for old, unit in survivors}
    return Inheritance(
        units=(*whole, *(unit for _, unit in survivors), *fresh),
        receipts=tuple(receipts),
        sources=sources,
        from_codes=_codes_of(base, redo),
    )


def _today(piece: RowGroupRef, files: Mapping[str, DataFile]) -> RowGroupRef | None:
    """The same row group where its file lies now; None if that is gone or has changed."""
    file = files.get(piece.key)
    if file is None or (file.size, file.version) != (piece.size, piece.version):
        return None
    return replace(piece, url=file.url)


def _renamed(receipt: Receipt, base: Base) -> Receipt:
    """Under a name that no attempt of the new run has: those of the base's own get the base's generation in front."""
    if is_inherited(receipt.attempt):
        return receipt
    generation = int((base.state.manifest or {}).get("generation", 0))
    return replace(receipt, attempt=f"g{generation:05d}-{receipt.attempt}")


def _codes_of(base: Base, redo: Mapping[str, str]) -> dict[str, str]:
    """For units that are redone, the base's codes file that holds their rows: {unit: key in the base}."""
    found = {}
    receipts = {receipt.attempt: receipt for receipt in base.state.accepted_receipts()}
    for unit, old in redo.items():
        attempt = base.state.attempt_of(old)
        if attempt is not None and CODES_FILE in receipts[attempt].files:
            found[unit] = attempt_key(attempt, CODES_FILE)
    return found


def copy_attempts(
    base: Base, store: Store, manifest: Mapping[str, Any], on_copied: Callable[[int, int], None]
) -> tuple[Receipt, ...]:
    """Copy the attempts that a manifest inherits, each file checked; the receipts for the ledger. May be repeated.

    An attempt that the base can no longer give is left out: its units are done again.
    """
    receipts = tuple(Receipt.from_json(one) for one in manifest["inherits"]["receipts"])
    sources = manifest["inherits"]["sources"]
    files = [(receipt, name) for receipt in receipts for name in receipt.files]
    broken: set[str] = set()

    def copy(item: tuple[Receipt, str]) -> None:
        receipt, name = item
        try:
            copy_file(receipt, name)
        except CorruptAttempt as corrupt:
            broken.add(receipt.attempt)
            log.warning("extend: attempt %s is not taken over: %s", corrupt.attempt, corrupt.reason)

    def copy_file(receipt: Receipt, name: str) -> None:
        ref = receipt.files[name]
        there = store.get(attempt_key(receipt.attempt, name))
        if there is None or hashlib.sha256(there).hexdigest() != ref.sha256:
            store.put(attempt_key(receipt.attempt, name), read_checked(base.store, sources[receipt.attempt], name, ref))

    with ThreadPoolExecutor(COPIES, thread_name_prefix="pcace-copy") as pool:
        for done, _ in enumerate(pool.map(copy, files), start=1):
            on_copied(done, len(files))
    return tuple(receipt for receipt in receipts if receipt.attempt not in broken)


def generation_of(base: Base) -> int:
    """How many runs lie behind one that extends this base."""
    return int((base.state.manifest or {}).get("generation", 0)) + 1


def check_base_plan(base: Base, manifest: Mapping[str, Any]) -> None:
    """Raises OutputError when the base is not the one that the run began with."""
    if manifest["plan"] != base.frozen.plan.digest:
        raise OutputError(f"extend {base.url}: has changed since the run began; use another output")
