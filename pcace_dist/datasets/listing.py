"""What a data set is made of: its Parquet files, their row groups, and whether they fit the job. Reads
footers and ids only.

Everything a job promises to find before the first image is read is found here: no such path, no rows, an
unreadable file, a missing column, a wrong type, duplicate ids. Errors are one-line `DatasetError`s. Knows
nothing of units, images or Ray.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.datasets.storage import Changed, Storage, StoredFile, first_line, split
from pcace_dist.datasets.stored_parquet import StoredParquet, WrongBytes, read_footer
from pcace_dist.errors import DatasetError

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""

SUFFIXES = (".parquet", ".parq")
GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class DatasetSpec:
    """The job's dataset section, and the further columns that the job needs.

    `columns` are target columns (numeric, handed on as float64), `group_by` a column of any plain type. With `keep`
    every plain column of the files is handed on beside them (`kept_columns`).
    """

    path: tuple[str, ...]
    image: str = "image"
    label: str | None = None
    id: str | None = None
    fold_by: str | None = None
    filter: Mapping[str, Any] = field(default_factory=dict)
    group_by: str | None = None
    columns: tuple[str, ...] = ()
    keep: bool = False

    def roles(self) -> Iterator[tuple[str, str]]:
        """(key of the job file, column) for every column that is needed."""
        yield "dataset.image", self.image
        for key, column in (
            ("dataset.label", self.label),
            ("dataset.id", self.id),
            ("dataset.fold_by", self.fold_by),
        ):
            if column is not None:
                yield key, column
        for column in self.filter:
            yield "dataset.filter", column
        if self.group_by is not None:
            yield "group_by", self.group_by
        for column in self.columns:
            yield "target", column


@dataclass(frozen=True)
class DataFile:
    """One Parquet file: `key` is its path below the listed root, `row_groups` the rows of each row group."""

    url: str
    key: str
    size: int
    version: str
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class Listing:
    """All files of a data set, sorted by key, and the Arrow types of the needed columns."""

    files: tuple[DataFile, ...]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        """Rows before the filter."""
        return sum(sum(file.row_groups) for file in self.files)


def list_dataset(
    spec: DatasetSpec, storage: Storage, *, threads: int = 16, on_progress: Progress | None = None
) -> Listing:
    """List and check a data set. Raises DatasetError for everything that must be found at
    listing.
    """
    found = find_files(spec.path, storage)
    with ThreadPoolExecutor(threads, thread_name_prefix="pcace-list") as pool:
        files: list[DataFile] = []
        first: tuple[str, pa.Schema] | None = None
        for key, (file, footer) in zip(
            found, pool.map(lambda file: (file, _footer(file, storage)), found.values()), strict=True
        ):
            schema = check_schema(spec, footer.schema.to_arrow_schema(), key)
            first = first or (key, schema)
            _check_same(spec, first, (key, schema))
            rows = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
            files.append(DataFile(file.url, key, file.size, file.version, rows))
            if on_progress is not None:
                on_progress(len(files), len(found))
        listing = Listing(tuple(files), first[1] if first else pa.schema([]))
        if listing.rows == 0:
            raise DatasetError(f"dataset.path: {_shown(spec.path)} holds no rows")
        if spec.id is not None:
            _check_ids(listing, spec.id, storage, pool)
    return listing


def find_files(paths: Sequence[str], storage: Storage) -> dict[str, StoredFile]:
    """The files of folders, globs and files by key, sorted. A file that is named twice counts once."""
    roots = [_list_root(path, storage) for path in paths]
    seen: set[str] = set()
    entries: list[tuple[str, str, StoredFile]] = []  # root, key below it, file
    for root, files in roots:
        for key, file in files:
            identity = os.path.realpath(file.url) if split(file.url)[0] == "file" else file.url
            if identity not in seen:
                seen.add(identity)
                entries.append((root, key, file))
    keys = _unique_keys([(root, key) for root, key, _ in entries])
    return dict(sorted((key, file) for key, (_, _, file) in zip(keys, entries, strict=True)))


def check_schema(spec: DatasetSpec, schema: pa.Schema, key: str) -> pa.Schema:
    """The needed columns of a file's schema. Raises DatasetError for a missing column or a wrong type."""
    for role, column in spec.roles():
        if schema.names.count(column) == 0:
            near = difflib.get_close_matches(column, schema.names, n=1, cutoff=0.5)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, schema.names)) or 'no columns'}"
            )
            raise DatasetError(f"{role}: no column {column!r} in {key}; {hint}")
        if schema.names.count(column) > 1:
            raise DatasetError(f"{role}: {key} has more than one column {column!r}")
        kind = plain_type(schema.field(column).type)
        wanted = _wanted(role, kind)
        if wanted:
            raise DatasetError(f"{role}: column {column!r} in {key} is {kind}; it must be {wanted}")
    for column, value in spec.filter.items():
        kind = plain_type(schema.field(column).type)
        for one in value if isinstance(value, list | tuple) else [value]:
            filter_scalar(column, one, kind)
    names = dict.fromkeys([*(column for _, column in spec.roles()), *(kept_columns(spec, schema) if spec.keep else ())])
    return pa.schema([pa.field(name, plain_type(schema.field(name).type)) for name in names])


