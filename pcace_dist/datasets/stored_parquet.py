"""A Parquet file on storage: its bytes are fetched first and parsed from memory.

So the two kinds of failure cannot be confused. If fetching fails, it is an error of storage (StoreUnavailable, Changed,
FileNotFoundError). If bytes arrived complete, twice the same, and cannot be parsed, it is `WrongBytes`: the file itself
is wrong. Knows nothing of data sets or runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.errors import StoreUnavailable
from pcace_dist.storage.files import Range, RangeFile, Storage, StoredFile, first_line, joined

T = TypeVar("T")

FOOTER = 64 << 10  # bytes at a file's end that are fetched for its footer
PARSING = (pa.ArrowException, OSError, ValueError)  # pyarrow raises these for bytes that it cannot parse
READINGS = 4  # attempts, where bytes cannot be parsed and are different each time


class WrongBytes(Exception):
    """Bytes that were read and cannot be parsed. The message is one line without the file's name."""


def read_footer(file: StoredFile, storage: Storage) -> pq.FileMetaData:
    """The footer of a Parquet file. Raises WrongBytes, and the errors of fetching."""
    length = min(FOOTER, file.size)
    return _parsed(file, storage, [(file.size - length, length)], pq.read_metadata)


class StoredParquet:
    """One Parquet file; its footer is read once."""

    def __init__(self, file: StoredFile, storage: Storage) -> None:
        self.file, self._storage = file, storage
        self.metadata = read_footer(file, storage)
        self.schema: pa.Schema = self.metadata.schema.to_arrow_schema()

    def read(self, row_groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Some columns (names, or paths of leaves) of some row groups. Raises as `read_footer`."""

        def parse(source: pa.NativeFile) -> pa.Table:
            file = pq.ParquetFile(source, metadata=self.metadata, page_checksum_verification=True)
            return file.read_row_groups(list(row_groups), columns=list(columns), use_threads=False)

        return _parsed(self.file, self._storage, self._ranges(row_groups, columns), parse)

    def batches(self, row_group: int, rows: int) -> Iterator[pa.RecordBatch]:
        """All columns of one row group, `rows` rows at a time. Raises as `read_footer`, after the rows before the
        error."""
        ranges = self._ranges([row_group], self.schema.names)
        previous: list[bytes] | None = None
        yielded = 0
        for _ in range(READINGS):
            fetched = self._storage.fetch_many(self.file, ranges)
            source = RangeFile(self._storage, self.file, dict(zip(ranges, fetched, strict=True)))
            try:
                parquet = pq.ParquetFile(
                    pa.PythonFile(source, mode="r"), metadata=self.metadata, page_checksum_verification=True
                )
                for batch in itertools.islice(parquet.iter_batches(rows, row_groups=[row_group]), yielded, None):
                    yielded += 1
                    yield batch
                return
            except PARSING as error:
                wrong_bytes = WrongBytes(first_line(error)[:200] or type(error).__name__)
            if source.failure is not None:
                raise source.failure from None
            if fetched == previous:
                raise wrong_bytes
            previous = fetched
        raise _others_each_time(self.file)

    @cached_property
    def _leaves(self) -> dict[str, list[int]]:
        """The numbers of the leaves at or below each path: a codes file may have thousands of columns."""
        leaves: dict[str, list[int]] = {}
        for index in range(self.metadata.num_columns):
            path = self.metadata.schema.column(index).path
            ends = [at for at, letter in enumerate(path) if letter == "."]
            for end in [*ends, len(path)]:
                leaves.setdefault(path[:end], []).append(index)
        return leaves

    def _ranges(self, row_groups: Sequence[int], columns: Sequence[str]) -> list[Range]:
        """The byte ranges of the column chunks; neighbours are joined."""
        ranges = []
        leaves = sorted({index for name in columns for index in self._leaves.get(name, ())})
        for group in map(self.metadata.row_group, row_groups):
            for chunk in map(group.column, leaves):
                start = chunk.data_page_offset
                if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < start:
                    start = chunk.dictionary_page_offset
                ranges.append((start, chunk.total_compressed_size))
        within_file = [(start, length) for start, length in ranges if 0 <= start <= start + length <= self.file.size]
        return joined(within_file)


def _parsed(file: StoredFile, storage: Storage, ranges: Sequence[Range], parse: Callable[[pa.NativeFile], T]) -> T:
    """The result of `parse` on these ranges. Bytes that cannot be parsed are fetched again before this is an error."""
    previous: list[bytes] | None = None
    for _ in range(READINGS):
        fetched = storage.fetch_many(file, ranges)
        source = RangeFile(storage, file, dict(zip(ranges, fetched, strict=True)))
        # patience retries after a lack of memory; it must not see the parser's OSErrors, which are about the bytes
        parsed = storage.patience.call(partial(_value_or_fault, source, parse), file.url)
        if source.failure is not None:
            raise source.failure from None
        if not isinstance(parsed, _Fault):
            return parsed
        if fetched == previous:
            raise WrongBytes(parsed.reason)
        previous = fetched
    raise _others_each_time(file)


def _others_each_time(file: StoredFile) -> StoreUnavailable:
    return StoreUnavailable(f"{file.url}: gives other bytes each time; the same command goes on")


@dataclass(frozen=True)
class _Fault:
    """Why bytes could not be parsed."""

    reason: str


def _value_or_fault(source: RangeFile, parse: Callable[[pa.NativeFile], T]) -> T | _Fault:
    source.seek(0)
    try:
        return parse(pa.PythonFile(source, mode="r"))
    except MemoryError:
        raise
    except PARSING as error:
        return _Fault(first_line(error)[:200] or type(error).__name__)
