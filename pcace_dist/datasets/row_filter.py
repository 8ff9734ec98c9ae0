"""The rows that dataset.filter keeps: a column equals a value, or one of several. The only place that decides this."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pcace_dist.datasets.columns import filter_scalars, plain


class RowFilter:
    """A job's filter, for columns of known types. Null is never kept."""

    def __init__(self, filters: Mapping[str, Any], type_of: Callable[[str], pa.DataType]) -> None:
        """Raises DatasetError for a value that cannot be compared with its column. `type_of`: plain types."""
        self._values = {column: filter_scalars(column, value, type_of(column)) for column, value in filters.items()}

    def __bool__(self) -> bool:
        return bool(self._values)

    @property
    def columns(self) -> list[str]:
        return list(self._values)

    def mask(self, column_of: Callable[[str], pa.ChunkedArray], rows: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows are kept: bool (rows,)."""
        mask = np.ones(rows, dtype=bool)
        for name in self._values:
            mask &= self.keeps(name, column_of(name))
        return mask

    def keeps(self, name: str, column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which values of one of the filter's columns are kept."""
        column = plain(column)
        allowed = pa.array([value.as_py() for value in self._values[name]], column.type)
        return np.asarray(pc.fill_null(pc.is_in(column, allowed), False).to_numpy())

    def rules_out(self, file: pq.FileMetaData, row_group: int) -> bool:
        """Whether the statistics of a row group prove that no row of it is kept."""
        row_group_metadata = file.row_group(row_group)
        for index in range(row_group_metadata.num_columns):
            column = row_group_metadata.column(index)
            top_level = file.schema.column(index).name == column.path_in_schema  # no field of a struct
            values = self._values.get(column.path_in_schema) if top_level else None
            if values is None or not column.is_stats_set or not column.statistics.has_min_max:
                continue
            low, high = column.statistics.min, column.statistics.max
            with contextlib.suppress(TypeError):  # statistics of another type prove nothing
                if all(value.as_py() < low or value.as_py() > high for value in values):
                    return True
        return False
