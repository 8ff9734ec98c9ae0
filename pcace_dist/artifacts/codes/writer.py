"""Writes the codes file of an attempt."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.artifacts.attempt import blocks_of
from pcace_dist.artifacts.codes.columns import KeptRows, binary_rows, codes_schema
from pcace_dist.statistics.plan import LayerCodes, Plan


class CodesWriter:
    """The codes file of the attempt in hand, written in memory, a row group per unit."""

    def __init__(self, plan: Plan, kept_columns: pa.Schema) -> None:
        self._plan = plan
        self._kept_columns = kept_columns
        self._schema = codes_schema(plan, kept_columns)
        self._blocks = blocks_of(plan)
        self._sink = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None

    @property
    def nbytes(self) -> int:
        """Bytes written so far."""
        return self._sink.tell()

    def add(self, rows: KeptRows, codes: Mapping[str, LayerCodes]) -> None:
        """The rows of one unit with the codes of every layer."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="zstd",
                use_dictionary=["file"],
                write_statistics=["file", "row_group"],
                write_page_checksum=True,
            )
        arrays: list[pa.Array] = [
            pa.array([ref.file for ref in rows.refs], pa.string()),
            pa.array([ref.row_group for ref in rows.refs], pa.int32()),
            pa.array([ref.row for ref in rows.refs], pa.int64()),
            pa.array([ref.id for ref in rows.refs], pa.string()),
            pa.array(rows.fold_keys, pa.uint64()),
        ]
        arrays += [pa.array([row.get(field.name) for row in rows.columns], field.type) for field in self._kept_columns]
        arrays += [pa.array(rows.targets[:, index], pa.float64()) for index in range(len(self._plan.targets))]
        if self._plan.effect_targets:
            assert rows.effects is not None
            arrays += [pa.array(column, pa.float64(), mask=np.isnan(column)) for column in rows.effects.T]
        for block in self._blocks:
            block_codes = codes[block.layer].block(block.channels)
            arrays += [binary_rows(part) for part in block_codes.tensors()]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(rows.refs))

    def finish(self) -> bytes | None:
        """The file; None when no row was added. The writer is used up."""
        if self._writer is None:
            return None
        self._writer.close()
        return self._sink.getvalue()
