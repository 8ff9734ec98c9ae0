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

from pcace_dist.artifacts.attempt import CODES_FILE, CorruptAttempt, attempt_key, is_inherited, read_attempt_file
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


def open_base(
    job: Job, storage: Storage, *, weights: str, layers: tuple[str, ...], prototypes: Mapping[str, str]
) -> Base:
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
    if state.manifest.get("prototypes", {}) != prototypes:
        raise JobError(f"extend {url}: was ranked against other vectors of target cosine; rank without extend")
    if tuple(layer.name for layer in frozen.plan.layers) != layers:
        raise JobError(f"extend {url}: was ranked with other layers; rank without extend")
    for key, ours, theirs in _differing_keys(job, read_job(text, name=f"{url}/job.yaml")):
        raise JobError(f"extend {url}: has {key} {theirs} where this job has {ours}; rank without extend")
    return Base(url, store, state, frozen)


def _differing_keys(job: Job, base: Job) -> Iterable[tuple[str, Any, Any]]:
    """Keys that must be the same in both jobs and are not, with both values.

    The path may name more folders now, and the same weights may be written in another way.
    """
    free = {"extend", "stop", "layers"}
    ours, theirs = (json.loads(json.dumps(side.dependent())) for side in (job, base))
    for tree in (ours, theirs):
        del tree["dataset"]["path"], tree["model"]["weights"], tree["statistics"]["plan"]
        tree["dataset"].pop("classes", None)  # what they say is compared by `_refuse_other_labels`
    for key in ours.keys() - free:
        if ours[key] == theirs[key]:
            continue
        section = ours[key] if isinstance(ours[key], dict) else {}
        names = [*section, *(theirs[key] if section else ())]
        inner = next((name for name in names if section.get(name) != theirs[key].get(name)), None)
        values = (ours[key], theirs[key]) if inner is None else (section.get(inner), theirs[key].get(inner))
        yield (key if inner is None else f"{key}.{inner}", *values)


def inherit(base: Base, listing: Listing, rows_per_unit: int) -> Inheritance:
    """Sort the base's units by whether their files are still there, and make units of what is new."""
    files = {file.key: file for file in listing.files}
    base_units = [Unit.from_json(unit) for unit in (base.state.manifest or {})["units"]]
    whole, survivors = [], []
    for unit in base_units:
        current = [_today(row_group, files) for row_group in unit.row_groups]
        unchanged = [row_group for row_group in current if row_group is not None]
        if len(unchanged) == len(current):
            whole.append(Unit.of(unchanged))
        elif unchanged:
            survivors.append((unit.id, Unit.of(unchanged)))
    base_row_groups = {(p.key, p.size, p.version) for unit in base_units for p in unit.row_groups}
    new = [file for file in listing.files if (file.key, file.size, file.version) not in base_row_groups]
    fresh = make_units(replace(listing, files=tuple(new)), rows_per_unit) if new else ()
    whole_ids = {unit.id for unit in whole}
    receipts, sources = [], {}
    for receipt in base.state.accepted_receipts():
        if whole_ids.issuperset(receipt.units):
            renamed = _renamed(receipt, base)
            receipts.append(renamed)
            sources[renamed.attempt] = receipt.attempt
    taken_over = {unit for receipt in receipts for unit in receipt.units}
    redo = {unit.id: unit.id for unit in whole if unit.id not in taken_over} | {unit.id: old for old, unit in survivors}
    return Inheritance(
        units=(*whole, *(unit for _, unit in survivors), *fresh),
        receipts=tuple(receipts),
        sources=sources,
        from_codes=_codes_of(base, redo),
    )


def _today(row_group: RowGroupRef, files: Mapping[str, DataFile]) -> RowGroupRef | None:
    """The same row group where its file lies now; None if that is gone or has changed."""
    file = files.get(row_group.key)
    if file is None or (file.size, file.version) != (row_group.size, row_group.version):
        return None
    return replace(row_group, url=file.url)


def _renamed(receipt: Receipt, base: Base) -> Receipt:
    """The receipt under a name that no attempt of the new run can have: the base's own attempts get the base's
    generation as a prefix."""
    if is_inherited(receipt.attempt):
        return receipt
    generation = int((base.state.manifest or {}).get("generation", 0))
    return replace(receipt, attempt=f"g{generation:05d}-{receipt.attempt}")


def _codes_of(base: Base, redo: Mapping[str, str]) -> dict[str, str]:
    """For units that are redone, the base's codes file that holds their rows: {unit: key in the base}."""
    codes_files = {}
    receipts = {receipt.attempt: receipt for receipt in base.state.accepted_receipts()}
    for unit, old in redo.items():
        attempt = base.state.attempt_of(old)
        if attempt is not None and CODES_FILE in receipts[attempt].files:
            codes_files[unit] = attempt_key(attempt, CODES_FILE)
    return codes_files


def copy_attempts(
    base: Base, store: Store, manifest: Mapping[str, Any], on_copied: Callable[[int, int], None]
) -> tuple[Receipt, ...]:
    """Copy the attempts that a manifest inherits, each file checked; the receipts for the ledger. May be repeated.

    An attempt that the base can no longer give is left out: its units are done again.
    """
    receipts = tuple(Receipt.from_json(receipt) for receipt in manifest["inherits"]["receipts"])
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
        copied = store.get(attempt_key(receipt.attempt, name))
        if copied is None or hashlib.sha256(copied).hexdigest() != ref.sha256:
            store.put(
                attempt_key(receipt.attempt, name), read_attempt_file(base.store, sources[receipt.attempt], name, ref)
            )

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
