"""The line of runs that a schedule has published, as `pcace history` and the report show it. Reads files only."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import Any

from pcace_dist.datasets.storage import Storage, normalised
from pcace_dist.errors import UserError

_NAME = re.compile(r"history/(\d{8})\.json$")


@dataclass(frozen=True)
class Entry:
    """One published run. `run` is its folder below the output; `why` it was made; `previous` what it was compared with.

    verdict, kendall, overlap, moved, judged: against the previous one, None for the first and where not comparable.
    drift: thresholds that were crossed. exit_code: of the tick that published it.
    """

    n: int
    run: str
    published: str
    why: str
    fingerprint: str
    weights: str
    data: str
    images: int
    exit_code: int
    previous: str | None = None
    verdict: str | None = None
    kendall: float | None = None
    overlap: float | None = None
    moved: int | None = None
    judged: int | None = None
    drift: tuple[str, ...] = ()

    @staticmethod
    def from_json(value: dict[str, Any]) -> Entry:
        known = {field.name: value[field.name] for field in fields(Entry) if field.name in value}
        return Entry(**known | {"drift": tuple(value.get("drift", ()))})


@dataclass(frozen=True)
class History:
    """All entries of an output, the first first, the run that counts now, and the runs that are still kept."""

    path: str
    entries: tuple[Entry, ...]
    latest: str | None
    kept: frozenset[str]


def read_history(path: str, storage: Storage | None = None) -> History:
    """The history of an output of `pcace rerank`. Raises UserError when there is none."""
    storage = storage or Storage({})
    path = normalised(path)
    path = path.rstrip("/")
    try:
        found = [file.url for file in storage.list(f"{path}/history")]
        entries = [Entry.from_json(json.loads(storage.read_bytes(url))) for url in found if _NAME.search(url)]
        latest = json.loads(storage.read_bytes(f"{path}/latest.json"))["run"]
    except FileNotFoundError:
        raise UserError(f"{path}: holds no history; is it the output of `pcace rerank`?") from None
    except OSError as error:
        raise UserError(str(error)) from None
    kept = {entry.run for entry in entries if storage.stat(f"{path}/{entry.run}/summary.json") is not None}
    return History(path, tuple(sorted(entries, key=lambda entry: entry.n)), latest, frozenset(kept))
