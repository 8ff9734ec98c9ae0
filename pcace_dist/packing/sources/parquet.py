"""Parquet files as a source of `pcace pack`, also those of Hugging Face: new shards and row groups, with every column.

Such files can be ranked as they are. To pack them again is worth it where there are many small ones, where row groups
have gigabytes, where images are damaged, or where they lie on a slow store. Footers are read for the plan, row groups
when they are packed. Knows nothing of shards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.datasets.columns import is_image_struct
from pcace_dist.datasets.formats import PARQUET_SUFFIXES
from pcace_dist.datasets.paths import (
    READERS,
    Skipped,
    identity_of,
    is_underscored,
    key_below,
    utf8_name,
)
from pcace_dist.datasets.stored_parquet import StoredParquet, WrongBytes, read_footer
from pcace_dist.datasets.walk import Walked
from pcace_dist.errors import DatasetError
from pcace_dist.packing.source import IMAGE_TYPE, Request, Row, Source, is_one_file
from pcace_dist.storage.files import Changed, Storage, StoredFile, first_line

ROWS_AT_ONCE = 64  # rows decoded into memory at once
SPLIT_OF = re.compile(r"(.+?)-\d+-of-\d+")  # train-00007-of-00294.parquet


@dataclass(frozen=True)
class RowGroupSpan:
    """One row group of a file, and the number of its first row in the file and in the whole source."""

    url: str
    key: str
    index: int
    in_file: int
    first: int
    rows: int


def rows_of_files(files: list[StoredFile], source: str, storage: Storage, image_column: str = "image") -> Source:
    """The rows of Parquet files in the order of their paths. The image column is renamed `image`; the others stay."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="pcace-pack") as pool:
        footers = list(pool.map(lambda file: _footer(file, storage), files))
    keys = [utf8_name(key_below(file.url, source)) for file in files]
    schema = _same_schema(keys, [footer.schema.to_arrow_schema() for footer in footers])
    column = _image_column(schema, image_column, source)
    groups: list[RowGroupSpan] = []
    sizes: list[int] = []
    for file, key, footer in zip(files, keys, footers, strict=True):
        in_file = 0
        for index in range(footer.num_row_groups):
            row_group = footer.row_group(index)
            groups.append(RowGroupSpan(file.url, key, index, in_file, len(sizes), row_group.num_rows))
            sizes += [row_group.total_byte_size // max(1, row_group.num_rows)] * row_group.num_rows
            in_file += row_group.num_rows
    features = _features(schema, column)
    packed = pa.schema([_as_packed(field, column) for field in schema])
    return Source(
        "parquet",
        packed,
        identity_of(files, source),
        sizes,
        lambda start, stop: ParquetSlice(_between(groups, start, stop), start, stop, column, packed),
        features=features,
        notes=tuple(_split_notes(keys, source)),
    )


@dataclass(frozen=True)
class ParquetSlice:
    """Rows `start` to `stop` of the whole source, and the row groups that contain them."""

    groups: tuple[RowGroupSpan, ...]
    start: int
    stop: int
    column: str
    schema: pa.Schema

    def rows(self, storage: Storage) -> Iterator[Row | Skipped]:
        for group in self.groups:
            read = 0
            try:
                for batch in _batches(group, storage):
                    for row in range(batch.num_rows):
                        if self.start <= group.first + read < self.stop:
                            yield _row(batch.slice(row, 1), group, read, self)
                        read += 1
            except Changed:
                raise DatasetError(f"{group.url}: has changed since the pack began") from None
            except OSError as error:
                raise DatasetError(first_line(error)) from None
            except WrongBytes as wrong:
                yield Skipped(f"{group.key} row group {group.index} from row {read}", f"cannot be read ({wrong})")


def _batches(group: RowGroupSpan, storage: Storage) -> Iterator[pa.RecordBatch]:
    """The rows of a row group. Raises WrongBytes for bytes that cannot be parsed, and errors of fetching."""
    file = storage.stat(group.url)
    if file is None:
        raise FileNotFoundError(f"{group.url}: no such file")
    yield from StoredParquet(file, storage).batches(group.index, ROWS_AT_ONCE)


def _row(cells: pa.RecordBatch, group: RowGroupSpan, number: int, items: ParquetSlice) -> Row | Skipped:
    name = f"{group.key}#{group.in_file + number}"
    image = cells.column(cells.schema.get_field_index(items.column))[0].as_py()
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    if data is None:
        return Skipped(name, "image is null")
    packed = pa.array([{"bytes": data, "path": path or name}], IMAGE_TYPE)
    columns = [
        packed if field.name == items.column else array
        for field, array in zip(cells.schema, cells.columns, strict=True)
    ]
    return Row(path or name, data, pa.RecordBatch.from_arrays(columns, schema=items.schema))


def _between(groups: Sequence[RowGroupSpan], start: int, stop: int) -> tuple[RowGroupSpan, ...]:
    return tuple(group for group in groups if group.first < stop and group.first + group.rows > start)


def _footer(file: StoredFile, storage: Storage) -> pq.FileMetaData:
    try:
        return read_footer(file, storage)
    except Changed:
        raise DatasetError(f"{file.url}: has changed since it was listed") from None
    except WrongBytes as wrong:
        raise DatasetError(f"{file.url} is not a readable Parquet file ({wrong})") from None


def _same_schema(keys: Sequence[str], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The schema of all files. Raises DatasetError naming the first column that differs."""
    for key, schema in zip(keys, schemas, strict=True):
        if schema.equals(schemas[0]):
            continue
        for name in dict.fromkeys([*schemas[0].names, *schema.names]):
            first_type, other_type = (_type_of(s, name) for s in (schemas[0], schema))
            if first_type != other_type:
                raise DatasetError(
                    f"{key}: column {name!r} is {other_type}, but {first_type} in {keys[0]}; pack them apart"
                )
        raise DatasetError(f"{key}: its columns are in another order than those of {keys[0]}; pack them apart")
    return schemas[0]


def _type_of(schema: pa.Schema, name: str) -> str:
    return str(schema.field(name).type) if name in schema.names else "not there"


def _image_column(schema: pa.Schema, requested: str, source: str) -> str:
    """The column with the images: the requested one, else the only possible one."""
    candidates = [field.name for field in schema if _may_be_images(field.type)]
    if requested in schema.names and requested not in candidates:
        dtype = schema.field(requested).type
        raise DatasetError(f"{source}: column {requested!r} is {dtype}; images are binary, or a struct with bytes")
    if requested not in candidates and len(candidates) != 1:
        has = ", ".join(map(repr, candidates or schema.names)) or "no columns"
        problem = "more than one column may be the images" if candidates else "no column with images"
        raise DatasetError(f"{source}: {problem} (it has {has}); name it with --image-column")
    column = requested if requested in candidates else candidates[0]
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise DatasetError(f"{source}: more than one column {name!r}")
    if column != "image" and "image" in schema.names:
        raise DatasetError(f"{source}: the column 'image' is in the way of the packed images; rename it")
    return column


def _may_be_images(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype) or is_image_struct(dtype))


def _as_packed(field: pa.Field, column: str) -> pa.Field:
    return pa.field("image", IMAGE_TYPE) if field.name == column else field


def _features(schema: pa.Schema, column: str) -> dict[str, Any]:
    """Hugging Face's description of the columns, with class names, where the files have one."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {"image" if name == column else name: value for name, value in features.items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _split_notes(keys: Sequence[str], source: str) -> list[str]:
    splits = sorted({match[1] for key in keys if (match := SPLIT_OF.fullmatch(key.rpartition("/")[2].split(".")[0]))})
    if len(splits) < 2:
        return []
    return [
        f"packs {', '.join(splits)} together; for one alone name it: '{source.rstrip('/')}/**/{splits[0]}-*.parquet'"
    ]


def open_parquet(walked: Walked, request: Request) -> Source:
    """The rows of the Parquet files of a walk."""
    is_one = is_one_file([entry.file for entry in walked.files], request.path)
    entries, walked = walked.only("parquet", "not a Parquet file")
    skipped = [entry for entry in entries if is_underscored(entry.key) and not is_one]
    files = [entry.file for entry in entries if is_one or not is_underscored(entry.key)]
    if not files:
        raise DatasetError(f"{walked.root}: holds no Parquet file ({' or '.join(PARQUET_SUFFIXES)})")
    rows = rows_of_files(files, walked.root, request.storage, request.image_column)
    faults = (Skipped(entry.key, "its name begins with _ (which readers of Parquet skip)") for entry in skipped)
    return replace(rows, left_out=(*walked.left_out, *faults), notes=(*walked.notes, *rows.notes))
