"""Read the row groups of a unit: needed columns only, rows of the filter only.

A row group whose bytes can be read but not parsed becomes one `BadRow`. If storage does not return the bytes, reading
waits, and then raises StoreUnavailable; this is never a bad row. A file that has changed since it was listed is a
`DatasetError` and ends the run. No decoding of images, no threads, no Ray.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.datasets.columns import DatasetSpec, check_schema, kept_columns, plain, plain_type
from pcace_dist.datasets.row_filter import RowFilter
from pcace_dist.datasets.rows import BadRow
from pcace_dist.datasets.stored_parquet import StoredParquet, WrongBytes
from pcace_dist.datasets.units import RowGroupRef
from pcace_dist.datasets.values.image_files import is_image_file, read_image_files
from pcace_dist.datasets.values.partitions import partition_column, with_partitions
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Changed, Storage, StoredFile, first_line

T = TypeVar("T")
Positions: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Choose: TypeAlias = Callable[[RowGroupRef, Positions], Positions]
"""Which rows of a row group are read, of the positions of those that count."""


@dataclass(frozen=True, eq=False)
class RowGroup:
    """The kept rows of one row group.

    `table` has the needed columns under their names, the image as plain binary; `rows` int64 (n,): rows in
    the file; `filtered`: rows that the filter removed; `unlabelled`: of the others, rows that need a label and have
    none; `bytes_read`: stored bytes of the columns that were read.
    """

    ref: RowGroupRef
    table: pa.Table
    rows: np.ndarray[Any, np.dtype[np.int64]]
    filtered: int
    bytes_read: int
    unlabelled: int = 0


def read_row_groups(
    row_groups: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage, choose: Choose | None = None
) -> Iterator[RowGroup | BadRow]:
    """The row groups in order: the rows that count, or those of them that `choose` takes.

    Raises DatasetError when a file is gone, has changed or has another schema; StoreUnavailable.
    """
    files = _Files(spec, storage)
    for ref in row_groups:
        yield _read(ref, files, choose)


def count_kept(row_groups: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage) -> list[int]:
    """Rows of each row group that count, from the columns that decide it; 0 where these cannot be parsed.

    Raises as `read_row_groups`.
    """
    if not spec.filter and not spec.labelling.leave_out:
        return [ref.rows for ref in row_groups]
    files = _Files(spec, storage)
    return [_count(ref, files) for ref in row_groups]


def kept_counts(column: str, row_groups: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage) -> Counter[object]:
    """Rows that count by value of a column (null is one); none from row groups that cannot be parsed.

    Raises as `read_row_groups`.
    """
    files, counts = _Files(spec, storage), Counter[object]()
    for ref in row_groups:
        with contextlib.suppress(WrongBytes):
            counts.update(_of_the_listing(ref, partial(_counts, column, ref, files)))
    return counts


def values_of(
    column: str, row_groups: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage
) -> Iterator[tuple[RowGroupRef, Positions, list[Any]]]:
    """Of each row group the rows of the file that count, and their values of a column; none of those that cannot be
    parsed. Raises as `read_row_groups`."""
    files = _Files(spec, storage)
    for ref in row_groups:
        with contextlib.suppress(WrongBytes):
            rows, values = _of_the_listing(ref, partial(_values, column, ref, files))
            yield ref, rows, values


def _values(column: str, ref: RowGroupRef, files: _Files) -> tuple[Positions, list[Any]]:
    return files.open(ref).values(ref, column)


def _counts(column: str, ref: RowGroupRef, files: _Files) -> Counter[object]:
    return files.open(ref).counts(ref, column)


def _read(ref: RowGroupRef, files: _Files, choose: Choose | None) -> RowGroup | BadRow:
    try:
        return _of_the_listing(ref, lambda: files.open(ref).read(ref, choose))
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


@dataclass(frozen=True, eq=False)
class _Counting:
    """Which rows of a row group count: their positions; how many the filter removes, how many others have no label; and
    the columns by which that was decided, which need not be read again."""

    positions: Positions
    filtered: int
    unlabelled: int
    table: pa.Table


class _OpenFile:
    """One Parquet file. Only bytes of the version that was listed are ever used."""

    def __init__(self, ref: RowGroupRef, spec: DatasetSpec, storage: Storage) -> None:
        self.spec, self.storage, self.key = spec, storage, ref.key
        self.file = StoredParquet(StoredFile(ref.url, ref.size, ref.version), storage)
        partitions = spec.partitions or {}
        schema = self.schema = with_partitions(self.file.schema, ref.key, partitions)
        check_schema(spec, self.file.schema, ref.key)
        image = schema.field(spec.image).type
        self.names_files = is_image_file(image)
        self.image_leaf = f"{spec.image}.bytes" if pa.types.is_struct(image) and not self.names_files else spec.image
        self.filter = RowFilter(spec.filter, lambda name: plain_type(schema.field(name).type))

    def kept(self, ref: RowGroupRef) -> Positions:
        """Positions in the row group of the rows that count: the filter keeps them, and they have a label where one is
        needed."""
        return self._counting(ref).positions

    def counts(self, ref: RowGroupRef, column: str) -> Counter[object]:
        """Rows of a row group that count, by value of a column."""
        column_values = plain(self._columns(ref, [column]).column(column))
        counted = column_values.take(self.kept(ref)).value_counts()
        return Counter({each["values"].as_py(): each["counts"].as_py() for each in counted})

    def values(self, ref: RowGroupRef, column: str) -> tuple[Positions, list[Any]]:
        """Rows of the file that count, and their values of a column."""
        kept = self.kept(ref)
        return kept + ref.first_row, plain(self._columns(ref, [column]).column(column)).take(kept).to_pylist()

    def _counting(self, ref: RowGroupRef) -> _Counting:
        if self._is_ruled_out(ref):
            return _Counting(np.arange(0), ref.rows, 0, pa.table({}))
        label = self.spec.label if self.spec.labelling.leave_out else None
        names = list(dict.fromkeys([*self.filter.columns, *([label] if label else [])]))
        if not names:
            return _Counting(np.arange(ref.rows), 0, 0, pa.table({}))
        table = self._columns(ref, names)
        kept = self.filter.mask(table.column, table.num_rows)
        missing = kept & self.spec.labelling.unlabelled(plain(table[label])) if label else np.zeros_like(kept)
        return _Counting(np.flatnonzero(kept & ~missing), int((~kept).sum()), int(missing.sum()), table)

    def _is_ruled_out(self, ref: RowGroupRef) -> bool:
        """Whether footer and folders say that the filter keeps no row."""
        if self.filter.rules_out(self.file.metadata, ref.row_group):
            return True
        of_folders = [name for name in self.filter.columns if name not in self.file.schema.names]
        return any(not self.filter.keeps(name, self._of_folder(name, 1)).all() for name in of_folders)

    def _columns(self, ref: RowGroupRef, names: Sequence[str]) -> pa.Table:
        """Columns (names, or paths of leaves) of a row group: the file's own, and those that its folders name."""
        own = [name for name in names if name == self.image_leaf or name in self.file.schema.names]
        columns = {name: self._of_folder(name, ref.rows) for name in names if name not in own}
        if own:
            table = self.file.read([ref.row_group], own)
            if table.num_rows != ref.rows:
                raise WrongBytes(f"{table.num_rows} rows where the footer says {ref.rows}")
            columns |= dict(zip(table.column_names, table.columns, strict=True))
        return pa.table(columns)

    def _of_folder(self, name: str, rows: int) -> pa.ChunkedArray:
        return partition_column(name, self.key, self.schema.field(name).type, rows)

    def read(self, ref: RowGroupRef, choose: Choose | None = None) -> RowGroup:
        counting = self._counting(ref)
        positions = counting.positions if choose is None else choose(ref, counting.positions)
        kept = kept_columns(self.spec, self.schema) if self.spec.keep else []
        names = list(dict.fromkeys([*(column for _, column in self.spec.roles()), *kept]))
        if not len(positions):
            empty = pa.table({name: pa.nulls(0) for name in names})
            return RowGroup(ref, empty, positions, counting.filtered, 0, counting.unlabelled)
        known = counting.table
        leaves = {name: self.image_leaf if name == self.spec.image else name for name in names}
        table = self._columns(ref, [leaf for name, leaf in leaves.items() if name not in known.column_names])
        table = pa.table({name: self._values(known if name in known.column_names else table, name) for name in names})
        if len(positions) < ref.rows:
            table = table.take(positions)
        stored = self._stored(ref.row_group, set(leaves.values()))
        if self.names_files:
            table, read = self._with_contents(table)
            stored += read
        return RowGroup(ref, table, positions + ref.first_row, counting.filtered, stored, counting.unlabelled)

    def _with_contents(self, table: pa.Table) -> tuple[pa.Table, int]:
        """The table with the content of the files that it names, and its bytes."""
        place = table.column_names.index(self.spec.image)
        contents = read_image_files(table.column(place), self.spec.images_below or "", self.storage)
        return table.set_column(place, self.spec.image, contents), contents.nbytes

    def _values(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        column = table.column(name)
        if name == self.spec.image and pa.types.is_struct(column.type) and not self.names_files:
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
