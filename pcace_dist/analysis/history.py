"""The history of the runs that a schedule has published, for `pcace history` and the report. Only reads files."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from pcace_dist.artifacts.checked import RESTORE, fetching, parse_json, parsing, read_checked
from pcace_dist.artifacts.run import Run
from pcace_dist.errors import UserError
from pcace_dist.storage.files import Storage, normalised

_NAME = re.compile(r"history/(\d{8})\.json$")


@dataclass(frozen=True)
class Entry:
    """One published run. run: its folder below the output; why: the reason for the run; previous: the run that it was
    compared with.

    verdict, kendall, overlap, moved, judged: from that comparison; None for the first run, and where the runs are not
    comparable. drift: the thresholds that were crossed. exit_code: of the tick that published it.
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

    @property
    def moved_in_words(self) -> str:
        """`3 of 56`; empty where nothing was compared."""
        return "" if self.moved is None else f"{self.moved:,} of {self.judged:,}"

    @staticmethod
    def from_json(value: dict[str, Any]) -> Entry:
        """Raises KeyError, TypeError or ValueError for an entry that no tick can have written."""
        for name, kinds in _KINDS.items():
            if name in value and not isinstance(value[name], kinds):
                raise ValueError(f"{name} is {value[name]!r}")
        entries = {field.name: value[field.name] for field in fields(Entry) if field.name in value}
        return Entry(**entries | {"drift": tuple(map(str, value.get("drift", ())))})


_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = (
    dict.fromkeys(("n", "images", "exit_code"), (int,))
    | dict.fromkeys(("run", "published", "why", "fingerprint", "weights", "data"), (str,))
    | dict.fromkeys(("previous", "verdict"), (str, _NONE))
    | dict.fromkeys(("kendall", "overlap"), (float, int, _NONE))
    | dict.fromkeys(("moved", "judged"), (int, _NONE))
    | {"drift": (list, tuple)}
)


@dataclass(frozen=True)
class History:
    """All entries of an output, the oldest first; the latest run; and the runs that are still kept."""

    path: str
    entries: tuple[Entry, ...]
    latest: str | None
    kept: frozenset[str]


def read_history(path: str, storage: Storage | None = None) -> History:
    """The history of an output of `pcace rerank`. Raises UserError when there is none."""
    storage = storage or Storage({})
    path = normalised(path)
    path = path.rstrip("/")
    latest = Run(path, storage).published()
    if latest is None:
        raise UserError(f"{path}: holds no history; is it the output of `pcace rerank`?")
    with fetching(f"{path}/history", RESTORE):
        urls = [file.url for file in storage.list(f"{path}/history")]
    entries = [_entry(url, storage) for url in urls if _NAME.search(url)]
    with fetching(path, RESTORE):
        kept = {entry.run for entry in entries if storage.stat(f"{path}/{entry.run}/summary.json") is not None}
    return History(path, tuple(sorted(entries, key=lambda entry: entry.n)), latest, frozenset(kept))


def _entry(url: str, storage: Storage) -> Entry:
    data = read_checked(storage, url, None)
    with parsing(url):
        return Entry.from_json(parse_json(data, url))
