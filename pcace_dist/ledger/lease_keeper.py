"""Keeps a lease alive in a thread of its own, however long the coordinator is busy with something else. No Ray."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from pcace_dist.errors import PcaceError, StoreUnavailable, TakenOver
from pcace_dist.ledger.lease import Lease

log = logging.getLogger(__name__)

RELEASES = 3  # tries to release the lease


class LeaseKeeper:
    """While entered, renews the lease when it is due; leaving releases it, unless the run was taken over."""

    def __init__(self, lease: Lease, *, every: float = 1.0) -> None:
        self._lease = lease
        self._every = every
        self._end = threading.Event()
        self._taken_over: TakenOver | None = None
        self._thread = threading.Thread(target=self._keep, name="pcace-lease", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        try:
            self._lease.write()
        except StoreUnavailable as error:  # the thread tries again
            log.warning("the lease cannot be written: %s", error)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if not isinstance(error, TakenOver):
            self._release()

    def _release(self) -> None:
        for tries_left in reversed(range(RELEASES)):
            try:
                self._lease.release()
                return
            except PcaceError as failed:  # the store is gone; the next driver waits until the lease is dead
                if not tries_left:
                    log.warning("the lease could not be released: %s", failed)
            time.sleep(0.2)

    def check(self) -> None:
        """Raises TakenOver once a later epoch has the lease."""
        if self._taken_over is not None:
            raise self._taken_over

    def _keep(self) -> None:
        failing = False
        while not self._end.wait(self._every):
            try:
                self._lease.renew_if_due()
                failing = False
            except TakenOver as taken:
                self._taken_over = taken
                return
            except PcaceError as error:
                if not failing:  # once for every outage
                    log.warning("the lease cannot be renewed: %s", error)
                failing = True
