"""What every source of `pcace pack` is made of: rows, faults, and portions that can be read anywhere.

A `Source` is known from a listing: how many items, how large each. A `Portion` is a range of its items, small enough to
be sent to another machine, and reads its rows lazily. Knows nothing of shards, models or Ray.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from pcace_dist.datasets.class_names import ClassNames
from pcace_dist.datasets.storage import Storage, StoredFile, first_line, split

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
READERS = 16
DETAIL = re.compile(r"\s*\(.*\)|'[^']*'|\"[^\"]*\"")
ESCAPED = re.compile(r"\\x[0-9a-f]{2}")

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """Something of the source that could not be packed."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def by_reason(faults: Iterable[Fault]) -> dict[str, list[str]]:
    """Names of what was left out by reason, the most frequent first. What a reason tells of one file alone, in
    brackets or quotes, does not count."""
    found: dict[str, list[str]] = {}
    for fault in faults:
        reason = " ".join(DETAIL.sub("", fault.reason).split())
        found.setdefault(reason, []).append(fault.name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


@dataclass(frozen=True, slots=True)
class Row:
    """One image and its columns: a dict of the others, or one row of Arrow with all of them, image included. `dropped`:
    names of values that are no columns."""

    path: str
    data: bytes
    cells: dict[str, Any] | pa.RecordBatch
    dropped: tuple[str, ...] = ()


class Portion(Protocol):
    """A range of a source's items; picklable. Two readings give the same rows and faults in the same order."""

    def rows(self, storage: Storage) -> Iterator[Row | Fault]: ...


@dataclass(frozen=True)
class Source:
    """What is to be packed. An item is an image; of tars, whose content is not known from a listing, a file.

    `schema` is that of the shards; the class columns (`classes.columns()`) are filled in from `label` when a shard is
    written. `sizes` are the items' bytes as far as the listing tells. `identity` names the content. `left_out`: files
    that are no items. Of class folders: `labels` has the class index of each, `images` the items in each.
    """

    kind: str
    schema: pa.Schema
    identity: tuple[tuple[str, int, str], ...]
    sizes: Sequence[int]
    portion: Callable[[int, int], Portion]
    counted: bool = True
    classes: ClassNames | None = None
    features: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_out: tuple[Fault, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int | None:
        """Rows and faults in all, where that is known before reading."""
        return len(self.sizes) if self.counted else None


def read_image(storage: Storage, url: str, path: str, cells: dict[str, Any]) -> Row | Fault:
    """The row of one image file; a Fault where the storage says that it has none to give.

    Raises StoreUnavailable where storage is away, and OSError where access is denied and nothing could be read before.
    """
    try:
        return Row(path, storage.read_bytes(url), cells)
    except PermissionError as error:
        if split(url)[0] != "file" and not _its_own(storage, error):
            return _read_once_allowed(storage, url, path, cells, error)
        return Fault(path, first_line(error).removeprefix(f"{url}: "))
    except OSError as error:
        return Fault(path, first_line(error).removeprefix(f"{url}: "))


def _its_own(storage: Storage, error: PermissionError) -> bool:
    """Whether one file is refused, and not all of them: another that was read before can be read still."""
    gives = storage.still_gives()
    if gives is None:
        raise error
    return gives


def _read_once_allowed(
    storage: Storage, url: str, path: str, cells: dict[str, Any], error: PermissionError
) -> Row | Fault:
    """The row of a file once the storage gives what it gave before."""
    with storage.patience.outage(url) as wait:
        while wait.on(error):
            if storage.still_gives():
                return read_image(storage, url, path, cells)
        raise wait.ended(error) from error


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
