"""Folders that are columns: `label=0/city=bonn/part.parquet`, as Hive, Spark and pyarrow write them. Pure; no I/O.

The types are those of all files together: whole numbers where every value is one as numbers are written, else text, so
that `007` stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import unquote

import pyarrow as pa

from pcace_dist.errors import DatasetError

NULL = "__HIVE_DEFAULT_PARTITION__"
LARGEST = 2**63


def partitions_of(key: str) -> dict[str, str | None]:
    """Columns and values that the folders of a file's key name; None is null. Of a name that is there twice, the last
    folder counts."""
    pairs = (folder.partition("=") for folder in key.split("/")[:-1])
    return {unquote(name): None if value == NULL else unquote(value) for name, sign, value in pairs if name and sign}


def partition_types(keys: Iterable[str]) -> dict[str, pa.DataType]:
    """Names and types of the columns that the folders of these keys name."""
    values: dict[str, set[str]] = {}
    for key in keys:
        for name, value in partitions_of(key).items():
            values.setdefault(name, set()).update(() if value is None else (value,))
    return {name: pa.int64() if texts and all(map(_is_whole, texts)) else pa.string() for name, texts in values.items()}


def with_partitions(schema: pa.Schema, key: str, types: Mapping[str, pa.DataType]) -> pa.Schema:
    """A file's schema with the columns that its folders name. A column that the file itself has is the file's.

    Raises DatasetError for a value that is not of the column's type.
    """
    values = partitions_of(key)
    missing = [name for name in values if name in types and name not in schema.names]
    for name in missing:
        value = values[name]
        if pa.types.is_integer(types[name]) and value is not None and not _is_whole(value):
            raise DatasetError(f"dataset.path: {key}: {name}={value} is no whole number, as in the folders before")
    return pa.schema([*schema, *(pa.field(name, types[name]) for name in missing)], schema.metadata)


def partition_column(name: str, key: str, kind: pa.DataType, rows: int) -> pa.ChunkedArray:
    """The value that the folders of a key have for a column, once a row."""
    value = partitions_of(key)[name]
    typed = int(value) if value is not None and pa.types.is_integer(kind) else value
    return pa.chunked_array([pa.repeat(pa.scalar(typed, kind), rows)], kind)


def _is_whole(text: str) -> bool:
    try:
        number = int(text)
    except ValueError:
        return False
    return str(number) == text and -LARGEST <= number < LARGEST
