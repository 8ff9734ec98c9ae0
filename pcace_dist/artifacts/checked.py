"""A run's files as they are read back: checked against the digests that were recorded, every failure one line.

A reader asks for bytes, JSON or a Parquet file and gets what the run wrote, or a PcaceError that names the file and
what to do. Knows storage and formats, not what a run consists of. No torch, no Ray.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pcace_dist.errors import OutputError, PcaceError, StoreUnavailable
from pcace_dist.storage.files import NoBucket, Storage, first_line

CHUNK = 4 << 20  # bytes that are checked at a time, so that a selective read of a large file need not read all of it
REPAIR = "`pcace rank` with the job of this run writes it anew"
RESTORE = "restore it from a copy, or rank into another output"  # where no digest was recorded

# what json, pyarrow and the code that reads their results raise over malformed content
MALFORMED = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


class Damaged(OutputError):
    """A file of a run is missing, or is not what the run wrote."""


@dataclass(frozen=True)
class Digest:
    """A file as it was written: size, sha256, and of one larger than CHUNK also the sha256 of each CHUNK bytes."""

    size: int
    sha256: str
    chunks: tuple[str, ...] = ()

    @staticmethod
    def of(data: bytes) -> Digest:
        starts = range(0, len(data), CHUNK) if len(data) > CHUNK else ()
        return Digest(len(data), _sha256(data), tuple(_sha256(data[start : start + CHUNK]) for start in starts))

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Digest:
        return Digest(int(value["size"]), str(value["sha256"]), tuple(map(str, value.get("chunks", ()))))

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value != ()}

    def fits(self, data: bytes | None) -> bool:
        """Whether these are the bytes that were written."""
        return data is not None and len(data) == self.size and _sha256(data) == self.sha256


def read_checked(storage: Storage, url: str, digest: Digest | None) -> bytes:
    """A whole file. digest: None where none was recorded. Raises Damaged, OutputError or StoreUnavailable."""
    with fetching(url, _advice(digest)):
        data = storage.read_bytes(url)
    if digest is not None and not digest.fits(data):
        raise Damaged(f"{url}: is not what the run wrote; {REPAIR}")
    return data


@contextlib.contextmanager
def parquet(storage: Storage, url: str, digest: Digest | None) -> Iterator[pa.NativeFile]:
    """A Parquet file for pyarrow. Every byte that is handed out has been checked, if there is a digest.

    What pyarrow raises over malformed content becomes Damaged, also within the block.
    """
    with fetching(url, _advice(digest)):
        source = storage.open(url)
    with source, parsing(url, _advice(digest)):
        yield pa.PythonFile(_CheckedFile(url, source, digest), mode="r")


def read_parquet(storage: Storage, url: str, digest: Digest | None, **selection: Any) -> pa.Table:
    """`pyarrow.parquet.read_table` of a file. Raises Damaged, OutputError or StoreUnavailable."""
    with parquet(storage, url, digest) as file:
        return read_table(file, **selection)


def read_table(file: Any, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """As `pyarrow.parquet.read_table` of an open file, but in this thread alone.

    Where a thread of Arrow's still holds a Python file while the interpreter ends, the process aborts with code 134
    (apache/arrow issue 34314).
    """
    parquet_file = pq.ParquetFile(file, pre_buffer=False)
    if filters is None:
        return parquet_file.read(columns, use_threads=False)
    wanted = filters if isinstance(filters, pc.Expression) else pq.filters_to_expression(filters)
    needed = columns
    if columns is not None and wanted is not filters:
        needed = list(dict.fromkeys([*columns, *(column for column, _, _ in filters)]))
    fragment = ds.ParquetFileFormat().make_fragment(file)
    groups = [group.id for group in fragment.subset(wanted).row_groups]
    table = parquet_file.read_row_groups(groups, needed, use_threads=False).filter(wanted)
    return table if columns is None else table.select(columns)


def parse_json(data: bytes, url: str, repair: str = RESTORE) -> dict[str, Any]:
    """A JSON object. Raises Damaged for anything else."""
    with parsing(url, repair):
        value = json.loads(data, parse_constant=_refuse)
        if not isinstance(value, dict):
            raise ValueError("holds no JSON object")
        return value


@contextlib.contextmanager
def fetching(url: str, repair: str) -> Iterator[None]:
    """Turns storage errors into one line: Damaged where a file is gone, StoreUnavailable where nobody answers."""
    try:
        yield
    except (NoBucket, PermissionError) as error:
        raise OutputError(first_line(error)) from None
    except FileNotFoundError:
        raise Damaged(f"{url}: is missing; {repair}") from None
    except OSError as error:
        if isinstance(error, IsADirectoryError) or "directory" in str(error):
            raise Damaged(f"{url}: is a folder where a file should be; remove it, then {repair}") from None
        raise StoreUnavailable(f"{first_line(error)}; is the storage there? try again") from None


@contextlib.contextmanager
def parsing(url: str, repair: str = RESTORE) -> Iterator[None]:
    """Turns what malformed content raises into Damaged."""
    try:
        yield
    except PcaceError:
        raise
    except (*MALFORMED, RecursionError) as error:
        why = first_line(error) or type(error).__name__
        raise Damaged(f"{url}: cannot be read ({why[:200]}); {repair}") from error


class _CheckedFile(io.RawIOBase):
    """A seekable file that checks each chunk before a byte of it is given out."""

    def __init__(self, url: str, source: pa.NativeFile, digest: Digest | None) -> None:
        self._url, self._source = url, source
        self._size = source.size()
        self._at = 0
        self._cached_chunk: tuple[int, bytes] = (-1, b"")
        self._digests = None if digest is None else digest.chunks or (digest.sha256,)
        if digest is not None and digest.size != self._size:
            raise Damaged(f"{url}: has {self._size} bytes, not the {digest.size} that the run wrote; {REPAIR}")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        number, start = divmod(self._at, CHUNK)
        part = self._chunk(number)[start : start + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def read(self, size: int = -1) -> bytes:
        """All `size` bytes where there are as many: pyarrow takes fewer bytes for the end of the file."""
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        parts = []
        while self._at < end:
            number, start = divmod(self._at, CHUNK)
            parts.append(self._chunk(number)[start : start + end - self._at])
            self._at += len(parts[-1])
        return b"".join(parts)

    def _chunk(self, number: int) -> bytes:
        if self._cached_chunk[0] != number:
            with fetching(self._url, RESTORE):
                data = self._source.read_at(min(CHUNK, self._size - number * CHUNK), number * CHUNK)
            if self._digests is not None and _sha256(data) != self._digests[number]:
                raise Damaged(f"{self._url}: is not what the run wrote; {REPAIR}")
            self._cached_chunk = (number, data)
        return self._cached_chunk[1]


def _advice(digest: Digest | None) -> str:
    return RESTORE if digest is None else REPAIR


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
