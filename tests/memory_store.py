"""A store in memory whose network is as bad as the test wants: lost answers, puts that land late or twice, crashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from pcace_dist.errors import StoreUnavailable
from pcace_dist.storage.retry import Patience
from pcace_dist.storage.store import Keys, OutcomeUnknown, Versioned


class Crash(BaseException):
    """The process is killed. No handler of ordinary exceptions may stop it."""


class Fault(Enum):
    """What happens to one operation."""

    NONE = "done, answered"
    FAIL = "not done, no answer"
    LOST = "done, no answer"
    DELAYED = "no answer, done later"
    DUPLICATED = "done, answered, and done again later"
    CRASH_BEFORE = "killed before it"
    CRASH_AFTER = "killed after it"
    CRASH_DELAYED = "killed, done later"


READ_FAULTS = (Fault.NONE, Fault.FAIL, Fault.CRASH_BEFORE)


def tries(count: int) -> Patience:
    """A patience for so many tries of one operation, which takes no time."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += 1

    return Patience(count - 1, True, clock=lambda: now[0], sleep=sleep)


@dataclass
class Bucket:
    """The objects themselves, and conditional puts that are still under way. `on_created(who, key, data)` sees each."""

    objects: dict[str, bytes] = field(default_factory=dict)
    in_flight: list[tuple[str, str, bytes]] = field(default_factory=list)
    on_created: Callable[[str, str, bytes], None] = lambda who, key, data: None

    def create(self, who: str, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        self.objects[key] = data
        self.on_created(who, key, data)
        return True

    def land(self, index: int) -> None:
        """Let a put that is under way arrive."""
        self.create(*self.in_flight.pop(index))


class MemoryStore:
    """One process's view of a bucket. `decide(operation, key)` is asked before each operation."""

    def __init__(
        self,
        bucket: Bucket | None = None,
        who: str = "me",
        decide: Callable[[str, str], Fault] = lambda operation, key: Fault.NONE,
    ) -> None:
        self.bucket = Bucket() if bucket is None else bucket
        self.who = who
        self.decide = decide
        self.operations: list[tuple[str, str]] = []
        self.patience = tries(4)

    @property
    def url(self) -> str:
        return "memory:"

    def get(self, key: str) -> bytes | None:
        self._read("get", key)
        return self.bucket.objects.get(key)

    def list(self, prefix: str = "") -> Keys:
        self._read("list", prefix)
        return sorted(key for key in self.bucket.objects if key.startswith(prefix) and not key.startswith("."))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        fault = self._fault("put_if_absent", key)
        if fault is Fault.CRASH_BEFORE:
            raise Crash
        if fault in (Fault.DELAYED, Fault.CRASH_DELAYED, Fault.DUPLICATED):
            self.bucket.in_flight.append((self.who, key, data))
        created = fault in (Fault.NONE, Fault.LOST, Fault.DUPLICATED, Fault.CRASH_AFTER) and self.bucket.create(
            self.who, key, data
        )
        if fault in (Fault.CRASH_AFTER, Fault.CRASH_DELAYED):
            raise Crash
        if fault in (Fault.FAIL, Fault.LOST, Fault.DELAYED):
            raise OutcomeUnknown(f"{key}: no answer")
        return created

    def put(self, key: str, data: bytes) -> None:
        self._read("put", key)
        self.bucket.objects[key] = data

    def read_versioned(self, key: str) -> Versioned | None:
        data = self.get(key)
        return None if data is None else Versioned(data, hashlib.sha256(data).hexdigest())

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        found = self.read_versioned(key)
        if (None if found is None else found.etag) != etag:
            return False
        self.put(key, data)
        return True

    def delete(self, key: str) -> None:
        self._read("delete", key)
        self.bucket.objects.pop(key, None)

    def discard_unfinished(self, folders: Iterable[str]) -> None:
        return None

    def _fault(self, operation: str, key: str) -> Fault:
        self.operations.append((operation, key))
        return self.decide(operation, key)

    def _read(self, operation: str, key: str) -> None:
        """An operation that is simply done or fails."""
        fault = self._fault(operation, key)
        if fault is Fault.NONE:
            return
        raise Crash if fault.name.startswith("CRASH") else StoreUnavailable(f"{key}: no answer")
