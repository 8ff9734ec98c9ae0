"""Paths of files below a folder, and what is said of files that are left out. Pure, but for `in_order`."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pcace_dist.storage.files import Storage, StoredFile, split

READERS = 16
DETAIL = re.compile(r"\s*\(.*\)|'[^']*'|\"[^\"]*\"")
ESCAPED = re.compile(r"\\x[0-9a-f]{2}")
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Skipped:
    """Something of the source that could not be packed."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def by_reason(faults: Iterable[Skipped]) -> dict[str, list[str]]:
    """Names of what was left out by reason, the most frequent first. What a reason tells of one file alone, in
    brackets or quotes, does not count."""
    found: dict[str, list[str]] = {}
    for fault in faults:
        reason = " ".join(DETAIL.sub("", fault.reason).split())
        found.setdefault(reason, []).append(fault.name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def first_names(names: Sequence[str], most: int, total: int | None = None) -> str:
    """The first `most` names, and how many more there are of all (`total`: where `names` are not all)."""
    more = (len(names) if total is None else total) - len(names[:most])
    return ", ".join(names[:most]) + (f" and {more:,} more" if more else "")


def in_order(work: Callable[[S], T], items: Iterable[S], storage: Storage) -> Iterator[T]:
    """Results of `work` in the order of the items, a few ahead in threads; Ctrl-C ends their waits for storage."""
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
    """A file's path below the source; of the source itself its name."""
    base = split(root)[1].rstrip("/")
    path = split(url)[1]
    return path.rpartition("/")[2] if path == base else path[len(base) :].lstrip("/")


def is_hidden(key: str) -> bool:
    """True for files whose name, or a folder's on the way, begins with a dot. An underscore hides nothing: cameras and
    people name files and folders so."""
    return any(part.startswith(".") for part in key.split("/") if part not in ("", "."))


def is_underscored(key: str) -> bool:
    """True for files whose name, or a folder's on the way, begins with an underscore: readers of Parquet skip them."""
    return "/_" in f"/{key}"


def is_not_utf8(name: str) -> bool:
    """Whether the system's name of a file has bytes that are not UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def utf8_name(name: str) -> str:
    """A file's name as text that can be written and printed. Bytes that are not UTF-8 become `\\xe9`; in such names,
    and in those that look so already, `\\` becomes `\\\\`, so that no two names become one. Others stay as they are."""
    if not is_not_utf8(name) and not ESCAPED.search(name):
        return name
    return name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def identity_of(files: Iterable[StoredFile], root: str) -> tuple[tuple[str, int, str], ...]:
    """Name, size and version of every file."""
    return tuple((utf8_name(key_below(f.url, root)), f.size, f.version) for f in files)
