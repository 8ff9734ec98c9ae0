"""Read the row groups of a unit: needed columns only, rows of the filter only.

A row group whose bytes are there and wrong is handed on as one `BadRow`. Storage that does not give them is waited for
and then a StoreUnavailable, never a bad row. A file that is not the one that was listed ends the run with a
`DatasetError`. No decoding of images, no threads, no Ray.
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

    piece: RowGroupRef
    table: pa.Table
    rows: np.ndarray[Any, np.dtype[np.int64]]
    filtered: int
    bytes_read: int


def read_pieces(pieces: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage) -> Iterator[RowGroup | BadRow]:
    """The row groups in order.

    Raises DatasetError when a file is gone, has changed or has another schema; StoreUnavailable.
    """
    files = _Files(spec, storage)
    for piece in pieces:
        yield _read(piece, files)


def count_kept(pieces: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage) -> list[int]:
    """Rows of each piece that the filter keeps, from the filter's columns alone; 0 where their bytes are wrong.

    Raises as `read_pieces`.
    """
    if not spec.filter:
        return [piece.rows for piece in pieces]
    files = _Files(spec, storage)
    return [_count(piece, files) for piece in pieces]


def kept_values(column: str, pieces: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage) -> set[object]:
    """Values of a column, null being one, in the rows that the filter keeps; row groups of wrong bytes have none.

    Raises as `read_pieces`.
    """
    files, values = _Files(spec, storage), set[object]()
    for piece in pieces:
        with contextlib.suppress(WrongBytes):
            values |= _of_the_listing(piece, partial(_values, column, piece, files))
    return values


def _values(column: str, piece: RowGroupRef, files: _Files) -> set[object]:
    return files.open(piece).values(piece, column)


def _read(piece: RowGroupRef, files: _Files) -> RowGroup | BadRow:
    try:
        return _of_the_listing(piece, lambda: files.open(piece).read(piece))
    except WrongBytes as wrong:
        return BadRow(piece.key, piece.row_group, None, None, "read", f"row group unreadable: {wrong}", piece.rows)


def _count(piece: RowGroupRef, files: _Files) -> int:
    try:
        return _of_the_listing(piece, lambda: len(files.open(piece).kept(piece)))
    except WrongBytes:
        return 0


def _of_the_listing(piece: RowGroupRef, read: Callable[[], T]) -> T:
    """What `read` gives of a file that is still the one that was listed. Raises DatasetError where it is not."""
    try:
        return read()
    except FileNotFoundError:
        raise DatasetError(f"dataset.path: {piece.key} is gone since the run began") from None
    except Changed:
        raise DatasetError(f"dataset.path: {piece.key} has changed since the run began") from None
    except OSError as error:
        raise DatasetError(f"dataset.path: {first_line(error)}") from None


class _Files:
    """Keeps the footer of the file that the last piece came from."""

    def __init__(self, spec: DatasetSpec, storage: Storage) -> None:
        self.spec, self.storage = spec, storage
        self.url: str | None = None
        self.current: _OpenFile | None = None

    def open(self, piece: RowGroupRef) -> _OpenFile:
        if self.current is None or self.url != piece.url:
            self.current, self.url = None, piece.url
            self.current = _OpenFile(piece, self.spec, self.storage)
        return self.current


class _OpenFile:
    """One Parquet file. Each of its bytes is fetched from the version that was listed, or not at all."""

    def __init__(self, piece: RowGroupRef, spec: DatasetSpec, storage: Storage) -> None:
        self.spec = spec
        self.file = StoredParquet(StoredFile(piece.url, piece.size, piece.version), storage)
        schema = self.schema = self.file.schema
        check_schema(spec, schema, piece.key)
        self.image_leaf = f"{spec.image}.bytes" if pa.types.is_struct(schema.field(spec.image).type) else spec.image
        self.filter = RowFilter(spec.filter, lambda name: plain_type(schema.field(name).type))

    def kept(self, piece: RowGroupRef) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Positions in the row group that the filter keeps."""
        return self._filtered(piece)[0]

    def values(self, piece: RowGroupRef, column: str) -> set[object]:
        """Values of a column in the rows of a row group that the filter keeps."""
        held = plain(self.file.read([piece.row_group], [column]).column(column))
        return set(held.take(self.kept(piece)).unique().to_pylist())

    def _filtered(self, piece: RowGroupRef) -> tuple[np.ndarray[Any, np.dtype[np.int64]], pa.Table]:
        """Positions in the row group that the filter keeps, and the filter's columns: no bytes are fetched twice."""
        if not self.filter:
            return np.arange(piece.rows), pa.table({})
        if self.filter.rules_out(self.file.metadata, piece.row_group):
            return np.arange(0), pa.table({})
        table = self.file.read([piece.row_group], self.filter.columns)
        return np.flatnonzero(self.filter.mask(table.column, table.num_rows)), table

    def read(self, piece: RowGroupRef) -> RowGroup:
        positions, held = self._filtered(piece)
        kept = kept_columns(self.spec, self.schema) if self.spec.keep else []
        names = list(dict.fromkeys([*(column for _, column in self.spec.roles()), *kept]))
        if not len(positions):
            empty = pa.table({name: pa.nulls(0) for name in names})
            return RowGroup(piece, empty, positions, piece.rows, 0)
        leaves = {name: self.image_leaf if name == self.spec.image else name for name in names}
        missing = [leaf for name, leaf in leaves.items() if name not in held.column_names]
        table = self.file.read([piece.row_group], missing)
        if table.num_rows != piece.rows:
            raise WrongBytes(f"{table.num_rows} rows where the footer says {piece.rows}")
        table = pa.table({name: self._values(held if name in held.column_names else table, name) for name in names})
        if len(positions) < piece.rows:
            table = table.take(positions)
        return RowGroup(
            piece,
            table,
            positions + piece.first_row,
            piece.rows - len(positions),
            self._stored(piece.row_group, set(leaves.values())),
        )

    def _values(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        column = table.column(name)
        if name == self.spec.image and pa.types.is_struct(column.type):
            column = pc.struct_field(column, "bytes")  # a null struct gives null bytes
        return plain(column)

    def _stored(self, row_group: int, leaves: set[str]) -> int:
        meta = self.file.metadata.row_group(row_group)
        chunks = (meta.column(i) for i in range(meta.num_columns))
        return sum(c.total_compressed_size for c in chunks if c.path_in_schema in leaves)
