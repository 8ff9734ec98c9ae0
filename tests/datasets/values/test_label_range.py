"""What is known of labels before any row is read."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.datasets.values.label_range import label_range
from pcace_dist.datasets.values.labels import LabelRange
from pcace_dist.datasets.values.partitions import NULL, partition_types


def footer(values: list[object], kind: pa.DataType | None = None, **options: object) -> pq.FileMetaData:
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"label": pa.array(values, kind), "x": range(len(values))}), buffer, row_group_size=2, **options
    )
    return pq.read_metadata(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize(
    ("values", "kind", "known"),
    [
        ([3, 1, 7], pa.int64(), LabelRange(1, 7, True)),
        ([3, 1, 7], pa.uint8(), LabelRange(1, 7, True)),
        ([3, -1, 7], pa.int32(), LabelRange(-1, 7, False)),
        ([3, None, 7], pa.int64(), LabelRange(3, 7, False)),
        ([3, 2**64 - 1], pa.uint64(), LabelRange(3, 2**64 - 1, True)),
        ([1.0, 2.0], pa.float32(), LabelRange(1, 2, False)),
        (["a", "b", "c"], pa.string(), LabelRange(None, None, True)),
        (["a", None, "c"], pa.string(), LabelRange(None, None, False)),
        ([None, None, 3], pa.int64(), LabelRange(3, 3, False)),
    ],
)
def test_the_range_of_all_row_groups(values: list[object], kind: pa.DataType, known: LabelRange) -> None:
    assert label_range(footer(values, kind), "a.parquet", "label", {}) == known


def test_without_statistics_nothing_is_known() -> None:
    assert label_range(footer([1, 2], write_statistics=["x"]), "a.parquet", "label", {}) == LabelRange(
        None, None, False
    )
    assert label_range(footer([1, 2]), "a.parquet", "other", {}) == LabelRange(None, None, False)


@pytest.mark.parametrize(
    ("value", "known"),
    [
        ("3", LabelRange(3, 3, True)),
        ("-1", LabelRange(-1, -1, False)),
        ("cat", LabelRange(None, None, True)),
        (NULL, LabelRange(None, None, False)),
    ],
)
def test_the_range_of_a_folder(value: str, known: LabelRange) -> None:
    key = f"class={value}/a.parquet"
    assert label_range(footer([1, 2]), key, "class", partition_types([key])) == known


def test_ranges_add_up() -> None:
    assert LabelRange(1, 3, True) | LabelRange(0, 2, True) == LabelRange(0, 3, True)
    assert LabelRange(1, 3, True) | LabelRange(None, None, False) == LabelRange(None, None, False)
