"""Parquet files as a source of `pcace pack`, Hugging Face's among them: other shards and row groups, every column kept.

Such files can be ranked as they are; packing them anew pays where they are many small ones, have row groups of
gigabytes, hold damaged images, or lie on a slower store. Footers are read for the plan, row groups when they are
packed. Knows nothing of shards.
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
class Group:
    """One row group of a file, and the place of its first row in the file and in the whole source."""

    url: str
    key: str
    index: int
    in_file: int
    first: int
    rows: int


def rows_of_files(found: list[StoredFile], source: str, storage: Storage, image_column: str = "image") -> Source:
    """The rows of Parquet files in the order of their paths. The image column becomes `image`, the others stay."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="pcace-pack") as pool:
        footers = list(pool.map(lambda file: _footer(file, storage), found))
    keys = [utf8_name(key_below(file.url, source)) for file in found]
    schema = _same_schema(keys, [footer.schema.to_arrow_schema() for footer in footers])
    column = _image_column(schema, image_column, source)
    groups: list[Group] = []
    sizes: list[int] = []
    for file, key, footer in zip(found, keys, footers, strict=True):
        in_file = 0
        for index in range(footer.num_row_groups):
            meta = footer.row_group(index)
            groups.append(Group(file.url, key, index, in_file, len(sizes), meta.num_rows))
            sizes += [meta.total_byte_size // max(1, meta.num_rows)] * meta.num_rows
            in_file += meta.num_rows
    features = _features(schema, column)
    packed = pa.schema([_as_packed(field, column) for field in schema])
    return Source(
        "parquet",
        packed,
        identity_of(found, source),
        sizes,
        lambda start, stop: ParquetSlice(_between(groups, start, stop), start, stop, column, packed),
        features=features,
        notes=tuple(_split_notes(keys, source)),
    )


@dataclass(frozen=True)
class ParquetSlice:
    """Rows `start` to `stop` of the whole source, and the row groups they lie in."""

    groups: tuple[Group, ...]
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


def _batches(group: Group, storage: Storage) -> Iterator[pa.RecordBatch]:
    """Raises WrongBytes for bytes that are there and wrong, and what fetching raises."""
    file = storage.stat(group.url)
    if file is None:
        raise FileNotFoundError(f"{group.url}: no such file")
    yield from StoredParquet(file, storage).batches(group.index, ROWS_AT_ONCE)


def _row(cells: pa.RecordBatch, group: Group, number: int, items: ParquetSlice) -> Row | Skipped:
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


def _between(groups: Sequence[Group], start: int, stop: int) -> tuple[Group, ...]:
    return tuple(group for group in groups if group.first < stop and group.first + group.rows > start)


def _footer(file: StoredFile, storage: Storage) -> pq.FileMetaData:
    try:
        return read_footer(file, storage)
    except Changed:
        raise DatasetError(f"{file.url}: has changed since it was listed") from None
    except WrongBytes as wrong:
        raise DatasetError(f"{file.url} is not a readable Parquet file ({wrong})") from None


def _same_schema(keys: Sequence[str], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The schema of all files. Raises DatasetError that names the first column that differs."""
    for key, schema in zip(keys, schemas, strict=True):
        if schema.equals(schemas[0]):
            continue
        for name in dict.fromkeys([*schemas[0].names, *schema.names]):
            one, two = (_type_of(s, name) for s in (schemas[0], schema))
            if one != two:
                raise DatasetError(f"{key}: column {name!r} is {two}, but {one} in {keys[0]}; pack them apart")
        raise DatasetError(f"{key}: its columns are in another order than those of {keys[0]}; pack them apart")
    return schemas[0]


def _type_of(schema: pa.Schema, name: str) -> str:
    return str(schema.field(name).type) if name in schema.names else "not there"


def _image_column(schema: pa.Schema, wanted: str, source: str) -> str:
    """The column with the images: the one named, else the only one that can be it."""
    fitting = [field.name for field in schema if _may_be_images(field.type)]
    if wanted in schema.names and wanted not in fitting:
        kind = schema.field(wanted).type
        raise DatasetError(f"{source}: column {wanted!r} is {kind}; images are binary, or a struct with bytes")
    if wanted not in fitting and len(fitting) != 1:
        has = ", ".join(map(repr, fitting or schema.names)) or "no columns"
        what = "more than one column may be the images" if fitting else "no column with images"
        raise DatasetError(f"{source}: {what} (it has {has}); name it with --image-column")
    column = wanted if wanted in fitting else fitting[0]
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise DatasetError(f"{source}: more than one column {name!r}")
    if column != "image" and "image" in schema.names:
        raise DatasetError(f"{source}: the column 'image' is in the way of the packed images; rename it")
    return column


def _may_be_images(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or is_image_struct(kind))


def _as_packed(field: pa.Field, column: str) -> pa.Field:
    return pa.field("image", IMAGE_TYPE) if field.name == column else field


def _features(schema: pa.Schema, column: str) -> dict[str, Any]:
    """Hugging Face's description of the columns (class names among it), where the files have one."""
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
    """The rows of the Parquet files that a walk has found."""
    named = is_one_file([one.file for one in walked.files], request.path)
    found, walked = walked.only("parquet", "not a Parquet file")
    skipped = [one for one in found if is_underscored(one.key) and not named]
    files = [one.file for one in found if named or not is_underscored(one.key)]
    if not files:
        raise DatasetError(f"{walked.root}: holds no Parquet file ({' or '.join(PARQUET_SUFFIXES)})")
    opened = rows_of_files(files, walked.root, request.storage, request.image_column)
    faults = (Skipped(one.key, "its name begins with _ (which readers of Parquet skip)") for one in skipped)
    return replace(opened, left_out=(*walked.left_out, *faults), notes=(*walked.notes, *opened.notes))
