"""The columns that a job needs of its files: their names and types, and the values of a filter. Pure; no I/O.

Errors are one-line `DatasetError`s that name the key of the job file. Types are those of the values: how a writer laid
them out (dictionary, view) makes no difference.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pcace_dist.datasets.sections import Dataset
from pcace_dist.errors import DatasetError


@dataclass(frozen=True)
class DatasetSpec(Dataset):
    """The job's dataset section with its paths resolved, and the further columns that the job needs.

    `columns` are target columns (numeric, handed on as float64), `group_by` a column of any plain type. With `keep`
    every plain column of the files is handed on beside them (`kept_columns`).
    """

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


def check_schema(spec: DatasetSpec, schema: pa.Schema, key: str) -> pa.Schema:
    """The needed columns of a file's schema. Raises DatasetError for a missing column or a wrong type."""
    for role, column in spec.roles():
        if schema.names.count(column) == 0:
            raise DatasetError(f"{role}: no column {column!r} in {key}; {_instead(column, schema, key)}")
        if schema.names.count(column) > 1:
            raise DatasetError(f"{role}: {key} has more than one column {column!r}")
        kind = plain_type(schema.field(column).type)
        wanted = _wanted(role, kind)
        if wanted:
            raise DatasetError(f"{role}: column {column!r} in {key} is {kind}; it must be {wanted}")
    for column, value in spec.filter.items():
        filter_scalars(column, value, plain_type(schema.field(column).type))
    names = dict.fromkeys([*(column for _, column in spec.roles()), *(kept_columns(spec, schema) if spec.keep else ())])
    return pa.schema([pa.field(name, plain_type(schema.field(name).type)) for name in names])


def _instead(column: str, schema: pa.Schema, key: str) -> str:
    """What to say of a column that is not there."""
    partition = next((part for part in key.split("/")[:-1] if part.startswith(f"{column}=")), None)
    if partition is not None:
        return (
            f"the name of its folder, {partition}, is not read: columns are those inside the files; write the files "
            "anew with that column in them"
        )
    near = difflib.get_close_matches(column, schema.names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, schema.names)) or 'no columns'}"


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
    """The type of the values, whatever way a writer laid them out: of a dictionary-encoded column the dictionary's, of
    a view what it views."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind) else kind


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in its plain type."""
    kind = plain_type(column.type)
    return column if kind == column.type else column.cast(kind)


def is_image_struct(kind: pa.DataType) -> bool:
    """True for struct<bytes, ...> as Hugging Face writes images."""
    if not pa.types.is_struct(kind):
        return False
    index = kind.get_field_index("bytes")
    return index >= 0 and _is_binary(plain_type(kind.field(index).type))


def filter_scalars(column: str, value: Any, kind: pa.DataType) -> list[pa.Scalar]:
    """A filter's value, or each of several, as scalars of the column's type. Raises DatasetError for one that cannot be
    compared with it."""
    return [_filter_scalar(column, one, kind) for one in (value if isinstance(value, list | tuple) else [value])]


def _filter_scalar(column: str, value: Any, kind: pa.DataType) -> pa.Scalar:
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


def check_same(spec: DatasetSpec, first: tuple[str, pa.Schema], other: tuple[str, pa.Schema]) -> None:
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
