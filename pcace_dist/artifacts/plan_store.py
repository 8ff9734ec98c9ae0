"""The frozen plan as it is stored and as it travels: its bytes and the rows by which workers are admitted. No Ray."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pcace_dist.errors import OutputError, StatisticsError
from pcace_dist.ledger.ledger import RESTORE, Ledger
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import Store, open_store


def plan_key(digest: str) -> str:
    return f"plan/{digest}.safetensors"


def check_rows_key(digest: str) -> str:
    """The rows by which workers are admitted to the plan."""
    return f"plan/{digest}.check.safetensors"


@dataclass(frozen=True)
class FrozenPlan:
    """A plan, its bytes, and those of its check rows (empty where no model is run)."""

    plan: Plan
    data: bytes
    check: bytes

    @classmethod
    def of(cls, data: bytes, check: bytes) -> FrozenPlan:
        return cls(Plan.from_bytes(data), data, check)

    def store(self, store: Store) -> dict[str, Any]:
        """Write it under its digest; what the manifest says of it."""
        store.put(plan_key(self.plan.digest), self.data)
        store.put(check_rows_key(self.plan.digest), self.check)
        return {"plan": self.plan.digest, "check": hashlib.sha256(self.check).hexdigest()}

    @classmethod
    def recorded(cls, store: Store, manifest: dict[str, Any]) -> FrozenPlan:
        """The plan that a manifest names. Raises OutputError when it is gone or another one."""
        digest, check = str(manifest["plan"]), _get(store, check_rows_key(manifest["plan"]))
        data = _get(store, plan_key(digest))
        if hashlib.sha256(check).hexdigest() != manifest["check"]:
            raise OutputError(f"{store.url}/{check_rows_key(digest)}: is not what this run recorded; {RESTORE}")
        return cls(checked_plan(data, digest, store.url), data, check)


def read_plan(store: Store, digest: str) -> Plan:
    """A stored plan. Raises OutputError when it is gone or another one."""
    return checked_plan(_get(store, plan_key(digest)), digest, store.url)


def checked_plan(data: bytes, digest: str, url: str) -> Plan:
    """The plan of this digest from its file's content. Raises OutputError when it is another one, naming the file."""
    try:
        return Plan.from_bytes(data, digest=digest)
    except StatisticsError as error:
        raise OutputError(f"{url}/{plan_key(digest)}: {error}; {RESTORE}") from error


def plan_of_run(url: str, storage: Storage) -> Plan:
    """The plan that a run has recorded. Raises OutputError when there is none."""
    store = open_store(url, storage)
    manifest = Ledger(store).load().manifest
    if manifest is None:
        raise OutputError(f"statistics.plan {url}: is not a run that has made its plan")
    return read_plan(store, manifest["plan"])


def _get(store: Store, key: str) -> bytes:
    data = store.get(key)
    if data is None:
        raise OutputError(f"{store.url}/{key}: is missing; {RESTORE}")
    return data