def kept_columns(spec: DatasetSpec, schema: pa.Schema) -> list[str]:
    """Columns with plain values, as they are kept beside the codes: all but images and nested or binary columns."""
    return [
        field.name
        for field in schema
        if field.name != spec.image
        and schema.names.count(field.name) == 1
        and not pa.types.is_nested(plain_type(field.type))
        and not _is_binary(plain_type(field.type))
    ]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values: of a dictionary-encoded column the dictionary's."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_image_struct(kind: pa.DataType) -> bool:
    """True for struct<bytes, ...> as Hugging Face writes images."""
    if not pa.types.is_struct(kind):
        return False
    index = kind.get_field_index("bytes")
    return index >= 0 and _is_binary(kind.field(index).type)


def filter_scalar(column: str, value: Any, kind: pa.DataType) -> pa.Scalar:
    """A filter's value as a scalar of the column's type. Raises DatasetError if the two do not go together."""
    problem = DatasetError(f"dataset.filter.{column}: {value!r} cannot be compared with the column's type {kind}")
    fits = (
        (pa.types.is_boolean(kind) and isinstance(value, bool))
        or (pa.types.is_integer(kind) and isinstance(value, int) and not isinstance(value, bool))
        or (pa.types.is_floating(kind) and isinstance(value, int | float) and not isinstance(value, bool))
        or (_is_text(kind) and isinstance(value, str))
        or ((pa.types.is_date(kind) or pa.types.is_timestamp(kind)) and isinstance(value, str))
    )
    if not fits:
        raise problem
    try:
        return pa.scalar(value).cast(kind) if pa.types.is_temporal(kind) else pa.scalar(value, kind)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        raise problem from None


def _list_root(path: str, storage: Storage) -> tuple[str, list[tuple[str, StoredFile]]]:
    """One entry of dataset.path: the root, and (path below it, file) for each file."""
    try:
        file = storage.stat(path)
        if file is not None:
            root, _, name = file.url.rpartition("/")
            return root, [(name, file)]
        if GLOB.search(path):
            files = _list_glob(path, storage)
        else:
            base = _base(path)
            files = [
                (key, f) for key, f in _below(base, storage.list(path)) if key.endswith(SUFFIXES) and not _hidden(key)
            ]
            if not files:
                return base, _no_files(path, storage)
            return base, files
    except OSError as error:
        raise DatasetError(f"dataset.path: {first_line(error)}") from None
    if not files:
        raise DatasetError(f"dataset.path: {path} matches no file")
    return _base(_glob_root(path)), files


