"""Which runs and schedules lie below a folder: by the names in it, level by level; nothing is opened.

A folder is a run where it holds a ledger, or results that were copied without one. Nothing is looked for inside a run.
A schedule's runs are below its `runs`. Hidden folders and symbolic links are not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice

from pcace_dist.progress.terminal import is_not_utf8
from pcace_dist.storage.files import Storage, first_line
from pcace_dist.storage.folder import Folder, look_into

LEDGER = "ledger"
DEEPEST = 8  # levels below the folder that is served
MOST_FOLDERS = 20_000  # that are looked into
_READ = (".json", ".yaml", ".parquet", ".html")  # endings of the files of a run that a page reads


@dataclass
class Found:
    """Folders by their path below the one that is served ("" for itself). notes: what was not looked into."""

    runs: dict[str, Folder] = field(default_factory=dict)
    schedules: dict[str, Folder] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find(storage: Storage, root: str, pool: Executor, known: Callable[[str], Folder | None]) -> Found:
    """All runs and schedules below `root`.

    known: a folder that need not be looked into again. Raises OSError where the root cannot be read, StoreUnavailable.
    """
    found, looked = Found(), 0

    def look(name: str) -> Folder:
        try:
            return known(name) or look_into(storage, below(root, name))
        except OSError as error:
            if not name:
                raise
            found.notes.append(f"{name}: left out: {first_line(error)}")
            return Folder((), {})

    level = [""]
    for _ in range(DEEPEST + 1):
        wanted = list(islice(level, MOST_FOLDERS - looked))
        looked += len(wanted)
        if len(wanted) < len(level):
            found.notes.append(f"more than {MOST_FOLDERS:,} folders: serve one further down to see all of its runs")
        folders = zip(wanted, pool.map(look, wanted), strict=True)
        level = [inner for name, folder in folders for inner in _enter(name, folder, found)]
    if level:
        found.notes.append(f"folders more than {DEEPEST} levels down were not looked into")
    return found


def below(root: str, name: str) -> str:
    """The URL of a folder by its path below the root."""
    return f"{root.rstrip('/')}/{name}" if name else root


def link_among(folder: Folder) -> str | None:
    """A file of a run, or its ledger, that is a symbolic link."""
    return min((name for name in folder.links if name == LEDGER or name.endswith(_READ)), default=None)


def _enter(name: str, folder: Folder, found: Found) -> Iterable[str]:
    """Note what a folder is; the folders in it that are to be looked into."""
    if is_run(folder):
        found.runs[name] = folder
        return ()
    if is_schedule(folder):
        found.schedules[name] = folder
        return _inner(name, [inner for inner in folder.folders if inner == "runs"], found)
    return _inner(name, folder.folders, found)


def is_run(folder: Folder) -> bool:
    names = {*folder.folders, *folder.files, *folder.links}
    return LEDGER in names or {"summary.json", "rankings.parquet"} <= names


def is_schedule(folder: Folder) -> bool:
    return "latest.json" in folder.files or {"schedule", "runs"} <= set(folder.folders)


def _inner(name: str, folders: Iterable[str], found: Found) -> Iterator[str]:
    for inner in folders:
        if is_not_utf8(inner):
            found.notes.append(f"{name or '.'}: a folder is left out whose name is not UTF-8")
        else:
            yield f"{name}/{inner}" if name else inner
