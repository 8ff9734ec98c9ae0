"""Paths of files below a folder, and the names and reasons of files that are left out. Pure, except `in_order`."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pcace_dist.progress.terminal import is_not_utf8
from pcace_dist.storage.files import Storage, StoredFile, split

READERS = 16
DETAIL = re.compile(r"\s*\(.*\)|'[^']*'|\"[^\"]*\"")
ESCAPED = re.compile(r"\\x[0-9a-f]{2}")
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Skipped:
    """A file that is left out of a data set or pack, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def by_reason(faults: Iterable[Skipped]) -> dict[str, list[str]]:
    """The names of the files left out by reason, the most frequent reason first. Parts of a reason in brackets or
    quotes are about one file and do not count."""
    names_by_reason: dict[str, list[str]] = {}
    for fault in faults:
        reason = " ".join(DETAIL.sub("", fault.reason).split())
        names_by_reason.setdefault(reason, []).append(fault.name)
    return dict(sorted(names_by_reason.items(), key=lambda item: -len(item[1])))


def first_names(names: Sequence[str], most: int, total: int | None = None) -> str:
    """The first `most` names, and how many more there are of all (`total`: where `names` are not all)."""
    more = (len(names) if total is None else total) - len(names[:most])
    return ", ".join(names[:most]) + (f" and {more:,} more" if more else "")


def in_order(work: Callable[[S], T], items: Iterable[S], storage: Storage) -> Iterator[T]:
    """Results of `work` in the order of the items; threads work a few items ahead. Ctrl-C ends their waits for
    storage."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="pcace-pack") as pool:
        ahead: deque[Future[T]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) >= 4 * READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except KeyboardInterrupt:
            storage.patience.stop()
            raise
        finally:
            for future in ahead:
                future.cancel()


def parent_of(url: str) -> str:
    """The folder a file lies in."""
    scheme, path = split(url)
    parent = path.rpartition("/")[0]
    return (parent or "/") if scheme == "file" else f"{scheme}://{parent}"


def key_below(url: str, root: str) -> str:
    """A file's path below `root`; for the root itself, its name."""
    base = split(root)[1].rstrip("/")
    path = split(url)[1]
    return path.rpartition("/")[2] if path == base else path[len(base) :].lstrip("/")


def is_hidden(key: str) -> bool:
    """Whether the name of a file, or of a folder in its key, begins with a dot. An underscore does not hide a file:
    cameras and people use it in names."""
    return any(part.startswith(".") for part in key.split("/") if part not in ("", "."))


def is_underscored(key: str) -> bool:
    """Whether the name of a file, or of a folder in its key, begins with an underscore: readers of Parquet skip it."""
    return "/_" in f"/{key}"


def utf8_name(name: str) -> str:
    """A file's name as text that can be written and printed. Bytes that are not UTF-8 become `\\xe9`. In such names,
    and in names that contain such an escape already, `\\` becomes `\\\\`, so that different names stay different."""
    if not is_not_utf8(name) and not ESCAPED.search(name):
        return name
    return name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def identity_of(files: Iterable[StoredFile], root: str) -> tuple[tuple[str, int, str], ...]:
    """Name, size and version of every file."""
    return tuple((utf8_name(key_below(f.url, root)), f.size, f.version) for f in files)
