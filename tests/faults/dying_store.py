"""A local store that kills its process in the middle of one ledger write.

At one of two points: `before_link` (the synced temporary file is there, the record's name is not) or `after_link` (the
name is there, the caller was not told).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from pcace_dist.storage.store import LocalStore, S3Clients, Store


class DyingStore(LocalStore):
    """Ends its process with SIGKILL at one point of the write of the first record of a kind."""

    def __init__(self, root: str, kind: str, point: str) -> None:
        super().__init__(root)
        self._kind = kind
        self._point = point

    @contextlib.contextmanager
    def _temporary(self, path: Path, data: bytes) -> Iterator[Path]:
        with super()._temporary(path, data) as temporary:
            if self._is_due(path, temporary) and self._point == "before_link":
                os.kill(os.getpid(), signal.SIGKILL)
            yield temporary

    def _settle(self, path: Path) -> None:
        if self._is_due(path, path) and self._point == "after_link":
            os.kill(os.getpid(), signal.SIGKILL)
        super()._settle(path)

    def _is_due(self, path: Path, content: Path) -> bool:
        if path.parent.name != "ledger" or path.name.startswith("."):  # a probe is no record
            return False
        return bool(json.loads(content.read_bytes())["kind"] == self._kind)


def die_in(kind: str, point: str) -> None:
    """From here on, drivers of this process open stores that die so."""
    from pcace_dist.run import rank as rank_module

    def open_store(url: str, storage: S3Clients | None = None) -> Store:
        return DyingStore(url, kind, point)

    rank_module.open_store = open_store  # type: ignore[attr-defined]
