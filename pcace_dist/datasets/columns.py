"""The columns that a job needs from its files: their names and types, and the values of a filter. Pure; no I/O.

Errors are one-line `DatasetError`s that name the key of the job file. Types are those of the values: their encoding in
the file (dictionary, view) makes no difference.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pcace_dist.datasets.sections import Dataset
from pcace_dist.datasets.values.image_files import is_image_file
from pcace_dist.datasets.values.labels import Labelling, is_number, is_text
from pcace_dist.datasets.values.partitions import with_partitions
from pcace_dist.errors import DatasetError


@dataclass(frozen=True)
class DatasetSpec(Dataset):
    """The job's dataset section with its paths resolved, and the further columns that the job needs.

    `columns` are target columns (numeric, read as float64), `vectors` those of lists of numbers, `group_by` a column of
    any plain type. With `keep`, all plain columns of the files are read too (`kept_columns`). `labelling`: how labels
    are class indices. `partitions`: columns that folders name, with their types; None: as `list_dataset` finds them.
    `images_below`: where the image column names files, the folder that their paths are below.
    """

    group_by: str | None = None
    columns: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    keep: bool = False
    labelling: Labelling = field(default=Labelling())
    partitions: Mapping[str, pa.DataType] | None = None
    images_below: str | None = None

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
        for column in self.vectors:
            yield "target cosine", column


def check_schema(spec: DatasetSpec, schema: pa.Schema, key: str) -> pa.Schema:
    """The needed columns of a file's schema. Raises DatasetError for a missing column or a wrong type."""
    schema = with_partitions(schema, key, spec.partitions or {})
    for role, column in spec.roles():
        if schema.names.count(column) == 0:
            raise DatasetError(f"{role}: no column {column!r} in {key}; {_instead(column, schema)}")
        if schema.names.count(column) > 1:
            raise DatasetError(f"{role}: {key} has more than one column {column!r}")
        column_type = plain_type(schema.field(column).type)
        requirement = _wanted(role, column_type)
        if requirement:
            raise DatasetError(f"{role}: column {column!r} in {key} is {column_type}; it must be {requirement}")
    for column, value in spec.filter.items():
        filter_scalars(column, value, plain_type(schema.field(column).type))
    names = dict.fromkeys([*(column for _, column in spec.roles()), *(kept_columns(spec, schema) if spec.keep else ())])
    return pa.schema([pa.field(name, plain_type(schema.field(name).type)) for name in names])


def _instead(column: str, schema: pa.Schema) -> str:
    """What an error says about a missing column."""
    nearest = difflib.get_close_matches(column, schema.names, n=1, cutoff=0.5)
    return (
        f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(map(repr, schema.names)) or 'no columns'}"
    )


def kept_columns(spec: DatasetSpec, schema: pa.Schema) -> list[str]:
    """The columns with plain values, which are kept with the codes: all but images and nested or binary columns."""
    return [
        field.name
        for field in schema
        if field.name != spec.image
        and schema.names.count(field.name) == 1
        and not pa.types.is_nested(plain_type(field.type))
        and not _is_binary(plain_type(field.type))
    ]


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """The type of the values, whatever their encoding in the file: for a dictionary-encoded column the dictionary's
    type, for a view the type that it views."""
    if pa.types.is_dictionary(dtype):
        return plain_type(dtype.value_type)
    if pa.types.is_string_view(dtype):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(dtype) or pa.types.is_fixed_size_binary(dtype) else dtype


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in its plain type."""
    target_type = plain_type(column.type)
    return column if target_type == column.type else column.cast(target_type)


def is_image_struct(dtype: pa.DataType) -> bool:
    """True for struct<bytes, ...> as Hugging Face writes images."""
    if not pa.types.is_struct(dtype):
        return False
    index = dtype.get_field_index("bytes")
    return index >= 0 and _is_binary(plain_type(dtype.field(index).type))


def is_vector(dtype: pa.DataType) -> bool:
    """True for a list of numbers, of one length or of many."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    numbers = (pa.types.is_integer, pa.types.is_floating)
    return any(kind(dtype) for kind in lists) and any(kind(dtype.value_type) for kind in numbers)


def filter_scalars(column: str, value: Any, dtype: pa.DataType) -> list[pa.Scalar]:
    """The value or values of a filter as scalars of the column's type. Raises DatasetError for a value that cannot be
    compared with the column."""
    return [_filter_scalar(column, item, dtype) for item in (value if isinstance(value, list | tuple) else [value])]


def _filter_scalar(column: str, value: Any, dtype: pa.DataType) -> pa.Scalar:
    problem = DatasetError(f"dataset.filter.{column}: {value!r} cannot be compared with the column's type {dtype}")
    fits = (
        (pa.types.is_boolean(dtype) and isinstance(value, bool))
        or (pa.types.is_integer(dtype) and isinstance(value, int) and not isinstance(value, bool))
        or (pa.types.is_floating(dtype) and isinstance(value, int | float) and not isinstance(value, bool))
        or (is_text(dtype) and isinstance(value, str))
        or ((pa.types.is_date(dtype) or pa.types.is_timestamp(dtype)) and isinstance(value, str))
    )
    if not fits:
        raise problem
    try:
        return pa.scalar(value).cast(dtype) if pa.types.is_temporal(dtype) else pa.scalar(value, dtype)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        raise problem from None


def _wanted(role: str, dtype: pa.DataType) -> str:
    """The type that a column must have for `role`; empty where `dtype` is one."""
    if role == "dataset.image":
        is_image = _is_binary(dtype) or is_image_struct(dtype) or is_image_file(dtype)
        return "" if is_image else "binary, or a struct with bytes"
    if role == "dataset.label":
        return "" if is_number(dtype) or is_text(dtype) else "the number or the name of a class"
    if role == "dataset.id":
        return "" if pa.types.is_integer(dtype) or is_text(dtype) else "string or integer"
    if role == "target":
        return "" if is_number(dtype) or pa.types.is_decimal(dtype) else "numeric"
    if role == "target cosine":
        return "" if is_vector(dtype) else "a list of numbers"
    return "a plain value" if pa.types.is_nested(dtype) or _is_binary(dtype) else ""


def _is_binary(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype))


def check_same(spec: DatasetSpec, first: tuple[str, pa.Schema], other: tuple[str, pa.Schema]) -> None:
    """Raise DatasetError where two files disagree in the type of ids, groups, folds or kept columns: these values are
    compared across files. Labels must be numbers in both, or names."""
    for role, column in spec.roles():
        if role not in ("dataset.label", "dataset.id", "dataset.fold_by", "group_by"):
            continue
        first_type, other_type = first[1].field(column).type, other[1].field(column).type
        families = map(is_text if role == "dataset.label" else _family, (first_type, other_type))
        if len(set(families)) > 1:
            raise DatasetError(
                f"{role}: column {column!r} is {first_type} in {first[0]} but {other_type} in {other[0]}"
            )
    for column in set(first[1].names) & set(other[1].names) if spec.keep else ():
        first_type, other_type = first[1].field(column).type, other[1].field(column).type
        if column != spec.image and _family(first_type) != _family(other_type):
            raise DatasetError(
                f"statistics.keep_codes: column {column!r} is {first_type} in {first[0]} but {other_type} in {other[0]}"
            )


def _family(dtype: pa.DataType) -> str:
    if is_text(dtype):
        return "text"
    return "integer" if pa.types.is_integer(dtype) else str(dtype)
