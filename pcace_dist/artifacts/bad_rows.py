"""bad_rows.parquet: every row that was set aside, in the order of the data set, with stage and reason."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pcace_dist.artifacts.checked import read_table
from pcace_dist.artifacts.columns import FILE, Column, Table
from pcace_dist.artifacts.encoding import parquet_bytes
from pcace_dist.datasets.rows import BadRow
from pcace_dist.datasets.units import Unit
from pcace_dist.ledger.ledger import RunState
from pcace_dist.storage.store import Sink

BAD_ROWS = "bad_rows.parquet"  # of a run, and of each attempt
BAD_ROWS_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row_group", pa.int32()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
    ]
)

TABLE = Table(
    BAD_ROWS,
    "A row per row of the data set that was set aside, in the order of the data set; none where all are good.",
    (
        FILE,
        Column("row_group", "int32", "row group in the file, from 0"),
        Column("row", "int64", "row in the file, from 0; null where a whole row group was set aside"),
        Column("id", "string", "its id: column `dataset.id`, else PATH#ROW"),
        Column("stage", "string", "where it failed: `read`, `decode`, `model` or `target`"),
        Column("reason", "string", "what was wrong"),
    ),
)


def rows_set_aside(state: RunState) -> Iterable[dict[str, Any]]:
    """The units that were set aside because they killed their workers: a row of bad_rows.parquet per row group."""
    units = {unit["id"]: unit for unit in (state.manifest or {}).get("units", ())}
    for unit, reason in state.set_aside.items():
        for row_group in Unit.from_json(units[unit]).row_groups:
            yield {
                "file": row_group.key,
                "row_group": row_group.row_group,
                "row": None,
                "id": None,
                "stage": "model",
                "reason": f"{row_group.rows} rows: {reason}",
            }


def publish_bad_rows(sink: Sink, of_attempts: Iterable[bytes], set_aside: Iterable[Mapping[str, Any]]) -> None:
    """Write bad_rows.parquet from those of the accepted attempts and the units that were set aside."""
    tables = [pa.Table.from_pylist(list(set_aside), schema=BAD_ROWS_SCHEMA)]
    tables += [read_table(io.BytesIO(data)) for data in of_attempts]
    table = pa.concat_tables(tables)
    sink.put(
        BAD_ROWS,
        parquet_bytes(table.sort_by([("file", "ascending"), ("row_group", "ascending"), ("row", "ascending")])),
    )


def stages_of(bad_rows: bytes) -> set[str]:
    return set(read_table(io.BytesIO(bad_rows), columns=["stage"])["stage"].to_pylist())


def bad_rows_table(bad: Sequence[BadRow]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"file": b.file, "row_group": b.row_group, "row": b.row, "id": b.id, "stage": b.stage, "reason": b.reason}
            for b in bad
        ],
        schema=BAD_ROWS_SCHEMA,
    )
