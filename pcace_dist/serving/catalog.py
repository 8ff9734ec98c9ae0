"""The runs and schedules below a folder, kept between two requests.

A look at the folder is made in the background, at most every few seconds. Whoever asks waits for it for a moment and
then takes what is known. A run is read again where its folder has changed, and while it is not settled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeAlias

from pcace_dist.analysis.history import Entry, History, read_history
from pcace_dist.artifacts.checked import MALFORMED
from pcace_dist.artifacts.run import Run
from pcace_dist.errors import OutputError, PcaceError
from pcace_dist.serving.finding import Found, below, find, link_among
from pcace_dist.serving.rows import RunRow, State, read_row
from pcace_dist.serving.watch import Watch
from pcace_dist.storage.files import Storage, first_line
from pcace_dist.storage.folder import Folder, look_into

log = logging.getLogger(__name__)

THREADS = 16
FRESH = 5.0  # seconds for which a look is good
SETTLED = 60.0  # seconds for which the folder of a run that is done is not looked into again
PATIENCE = 0.5  # seconds that a page waits for a look

Version: TypeAlias = frozenset[tuple[str, int, str]]


@dataclass(frozen=True)
class ScheduleRow:
    """A schedule in the list; history is None where it cannot be read, and `reason` says why."""

    name: str
    history: History | None
    reason: str = ""

    @property
    def last(self) -> Entry | None:
        """The entry of the current run."""
        if self.history is None:
            return None
        return next((entry for entry in reversed(self.history.entries) if entry.run == self.history.latest), None)

    def path_of(self, run: str) -> str:
        """The path of one of its runs below the folder that is served."""
        return below(self.name, run) if self.name else run


@dataclass(frozen=True)
class Look:
    """What is known now. unread: runs that were found and are still to be read. notes: what is left out, and why."""

    runs: tuple[RunRow, ...]
    schedules: tuple[ScheduleRow, ...]
    unread: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Kept:
    folder: Folder
    looked: float
    row: RunRow

    @property
    def is_unsettled(self) -> bool:
        """Whether the run may change without a change in its folder's own files."""
        return self.row.state in (State.RUNNING, State.UNREADABLE)


class Catalog:
    """Reads what lies below `root`, a local folder or an s3:// prefix. For several threads; `close` ends its own."""

    def __init__(self, root: str, storage: Storage, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.root, self.storage, self._clock = root, storage, clock
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="serve-read")
        self._background = ThreadPoolExecutor(1, thread_name_prefix="serve-look")
        self._lock = threading.Lock()
        self._refresh: Future[None] | None = None
        self._looked = 0.0
        self._found = Found()
        self._failure = ""
        self._runs: dict[str, _Kept] = {}
        self._watches: dict[str, Watch] = {}
        self._schedules: dict[str, tuple[Version, ScheduleRow]] = {}

    def look(self, patience: float = PATIENCE) -> Look:
        """What is known after at most `patience` seconds."""
        with self._lock:
            if self._refresh is None or (self._refresh.done() and self._clock() - self._looked >= FRESH):
                self._refresh = self._background.submit(self._look_again)
        wait([self._refresh], patience)
        found, kept = self._found, dict(self._runs)
        runs = tuple(kept[name].row for name in found.runs if name in kept)
        schedules = tuple(self._schedules[name][1] for name in found.schedules if name in self._schedules)
        notes = (*found.notes, *([self._failure] if self._failure else []))
        return Look(runs, schedules, len(found.runs) - len(runs), notes)

    def run(self, name: str) -> RunRow | None:
        """The row of one run as it is now: only its own folder is looked into. None where there is no such run."""
        if name not in self._found.runs and all(row.name != name for row in self.look(60).runs):
            return None
        return self._read(name, look_into(self.storage, below(self.root, name)))

    def open(self, name: str) -> Run:
        """A run that `run` or `look` has named. Raises OutputError where a file of it is a link: what is elsewhere is
        not read."""
        link = link_among(self.folder(name))
        if link is not None:
            raise OutputError(f"{name or '.'}: {link} is a symbolic link; links are not followed")
        return self._opened(name)

    def _opened(self, name: str) -> Run:
        return Run(below(self.root, name), self.storage)

    def folder(self, name: str) -> Folder:
        """What lay in a run's folder when it was last read."""
        kept = self._runs.get(name)
        if kept is None:
            raise OutputError(f"{name or '.'}: is gone")
        return kept.folder

    def watch(self, name: str) -> Watch:
        """Who watches a run."""
        with self._lock:
            if name not in self._watches:
                self._watches[name] = Watch(below(self.root, name), self.storage)
            return self._watches[name]

    def close(self) -> None:
        self.storage.patience.stop()
        for pool in (self._background, self._pool):
            pool.shutdown(cancel_futures=True)

    # -- a look

    def _look_again(self) -> None:
        try:
            found = find(self.storage, self.root, self._pool, self._known)
            self._found, self._failure = found, ""
            self._forget(found)
            list(self._pool.map(self._read, found.runs, found.runs.values()))
            list(self._pool.map(self._read_schedule, found.schedules, found.schedules.values()))
        except Exception as error:
            if not isinstance(error, OSError | PcaceError):
                log.exception("%s: cannot be looked into", self.root)
            self._failure = first_line(error) or type(error).__name__
        finally:
            self._looked = self._clock()

    def _known(self, name: str) -> Folder | None:
        kept = self._runs.get(name)
        is_settled = kept is not None and kept.row.is_done and self._clock() - kept.looked < SETTLED
        return kept.folder if kept is not None and is_settled else None

    def _forget(self, found: Found) -> None:
        for kept in (self._runs, self._watches):
            for name in kept.keys() - found.runs.keys():
                kept.pop(name, None)

    def _read(self, name: str, folder: Folder) -> RunRow:
        before = self._runs.get(name)
        if before is not None and folder is before.folder:
            return before.row
        if before is not None and _version(before.folder, "job.yaml") != _version(folder, "job.yaml"):
            self._watches.pop(name, None)  # it is another run, in the same place
        if before is None or before.is_unsettled or _version(before.folder) != _version(folder):
            row = read_row(name, self._opened(name), folder, self.watch(name))
        else:
            row = before.row
        self._runs[name] = _Kept(folder, self._clock(), row)
        return row

    def _read_schedule(self, name: str, folder: Folder) -> None:
        version, before = _version(folder), self._schedules.get(name)
        if before is None or before[0] != version or before[1].history is None:
            self._schedules[name] = version, self._schedule(name)

    def _schedule(self, name: str) -> ScheduleRow:
        try:
            return ScheduleRow(name, read_history(below(self.root, name), self.storage))
        except (PcaceError, *MALFORMED) as error:
            return ScheduleRow(name, None, first_line(error))


def _version(folder: Folder, *names: str) -> Version:
    """What a listing says of a folder's files, or of those with these names."""
    files = folder.files.items()
    return frozenset((name, file.size, file.version) for name, file in files if not names or name in names)
