"""What every source of `pcace pack` is made of: rows, faults, and portions that can be read anywhere.

A `Source` is known from a listing: how many items, how large each. A `Portion` is a range of its items, small enough to
be sent to another machine, and reads its rows lazily. Knows nothing of shards, models or Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from pcace_dist.datasets.paths import Fault
from pcace_dist.packing.class_names import ClassNames
from pcace_dist.storage.files import Storage, first_line, split

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


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