def would_list(path: str, file: str) -> bool:
    """Whether an entry of dataset.path would take a Parquet file at `file` for data, if there were one."""
    pattern = _translate(_base(path)[len(_base(_glob_root(path))) :].lstrip("/")) if GLOB.search(path) else None
    base = _real(_base(path if pattern is None else _glob_root(path)))
    found = _real(_base(file))
    if not found.startswith(f"{base}/"):
        return False
    key = found[len(base) + 1 :]
    if _hidden(key) or not key.endswith(SUFFIXES):
        return False
    parents = [key[:i] for i, letter in enumerate(key) if letter == "/"]
    return pattern is None or any(map(pattern.fullmatch, [key, *parents]))


def _real(base: str) -> str:
    """A local path without symbolic links; a URL as it is."""
    return base if "://" in base else os.path.realpath(base)


def _no_files(path: str, storage: Storage) -> list[tuple[str, StoredFile]]:
    exists = os.path.isdir(split(path)[1]) if split(path)[0] == "file" else bool(storage.list(path))
    if exists:
        raise DatasetError(f"dataset.path: {path} holds no Parquet file ({' or '.join(SUFFIXES)})")
    raise DatasetError(f"dataset.path: {path}: no such file or folder")


def _list_glob(path: str, storage: Storage) -> list[tuple[str, StoredFile]]:
    root = _glob_root(path)
    base = _base(root)
    pattern = _translate(_base(path)[len(base) :].lstrip("/"))
    files = []
    for key, file in _below(base, storage.list(root)):
        if _hidden(key):
            continue
        parents = [key[:i] for i, letter in enumerate(key) if letter == "/"]
        if pattern.fullmatch(key) or (key.endswith(SUFFIXES) and any(map(pattern.fullmatch, parents))):
            files.append((key, file))
    return files


def pattern_of(path: str) -> tuple[str, Callable[[str], bool]]:
    """The folder that a glob is looked for in, and whether a path below it matches, itself or a folder above it."""
    root = _glob_root(path)
    pattern = _translate(_base(path)[len(_base(root)) :].lstrip("/"))

    def matches(key: str) -> bool:
        above = (key[:i] for i, letter in enumerate(key) if letter == "/")
        return any(map(pattern.fullmatch, (key, *above)))

    return root, matches


def _glob_root(path: str) -> str:
    """The folder before the first component that has a wildcard."""
    parts = path.split("/")
    wild = next(i for i, part in enumerate(parts) if GLOB.search(part))
    root = "/".join(parts[:wild])
    return root or ("/" if path.startswith("/") else ".")


def _base(path: str) -> str:
    """The URL prefix, without a slash at its end, that listed files of a folder begin with."""
    scheme, rest = split(path)
    return rest.rstrip("/") if scheme == "file" else f"{scheme}://{rest.rstrip('/')}"


def _below(base: str, files: Iterable[StoredFile]) -> Iterator[tuple[str, StoredFile]]:
    for file in files:
        yield file.url[len(base) :].lstrip("/"), file


def _hidden(key: str) -> bool:
    return any(part.startswith(("_", ".")) for part in key.split("/"))


