"""What every source of `pcace pack` is made of: rows, faults, and portions that can be read anywhere.

A `Source` is known from a listing: how many items, how large each. A `Portion` is a range of its items, small enough to
be sent to another machine, and reads its rows lazily. Knows nothing of shards, models or Ray.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from pcace_dist.datasets.class_names import ClassNames
from pcace_dist.datasets.storage import Storage, StoredFile, first_line, split

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
READERS = 16

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """Something of the source that could not be packed."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Row:
    """One image and its columns: a dict of the others, or one row of Arrow with all of them, image included."""

    path: str
    data: bytes
    cells: dict[str, Any] | pa.RecordBatch


class Portion(Protocol):
    """A range of a source's items; picklable. Two readings give the same rows and faults in the same order."""

    def rows(self, storage: Storage) -> Iterator[Row | Fault]: ...


@dataclass(frozen=True)
class Source:
    """What is to be packed. An item is an image; of tars, whose content is not known from a listing, a file.

    `schema` is that of the shards; the class columns (`classes.columns()`) are filled in from `label` when a shard is
    written. `sizes` are the items' bytes as far as the listing tells. `identity` names the content.
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
    """True for files whose name, or a folder's on the way, begins with a dot or an underscore."""
    return any(part.startswith((".", "_")) for part in key.split("/") if part not in ("", "."))


def identity_of(files: Iterable[StoredFile], root: str) -> tuple[tuple[str, int, str], ...]:
    """Name, size and version of every file."""
    return tuple((key_below(f.url, root), f.size, f.version) for f in files)
