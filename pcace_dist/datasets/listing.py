"""The listing of a data set: its Parquet files and their row groups, and the other files, which are left out. Reads
footers, ids, and the first bytes of files without a suffix.

All mistakes that can be seen before the first image is read are found here: no such path, no rows, an unreadable file,
a missing column, a wrong type, duplicate ids. Errors are one-line `DatasetError`s. Knows nothing of units, images or
Ray.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.datasets.columns import DatasetSpec, check_same, check_schema
from pcace_dist.datasets.formats import PARQUET_SUFFIXES, kind_of_name
from pcace_dist.datasets.globs import pattern_of
from pcace_dist.datasets.paths import Skipped, by_reason, first_names, is_hidden, is_underscored, key_below, utf8_name
from pcace_dist.datasets.stored_parquet import StoredParquet, WrongBytes, read_footer
from pcace_dist.datasets.values.class_label import class_label_names
from pcace_dist.datasets.values.label_range import label_range
from pcace_dist.datasets.values.labels import NO_ROWS, LabelRange
from pcace_dist.datasets.values.partitions import partition_column, partition_types
from pcace_dist.datasets.walk import NOTHING, UNREADABLE, Entries, entries_of, kinds_by_content
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Changed, Storage, StoredFile, first_line, split


class NoParquet(DatasetError):
    """There is no Parquet file below a path."""

    def __init__(self, message: str, has_images: bool = False) -> None:
        """has_images: it is a folder of images, or a CSV that may name some."""
        super().__init__(message)
        self.has_images = has_images


Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""

# the names of Spark's and Hive's own files, and of a pack's records
UNDERSCORE = "hidden (an underscore begins its name or a folder's)"
TWICE = "listed under another name too"
NOT_PARQUET = "not a Parquet file"
ARCHIVES = (".zip", ".7z", ".rar")  # that nothing here reads
NAMED = 5  # of the files left out for one reason, so many are named


@dataclass(frozen=True)
class DataFile:
    """One Parquet file: `key` is its path below the listed root, `row_groups` the rows of each row group."""

    url: str
    key: str
    size: int
    version: str
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class LeftOut:
    """The files below dataset.path that are left out for one reason: their number, and the first of their names."""

    reason: str
    files: int
    names: tuple[str, ...]
    usual: bool  # nobody would expect them to be data

    def __str__(self) -> str:
        return f"{self.files:,} {self.reason} ({first_names(self.names, NAMED, self.files)})"

    def to_json(self) -> dict[str, Any]:
        return {"reason": self.reason, "files": self.files, "names": list(self.names), "usual": self.usual}


@dataclass(frozen=True)
class Listing:
    """All files of a data set, sorted by key, the Arrow types of the needed columns, and the files left out.

    partitions: columns that folders name, with their types. labels: the range of the labels; class_names: their names,
    where all files say the same (datasets/values/).
    """

    files: tuple[DataFile, ...]
    schema: pa.Schema
    left_out: tuple[LeftOut, ...] = ()
    partitions: Mapping[str, pa.DataType] = field(default_factory=dict)
    labels: LabelRange | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def rows(self) -> int:
        """Rows before the filter."""
        return sum(sum(file.row_groups) for file in self.files)


def list_dataset(
    spec: DatasetSpec, storage: Storage, *, threads: int = 16, on_progress: Progress | None = None
) -> Listing:
    """List and check a data set. Raises DatasetError for every mistake named at the top of this file."""
    data_files, left_out = find_files(spec.path, storage)
    spec = replace(spec, partitions=partition_types(data_files) if spec.partitions is None else spec.partitions)
    with ThreadPoolExecutor(threads, thread_name_prefix="pcace-list") as pool:
        files: list[DataFile] = []
        labels = _LabelFacts(spec)
        first: tuple[str, pa.Schema] | None = None
        for key, (file, footer) in zip(
            data_files, pool.map(lambda file: (file, _footer(file, storage)), data_files.values()), strict=True
        ):
            schema = check_schema(spec, footer.schema.to_arrow_schema(), key)
            first = first or (key, schema)
            check_same(spec, first, (key, schema))
            labels.add(key, footer)
            rows = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
            version = file.version if spec.images_below is None else ""  # a list of images is named by its content
            files.append(DataFile(file.url, key, file.size, version, rows))
            if on_progress is not None:
                on_progress(len(files), len(data_files))
        listing = Listing(
            files=tuple(files),
            schema=first[1] if first else pa.schema([]),
            left_out=summed(left_out),
            partitions=dict(spec.partitions or {}),
            labels=labels.range,
            class_names=labels.names,
        )
        if listing.rows == 0:
            raise DatasetError(f"dataset.path: {_shown(spec.path)} holds no rows")
        if spec.id is not None:
            _check_ids(listing, spec.id, storage, pool)
    return listing


class _LabelFacts:
    """What footers say of dataset.label over all files."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._column, self._partitions = spec.label, spec.partitions or {}
        self._named: set[tuple[str, ...] | None] = set()
        self.range: LabelRange | None = None if spec.label is None else NO_ROWS

    def add(self, key: str, footer: pq.FileMetaData) -> None:
        if self._column is None or self.range is None:
            return
        self.range |= label_range(footer, key, self._column, self._partitions)
        fraction = next((value for value in (self.range.low, self.range.high) if _is_fraction(value)), None)
        if fraction is not None:
            raise DatasetError(
                f"dataset.label: column {self._column!r} in {key} holds {fraction:g}; it must be "
                "the number or the name of a class"
            )
        self._named.add(class_label_names(footer.schema.to_arrow_schema(), self._column))

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the classes; None where files have others or none."""
        return next(iter(self._named)) if len(self._named) == 1 else None


def _is_fraction(value: float | None) -> bool:
    return isinstance(value, float) and math.isfinite(value) and not value.is_integer()


def find_files(paths: Sequence[str], storage: Storage) -> tuple[dict[str, StoredFile], list[Skipped]]:
    """The Parquet files of folders, globs and files by key, sorted; and every other file below them, with the reason.

    A file with two names (a link, a path that is given twice) counts once: under the name that no link leads to, else
    under the first. Raises DatasetError for a path without a Parquet file.
    """
    roots: list[tuple[str, list[tuple[str, StoredFile]]]] = []
    left_out: list[Skipped] = []
    for path in paths:
        root, files, skipped = _list_root(path, storage)
        roots.append((root, files))
        left_out += skipped
    entries: list[tuple[str, str, StoredFile]] = []  # root, key below it, file
    url_of: dict[str, str] = {}  # identity, URL
    for root, files in roots:
        for key, file, identity, _ in sorted(_identified(root, files), key=lambda entry: entry[-1]):
            if identity not in url_of:
                url_of[identity] = file.url
                entries.append((root, key, file))
            elif url_of[identity] != file.url:
                left_out.append(Skipped(key, TWICE))
    keys = _unique_keys([(root, key) for root, key, _ in entries])
    return dict(sorted((key, file) for key, (_, _, file) in zip(keys, entries, strict=True))), left_out


def _identified(root: str, files: Iterable[tuple[str, StoredFile]]) -> Iterable[tuple[str, StoredFile, str, bool]]:
    """(key, file, identity, by link) of files. The identity is the same for all names of a file; `by link`: whether a
    link leads to it."""
    scheme, folder = split(root)
    if scheme != "file":
        yield from ((key, file, file.url, False) for key, file in files)
        return
    base = os.path.realpath(folder)
    for key, file in files:
        real = os.path.realpath(file.url)
        yield key, file, real, real != os.path.join(base, os.path.relpath(file.url, folder))


def _list_root(path: str, storage: Storage) -> tuple[str, list[tuple[str, StoredFile]], list[Skipped]]:
    """One entry of dataset.path: the root, (path below it, file) of each Parquet file, and the files left out."""
    try:
        entries = entries_of(path, storage)
        files, left_out = _sorted_out(entries, storage)
    except OSError as error:
        raise DatasetError(f"dataset.path: {first_line(error)}") from None
    for fault in left_out:
        is_dangling = fault.reason.startswith(NOTHING) and kind_of_name(fault.name) == "parquet"
        if fault.reason == UNREADABLE or is_dangling:
            raise DatasetError(f"dataset.path: {entries.root}/{fault.name}: {fault.reason}; repair or remove it")
    if files:
        return entries.root, files, left_out
    if entries.how == "glob" and not left_out:
        raise DatasetError(f"dataset.path: {path} matches no file")
    if not entries.seen and not os.path.isdir(path):
        raise DatasetError(f"dataset.path: {path}: no such file or folder")
    kinds = {kind_of_name(file.url) for file in entries.files}
    raise NoParquet(
        f"dataset.path: {path} holds no Parquet file ({_suffixes()})"
        f"{'' if 'image' in kinds else ' and no image'}{_instead(path, entries, left_out)}",
        bool(kinds & ({"csv"} if entries.how == "file" else {"image"})),
    )


def _sorted_out(entries: Entries, storage: Storage) -> tuple[list[tuple[str, StoredFile]], list[Skipped]]:
    """The Parquet files with their paths below the root, and the others. A file that the job names itself counts as
    Parquet unless its suffix says otherwise. Raises PermissionError for a file without a suffix whose first bytes may
    not be read."""
    files, unknown, left_out = [], [], list(entries.left_out)
    for file in entries.files:
        key = utf8_name(key_below(file.url, entries.root))
        if entries.how == "file" and kind_of_name(key) in (None, "parquet"):
            files.append((key, file))
        elif is_underscored(key):
            left_out.append(Skipped(key, UNDERSCORE))
        elif kind_of_name(key) == "parquet" or (file.url in entries.named and kind_of_name(key) is None):
            files.append((key, file))
        elif "." not in key.rpartition("/")[2]:
            unknown.append((key, file))
        else:
            left_out.append(Skipped(key, f"{NOT_PARQUET} ({os.path.splitext(key)[1] or 'no suffix'})"))
    kinds = kinds_by_content([file for _, file in unknown], storage, strict=True)
    for (key, file), kind in zip(unknown, kinds, strict=True):
        if kind == "parquet":
            files.append((key, file))
        else:
            left_out.append(Skipped(key, f"{NOT_PARQUET} (no suffix)"))
    return sorted(files, key=lambda entry: entry[1].url), left_out


def _instead(path: str, entries: Entries, left_out: Sequence[Skipped]) -> str:
    """What the folder holds instead of Parquet files, for the error."""
    if not left_out:
        return ""
    counts = ", ".join(f"{len(names):,} {reason}" for reason, names in by_reason(left_out).items())
    if {"image", "tar", "csv", "idx"} & {kind_of_name(file.url) for file in entries.files}:
        return f": {counts}; `pcace pack {path} DEST` makes Parquet files of what is there"
    packed = next((fault.name for fault in left_out if fault.name.lower().endswith(ARCHIVES)), None)
    return f": {counts}" + (f"; unpack {packed} first" if packed else "")


def _suffixes() -> str:
    return f"{', '.join(PARQUET_SUFFIXES[:-1])} or {PARQUET_SUFFIXES[-1]}"


def summed(left_out: Iterable[Skipped]) -> tuple[LeftOut, ...]:
    """The files left out, by reason. Hidden files that are not Parquet are usual: every writer of data sets leaves
    some."""
    faults = sorted(left_out, key=lambda fault: fault.name)
    usual: list[Skipped] = []
    others: list[Skipped] = []
    for fault in faults:
        hidden = fault.reason == UNDERSCORE or is_hidden(fault.name)
        (usual if hidden and kind_of_name(fault.name) != "parquet" else others).append(fault)
    return tuple(
        LeftOut(reason, len(names), tuple(names[:NAMED]), is_usual)
        for faults_of_kind, is_usual in ((others, False), (usual, True))
        for reason, names in by_reason(faults_of_kind).items()
    )


def would_list(path: str, file: str) -> bool:
    """Whether a Parquet file at `file`, if there were one, would be data of this entry of dataset.path."""
    root, matches, lies_in_match = pattern_of(path, _is_there) or (path, _always, _always)
    base, file_path = _real(root), _real(file)
    if not file_path.startswith(f"{base}/"):
        return False
    key = file_path[len(base) + 1 :]
    hidden = is_underscored(key) or is_hidden(key)
    return not hidden and kind_of_name(key) == "parquet" and (matches(key) or lies_in_match(key))


def _is_there(path: str) -> bool:
    """Whether a local path exists. False for URLs: no store is asked here."""
    return split(path)[0] == "file" and os.path.exists(split(path)[1])


def _always(_key: str) -> bool:
    return True


def _real(path: str) -> str:
    """A local path made absolute, without symbolic links; a URL unchanged. Both without a slash at the end."""
    scheme, path_part = split(path)
    return os.path.realpath(path_part).rstrip("/") if scheme == "file" else f"{scheme}://{path_part.rstrip('/')}"


def _unique_keys(entries: list[tuple[str, str]]) -> list[str]:
    """Keys for (root, path below it): the path, after as many of the root's last components as all keys need to
    differ.
    """
    deepest = max((root.count("/") for root, _ in entries), default=0)
    for depth in range(deepest + 2):
        keys = ["/".join([*root.split("/")[-depth:], key]) if depth else key for root, key in entries]
        if len(set(keys)) == len(keys):
            return keys
    return [f"{root}/{key}" for root, key in entries]


def _footer(file: StoredFile, storage: Storage) -> pq.FileMetaData:
    try:
        return read_footer(file, storage)
    except FileNotFoundError:
        raise DatasetError(f"dataset.path: {file.url}: no such file") from None
    except Changed:
        raise DatasetError(f"dataset.path: {file.url} changed while it was listed; list it again") from None
    except WrongBytes as wrong:
        raise DatasetError(f"dataset.path: {file.url} is not a readable Parquet file ({wrong})") from None
    except OSError as error:
        raise DatasetError(f"dataset.path: {first_line(error)}") from None


def _check_ids(listing: Listing, column: str, storage: Storage, pool: ThreadPoolExecutor) -> None:
    """Raise DatasetError unless ids are unique over all files. 8 bytes for each id are held in memory; only ids whose
    digests collide are compared."""
    kind = listing.schema.field(column).type
    digests = list(pool.map(lambda file: _digest_ids(file, column, storage, kind), listing.files))
    ordered = np.sort(np.concatenate(digests))
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return
    seen: dict[Any, tuple[str, int]] = {}
    for file, digest in zip(listing.files, digests, strict=True):
        rows = np.flatnonzero(np.isin(digest, repeated))
        if not len(rows):
            continue
        values = _read_ids(file, column, storage, kind)
        for row in rows.tolist():
            value = values[row].as_py()
            if value in seen:
                first_key, first_row = seen[value]
                raise DatasetError(
                    f"dataset.id: {column} {value!r} is there twice: "
                    f"{first_key} row {first_row} and {file.key} row {row}"
                )
            seen[value] = (file.key, row)


def _digest_ids(
    file: DataFile, column: str, storage: Storage, kind: pa.DataType
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    values = _read_ids(file, column, storage, kind)
    if values.null_count:
        row = next(i for i, value in enumerate(values) if not value.is_valid)
        raise DatasetError(f"dataset.id: {column} is null in {file.key} row {row}")
    digests = b"".join(hashlib.blake2b(str(v).encode(), digest_size=8).digest() for v in values.to_pylist())
    return np.frombuffer(digests, dtype=np.uint64)


def _read_ids(file: DataFile, column: str, storage: Storage, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        parquet = StoredParquet(StoredFile(file.url, file.size, file.version), storage)
        if column not in parquet.schema.names:
            return partition_column(column, file.key, kind, sum(file.row_groups))
        return parquet.read(range(len(file.row_groups)), [column]).column(0)
    except Changed:
        raise DatasetError(f"dataset.path: {file.key} changed while it was listed; list it again") from None
    except (WrongBytes, OSError) as error:
        raise DatasetError(f"dataset.id: {column} of {file.key} cannot be read ({first_line(error)})") from None


def _shown(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