def _translate(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: `*` stays inside a folder, `**` crosses folders."""
    parts: list[str] = []
    i = 0
    while i < len(pattern):
        rest = pattern[i:]
        if rest.startswith("**/"):
            parts.append("(?:.*/)?")
            i += 3
        elif rest.startswith("**"):
            parts.append(".*")
            i += 2
        elif rest[0] in "*?":
            parts.append("[^/]*" if rest[0] == "*" else "[^/]")
            i += 1
        elif rest[0] == "[" and (end := rest.find("]", 2)) > 0:
            body = rest[1:end].replace("\\", r"\\")
            parts.append(f"[{'^' + body[1:] if body[0] == '!' else body}]")
            i += end + 1
        else:
            parts.append(re.escape(rest[0]))
            i += 1
    return re.compile("".join(parts))


def _unique_keys(entries: list[tuple[str, str]]) -> list[str]:
    """Keys for (root, path below it): the path, with as many of the root's last components as make all of
    them differ.
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


def _wanted(role: str, kind: pa.DataType) -> str:
    """What the column must be where `kind` will not do, else an empty string."""
    if role == "dataset.image":
        return "" if _is_binary(kind) or is_image_struct(kind) else "binary, or a struct with bytes"
    if role == "dataset.label":
        return "" if pa.types.is_integer(kind) else "integer"
    if role == "dataset.id":
        return "" if pa.types.is_integer(kind) or _is_text(kind) else "string or integer"
    if role == "target":
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        return "" if numeric or pa.types.is_decimal(kind) else "numeric"
    return "a plain value" if pa.types.is_nested(kind) or _is_binary(kind) else ""


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_same(spec: DatasetSpec, first: tuple[str, pa.Schema], other: tuple[str, pa.Schema]) -> None:
    """Values of ids, groups and folds are compared across files, so their types must agree."""
    for role, column in spec.roles():
        if role not in ("dataset.id", "dataset.fold_by", "group_by"):
            continue
        one, two = first[1].field(column).type, other[1].field(column).type
        if _family(one) != _family(two):
            raise DatasetError(f"{role}: column {column!r} is {one} in {first[0]} but {two} in {other[0]}")
    for column in set(first[1].names) & set(other[1].names) if spec.keep else ():
        one, two = first[1].field(column).type, other[1].field(column).type
        if column != spec.image and _family(one) != _family(two):
            raise DatasetError(
                f"statistics.keep_codes: column {column!r} is {one} in {first[0]} but {two} in {other[0]}"
            )


def _family(kind: pa.DataType) -> str:
    if _is_text(kind):
        return "text"
    return "integer" if pa.types.is_integer(kind) else str(kind)


def _check_ids(listing: Listing, column: str, storage: Storage, pool: ThreadPoolExecutor) -> None:
    """Ids must be unique over all files: 8 bytes an id are held, and only what collides is looked at again."""
    digests = list(pool.map(lambda file: _digest_ids(file, column, storage), listing.files))
    ordered = np.sort(np.concatenate(digests))
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return
    seen: dict[Any, tuple[str, int]] = {}
    for file, digest in zip(listing.files, digests, strict=True):
        rows = np.flatnonzero(np.isin(digest, repeated))
        if not len(rows):
            continue
        values = _read_ids(file, column, storage)
        for row in rows.tolist():
            value = values[row].as_py()
            if value in seen:
                other, at = seen[value]
                raise DatasetError(
                    f"dataset.id: {column} {value!r} is there twice: {other} row {at} and {file.key} row {row}"
                )
            seen[value] = (file.key, row)


def _digest_ids(file: DataFile, column: str, storage: Storage) -> np.ndarray[Any, np.dtype[np.uint64]]:
    values = _read_ids(file, column, storage)
    if values.null_count:
        row = next(i for i, value in enumerate(values) if not value.is_valid)
        raise DatasetError(f"dataset.id: {column} is null in {file.key} row {row}")
    joined = b"".join(hashlib.blake2b(str(v).encode(), digest_size=8).digest() for v in values.to_pylist())
    return np.frombuffer(joined, dtype=np.uint64)


def _read_ids(file: DataFile, column: str, storage: Storage) -> pa.ChunkedArray:
    try:
        parquet = StoredParquet(StoredFile(file.url, file.size, file.version), storage)
        return parquet.read(range(len(file.row_groups)), [column]).column(0)
    except Changed:
        raise DatasetError(f"dataset.path: {file.key} changed while it was listed; list it again") from None
    except (WrongBytes, OSError) as error:
        raise DatasetError(f"dataset.id: {column} of {file.key} cannot be read ({first_line(error)})") from None


def _shown(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
