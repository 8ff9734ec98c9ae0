"""Where the images were taken: latitude and longitude of the sample's rows, if the data have such columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.reporting.source import ReportSource

LATITUDE = ("latitude", "lat")
LONGITUDE = ("longitude", "lon", "lng", "long")


@dataclass(frozen=True, eq=False)
class Places:
    """Latitude and longitude in degrees of the sample's rows (n,), NaN where a row has none."""

    columns: tuple[str, str]
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]


def place_columns(schema: pa.Schema) -> tuple[str, str] | None:
    """Names of the two columns, in any case of letters; None unless there are both."""
    names = {name.lower(): name for name in schema.names if _is_number(schema.field(name).type)}
    latitude = next((names[name] for name in LATITUDE if name in names), None)
    longitude = next((names[name] for name in LONGITUDE if name in names), None)
    return None if latitude is None or longitude is None else (latitude, longitude)


def read_places(source: ReportSource) -> Places | None:
    """The sample's places. Only the two columns are read, of the row groups that contain its rows."""
    sample = source.sample
    if sample is None:
        return None
    urls = {file.key: file.url for file in source.listing.files}
    rows_of_group: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for position, (file, group, row) in enumerate(sample.refs(np.arange(len(sample), dtype=np.int64))):
        rows_of_group.setdefault((file, group), []).append((position, row))
    values = np.full((len(sample), 2), np.nan)
    columns: tuple[str, str] | None = None
    for file in dict.fromkeys(name for name, _ in rows_of_group):
        with source.storage.open(urls[file]) as stream:
            parquet = pq.ParquetFile(stream)
            columns = place_columns(parquet.schema_arrow)
            if columns is None:
                return None
            first = np.concatenate(
                [[0], np.cumsum([parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)])]
            )
            for group in sorted(g for name, g in rows_of_group if name == file):
                table = parquet.read_row_group(group, columns=list(columns))
                coordinates = np.stack([_floats(table[name]) for name in columns], 1)
                for position, row in rows_of_group[file, group]:
                    values[position] = coordinates[row - first[group]]
    if columns is None or not np.isfinite(values).all(1).any():
        return None
    return Places(columns, values[:, 0], values[:, 1])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
