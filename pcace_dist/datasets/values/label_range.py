"""What footers and folders say of a column of labels before any row is read: its range, and whether every row has one.
Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.datasets.values.labels import NO_ROWS, UNLABELLED, LabelRange
from pcace_dist.datasets.values.partitions import partition_column, partitions_of

NOT_KNOWN = LabelRange(None, None, False)


def label_range(footer: pq.FileMetaData, key: str, column: str, partitions: Mapping[str, pa.DataType]) -> LabelRange:
    """The range in one file: by the statistics of its row groups, or by its folder's name."""
    if column in footer.schema.to_arrow_schema().names:
        place = _place(footer, column)
        groups = (footer.row_group(i) for i in range(footer.num_row_groups))
        ranges = [NOT_KNOWN if place is None else _of_chunk(group.column(place)) for group in groups if group.num_rows]
        return _of_all(ranges)
    if column not in partitions or column not in partitions_of(key):
        return NOT_KNOWN
    value = partition_column(column, key, partitions[column], 1)[0].as_py()
    if isinstance(value, int):
        return LabelRange(value, value, value != UNLABELLED)
    return LabelRange(None, None, value is not None)


def _of_all(ranges: list[LabelRange]) -> LabelRange:
    whole = NO_ROWS
    for part in ranges:
        whole |= part
    return whole


def _place(footer: pq.FileMetaData, column: str) -> int | None:
    schema = footer.schema
    return next((i for i in range(len(schema)) if schema.column(i).path == column), None)


def _of_chunk(chunk: pq.ColumnChunkMetaData) -> LabelRange:
    statistics = chunk.statistics if chunk.is_stats_set else None
    if statistics is None or not statistics.has_null_count:
        return NOT_KNOWN
    if not statistics.has_min_max:
        return replace(NO_ROWS, complete=False) if statistics.null_count == chunk.num_values else NOT_KNOWN
    low, high = statistics.min, statistics.max
    if isinstance(low, str | bytes):
        return LabelRange(None, None, statistics.null_count == 0)
    if not isinstance(low, int):  # of floats, NaN does not count
        return LabelRange(low, high, False) if isinstance(low, float) else NOT_KNOWN
    return LabelRange(low, high, statistics.null_count == 0 and low > UNLABELLED)
