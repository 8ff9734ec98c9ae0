"""Read the row groups of a unit: needed columns only, rows of the filter only.

A row group whose bytes can be read but not parsed becomes one `BadRow`. If storage does not return the bytes, reading
waits, and then raises StoreUnavailable; this is never a bad row. A file that has changed since it was listed is a
`DatasetError` and ends the run. No decoding of images, no threads, no Ray.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.datasets.columns import DatasetSpec, check_schema, kept_columns, plain, plain_type
from pcace_dist.datasets.row_filter import RowFilter
from pcace_dist.datasets.rows import BadRow
from pcace_dist.datasets.stored_parquet import StoredParquet, WrongBytes
from pcace_dist.datasets.units import RowGroupRef
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Changed, Storage, StoredFile, first_line

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RowGroup:
    """The kept rows of one row group.

    `table` has the needed columns under their names, the image as plain binary; `rows` int64 (n,): rows in
    the file; `filtered`: rows that the filter removed; `bytes_read`: stored bytes of the columns that were
    read.
    """

    ref: RowGroupRef
    table: pa.Table
    rows: np.ndarray[Any, np.dtype[np.int64]]
    filtered: int
    bytes_read: int


def read_row_groups(
    row_groups: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage
) -> Iterator[RowGroup | BadRow]:
    """The row groups in order.

    Raises DatasetError when a file is gone, has changed or has another schema; StoreUnavailable.
    """
    files = _Files(spec, storage)
    for ref in row_groups:
        yield _read(ref, files)


def count_kept(row_groups: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage) -> list[int]:
    """Rows of each row group that the filter keeps, from the filter's columns alone; 0 where these cannot be parsed.

    Raises as `read_row_groups`.
    """
    if not spec.filter:
        return [ref.rows for ref in row_groups]
    files = _Files(spec, storage)
    return [_count(ref, files) for ref in row_groups]


def kept_values(column: str, row_groups: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage) -> set[object]:
    """Values of a column (null is one) in the rows that the filter keeps; none from row groups that cannot be parsed.

    Raises as `read_row_groups`.
    """
    files, values = _Files(spec, storage), set[object]()
    for ref in row_groups:
        with contextlib.suppress(WrongBytes):
            values |= _of_the_listing(ref, partial(_values, column, ref, files))
    return values


def _values(column: str, ref: RowGroupRef, files: _Files) -> set[object]:
    return files.open(ref).values(ref, column)


def _read(ref: RowGroupRef, files: _Files) -> RowGroup | BadRow:
    try:
        return _of_the_listing(ref, lambda: files.open(ref).read(ref))
    except WrongBytes as wrong:
        return BadRow(ref.key, ref.row_group, None, None, "read", f"row group unreadable: {wrong}", ref.rows)


def _count(ref: RowGroupRef, files: _Files) -> int:
    try:
        return _of_the_listing(ref, lambda: len(files.open(ref).kept(ref)))
    except WrongBytes:
        return 0


def _of_the_listing(ref: RowGroupRef, read: Callable[[], T]) -> T:
    """The result of `read`. Raises DatasetError where the file is gone, or is no longer the one that was listed."""
    try:
        return read()
    except FileNotFoundError:
        raise DatasetError(f"dataset.path: {ref.key} is gone since the run began") from None
    except Changed:
        raise DatasetError(f"dataset.path: {ref.key} has changed since the run began") from None
    except OSError as error:
        raise DatasetError(f"dataset.path: {first_line(error)}") from None


class _Files:
    """Keeps the footer of the file that the last row group came from."""

    def __init__(self, spec: DatasetSpec, storage: Storage) -> None:
        self.spec, self.storage = spec, storage
        self.url: str | None = None
        self.current: _OpenFile | None = None

    def open(self, ref: RowGroupRef) -> _OpenFile:
        if self.current is None or self.url != ref.url:
            self.current, self.url = None, ref.url
            self.current = _OpenFile(ref, self.spec, self.storage)
        return self.current


class _OpenFile:
    """One Parquet file. Only bytes of the version that was listed are ever used."""

    def __init__(self, ref: RowGroupRef, spec: DatasetSpec, storage: Storage) -> None:
        self.spec = spec
        self.file = StoredParquet(StoredFile(ref.url, ref.size, ref.version), storage)
        schema = self.schema = self.file.schema
        check_schema(spec, schema, ref.key)
        self.image_leaf = f"{spec.image}.bytes" if pa.types.is_struct(schema.field(spec.image).type) else spec.image
        self.filter = RowFilter(spec.filter, lambda name: plain_type(schema.field(name).type))

    def kept(self, ref: RowGroupRef) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Positions in the row group that the filter keeps."""
        return self._filtered(ref)[0]

    def values(self, ref: RowGroupRef, column: str) -> set[object]:
        """Values of a column in the rows of a row group that the filter keeps."""
        column_values = plain(self.file.read([ref.row_group], [column]).column(column))
        return set(column_values.take(self.kept(ref)).unique().to_pylist())

    def _filtered(self, ref: RowGroupRef) -> tuple[np.ndarray[Any, np.dtype[np.int64]], pa.Table]:
        """Positions in the row group that the filter keeps, and the filter's columns, which need not be read again."""
        if not self.filter:
            return np.arange(ref.rows), pa.table({})
        if self.filter.rules_out(self.file.metadata, ref.row_group):
            return np.arange(0), pa.table({})
        table = self.file.read([ref.row_group], self.filter.columns)
        return np.flatnonzero(self.filter.mask(table.column, table.num_rows)), table

    def read(self, ref: RowGroupRef) -> RowGroup:
        positions, filter_columns = self._filtered(ref)
        kept = kept_columns(self.spec, self.schema) if self.spec.keep else []
        names = list(dict.fromkeys([*(column for _, column in self.spec.roles()), *kept]))
        if not len(positions):
            empty = pa.table({name: pa.nulls(0) for name in names})
            return RowGroup(ref, empty, positions, ref.rows, 0)
        leaves = {name: self.image_leaf if name == self.spec.image else name for name in names}
        missing = [leaf for name, leaf in leaves.items() if name not in filter_columns.column_names]
        table = self.file.read([ref.row_group], missing)
        if table.num_rows != ref.rows:
            raise WrongBytes(f"{table.num_rows} rows where the footer says {ref.rows}")
        table = pa.table(
            {
                name: self._values(filter_columns if name in filter_columns.column_names else table, name)
                for name in names
            }
        )
        if len(positions) < ref.rows:
            table = table.take(positions)
        return RowGroup(
            ref,
            table,
            positions + ref.first_row,
            ref.rows - len(positions),
            self._stored(ref.row_group, set(leaves.values())),
        )

    def _values(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        column = table.column(name)
        if name == self.spec.image and pa.types.is_struct(column.type):
            column = pc.struct_field(column, "bytes")  # a null struct gives null bytes
        return plain(column)

    def _stored(self, row_group: int, leaves: set[str]) -> int:
        meta = self.file.metadata.row_group(row_group)
        chunks = (meta.column(i) for i in range(meta.num_columns))
        lists = set(self.spec.vectors)  # whose only leaf is below them
        return sum(
            chunk.total_compressed_size
            for chunk in chunks
            if chunk.path_in_schema in leaves or chunk.path_in_schema.partition(".")[0] in lists
        )
