"""Folders as columns."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from pcace_dist.datasets.values.partitions import (
    NULL,
    partition_column,
    partition_types,
    partitions_of,
    with_partitions,
)
from pcace_dist.errors import DatasetError


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        ("a.parquet", {}),
        ("2024/a=1.parquet", {}),
        ("label=0/city=bonn/a.parquet", {"label": "0", "city": "bonn"}),
        ("data/label=0/more/a.parquet", {"label": "0"}),
        ("city=K%C3%B6ln%2FBonn/a.parquet", {"city": "Köln/Bonn"}),
        ("city=a=b/a.parquet", {"city": "a=b"}),
        (f"city={NULL}/a.parquet", {"city": None}),
        ("city=/a.parquet", {"city": ""}),
        ("=3/a.parquet", {}),
        ("label=0/label=1/a.parquet", {"label": "1"}),
    ],
)
def test_columns_that_folders_name(key: str, columns: dict[str, str | None]) -> None:
    assert partitions_of(key) == columns


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["0", "-3", "12"], pa.int64()),
        (["0", "cat"], pa.string()),
        (["007", "12"], pa.string()),
        (["1_000"], pa.string()),
        (["1.5"], pa.string()),
        (["0", NULL], pa.int64()),
        ([NULL], pa.string()),
        ([str(2**63)], pa.string()),
        ([""], pa.string()),
    ],
)
def test_types_are_those_of_all_files(values: list[str], kind: pa.DataType) -> None:
    assert partition_types(f"x={value}/a.parquet" for value in values) == {"x": kind}


def test_a_column_of_the_file_is_the_files() -> None:
    schema = pa.schema([("image", pa.binary()), ("label", pa.float32())], {b"a": b"b"})
    types = {"label": pa.int64(), "city": pa.string()}
    whole = with_partitions(schema, "label=0/city=bonn/a.parquet", types)
    assert whole.names == ["image", "label", "city"]
    assert whole.field("label").type == pa.float32()
    assert whole.metadata == {b"a": b"b"}


@pytest.mark.parametrize(
    ("value", "kind", "read"), [("3", pa.int64(), 3), ("3", pa.string(), "3"), (NULL, pa.int64(), None)]
)
def test_the_value_of_a_folder_stands_in_every_row(value: str, kind: pa.DataType, read: object) -> None:
    assert partition_column("x", f"x={value}/a.parquet", kind, 2).to_pylist() == [read, read]
    assert partition_column("x", f"x={value}/a.parquet", kind, 0).to_pylist() == []


def test_a_folder_that_comes_later_has_the_type_of_those_before() -> None:
    said = "dataset.path: x=cat/a.parquet: x=cat is no whole number, as in the folders before"
    with pytest.raises(DatasetError, match=re.escape(said)):
        with_partitions(pa.schema([]), "x=cat/a.parquet", {"x": pa.int64()})
