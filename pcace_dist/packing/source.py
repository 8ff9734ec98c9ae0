"""The parts of every source of `pcace pack`: rows, files left out, and slices that can be read anywhere.

A `Source` comes from a listing: it knows the number of items and their sizes. A `SourceSlice` is a range of its items,
small enough to be sent to another machine, and reads its rows lazily. Knows nothing of shards, models or Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa

from pcace_dist.datasets.paths import Skipped
from pcace_dist.errors import DatasetError
from pcace_dist.packing.class_names import ClassNames
from pcace_dist.storage.files import Storage, StoredFile, first_line, split

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True, slots=True)
class Row:
    """One image and its columns. `cells`: a dict of the other columns, or one row of Arrow with all columns, including
    the image. `dropped`: names of values that do not become columns."""

    path: str
    data: bytes
    cells: dict[str, Any] | pa.RecordBatch
    dropped: tuple[str, ...] = ()


class SourceSlice(Protocol):
    """A range of a source's items; picklable. Reading twice gives the same rows and Skipped in the same order."""

    def rows(self, storage: Storage) -> Iterator[Row | Skipped]: ...


@dataclass(frozen=True)
class Source:
    """What is to be packed. An item is an image, or a whole tar, because a listing does not tell what is in a tar.

    `schema`: of the shards; the class columns (`classes.columns()`) are filled in from `label` when a shard is written.
    `sizes`: the items' bytes, as far as the listing tells. `identity`: identifies the content. `left_out`: files that
    are no items. For class folders: `labels` has the class index of each, `images` the number of items in each.
    """

    kind: str
    schema: pa.Schema
    identity: tuple[tuple[str, int, str], ...]
    sizes: Sequence[int]
    slice: Callable[[int, int], SourceSlice]
    counted: bool = True
    classes: ClassNames | None = None
    features: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_out: tuple[Skipped, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int | None:
        """The total number of rows and Skipped; None where it is unknown before reading."""
        return len(self.sizes) if self.counted else None


def read_image(storage: Storage, url: str, path: str, cells: dict[str, Any]) -> Row | Skipped:
    """The row of one image file; a Skipped where the file cannot be read although storage works.

    Raises StoreUnavailable where storage is away, and OSError where access is denied and no file could be read before.
    """
    try:
        return Row(path, storage.read_bytes(url), cells)
    except PermissionError as error:
        if split(url)[0] != "file" and not _its_own(storage, error):
            return _read_once_allowed(storage, url, path, cells, error)
        return Skipped(path, first_line(error).removeprefix(f"{url}: "))
    except OSError as error:
        return Skipped(path, first_line(error).removeprefix(f"{url}: "))


def _its_own(storage: Storage, error: PermissionError) -> bool:
    """Whether access is denied to this file only: a file that was read before can still be read."""
    still_gives = storage.still_gives()
    if still_gives is None:
        raise error
    return still_gives


def _read_once_allowed(
    storage: Storage, url: str, path: str, cells: dict[str, Any], error: PermissionError
) -> Row | Skipped:
    """The row of a file, after waiting until files that could be read before can be read again."""
    with storage.patience.outage(url) as wait:
        while wait.on(error):
            if storage.still_gives():
                return read_image(storage, url, path, cells)
        raise wait.ended(error) from error


@dataclass(frozen=True)
class Reading:
    """The user's choices for a source that can be read in more than one way.

    `image_key`: which member of a tar's samples is the image (jpg; or `jpg;png`, the first one that exists). `encoding`
    and `types` (column -> text or number): for CSV files. `labels`: `order` or `number`, for folders named by numbers.
    `allow_empty_classes`: a class keeps its label even if none of its files is packed. `allow_outside`: a CSV may name
    files outside its own folder.
    """

    image_key: str | None = None
    encoding: str = "utf-8"
    types: Mapping[str, str] = field(default_factory=dict)
    labels: str | None = None
    allow_empty_classes: bool = False
    allow_outside: bool = False


@dataclass(frozen=True)
class Request:
    """What the user wants to pack: a path, URL or glob, its storage, and the options."""

    path: str
    storage: Storage
    image_column: str = "image"
    classes: ClassNames | None = None
    reading: Reading = field(default_factory=Reading)


def is_one_file(files: list[StoredFile], source: str) -> bool:
    """Whether the source is a file, not a folder."""
    return len(files) == 1 and split(files[0].url) == split(source)


def with_class_columns(original: Source, classes: ClassNames, source: str) -> Source:
    """The source with class columns, which are filled in by the index in `label`."""
    if "label" not in original.schema.names or not pa.types.is_integer(original.schema.field("label").type):
        raise DatasetError(f"{source}: --classes needs a column 'label' with class indices; there is none")
    for name in classes.columns():
        if name in original.schema.names:
            raise DatasetError(f"{source}: has a column {name!r} already; leave --classes out, or rename it")
    return replace(original, schema=pa.schema([*original.schema, *classes.fields()]), classes=classes)
