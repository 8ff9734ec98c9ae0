"""Tables as the bytes of Parquet and Arrow files."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_bytes(table: pa.Table, *, row_group_rows: int | None = None) -> bytes:
    """A whole Parquet file in memory: it is published with one put."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_rows)
    return sink.getvalue()


def ipc_bytes(table: pa.Table) -> bytes:
    """A whole Arrow IPC file in memory."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
