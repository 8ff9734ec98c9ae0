"""Watches a run that has not ended: its status, and whether its driver lives (docs/protocol.md, item 4)."""

from __future__ import annotations

import threading

from pcace_dist.ledger.lease import LeaseObserver, LeaseStatus
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.run.status import RunStatus, status_by
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import open_store


class Watch:
    """Of one run. Records that were read are not read again. For several threads."""

    def __init__(self, path: str, storage: Storage) -> None:
        self._path = path
        self._store = open_store(path, storage)
        self._ledger = Ledger(self._store)
        self._lock = threading.Lock()
        self._observer: tuple[int, LeaseObserver] | None = None  # epoch, who watches its lease
        self.status: RunStatus | None = None  # at the last look

    @property
    def opened_at(self) -> float | None:
        """When the run was last taken, as far as it was looked at; seconds since 1970."""
        return self._ledger.state.opened_at

    def look(self) -> tuple[RunStatus, LeaseStatus]:
        """The status now, and what is known of the lease. Raises PcaceError, as `status_of` does."""
        with self._lock:
            self.status = status = status_by(self._path, self._store, self._ledger)
            state = self._ledger.state
            if self._observer is None or self._observer[0] != state.epoch:
                self._observer = state.epoch, LeaseObserver(self._store, state)
            lease = self._observer[1].check()
            if lease.liveness == "held":  # from here on it must move again
                self._observer = state.epoch, LeaseObserver(self._store, state)
            return status, lease
