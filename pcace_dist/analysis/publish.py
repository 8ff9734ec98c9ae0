"""Writes the results of an analysis beside a run or elsewhere, local or s3://: whole objects, one-line errors."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.analysis.columns import COMPARISON, MATCHING
from pcace_dist.analysis.compare import Comparison
from pcace_dist.analysis.matched import Matched
from pcace_dist.errors import OutputError
from pcace_dist.storage.files import Storage


def write_comparison(comparison: Comparison, folder: str, storage: Storage, matched: Matched | None = None) -> None:
    """comparison.parquet, with a matching also matching.parquet, then comparison.json. Raises OutputError."""
    write_parquet(comparison.channels, f"{folder}/{COMPARISON.file}", storage)
    content = comparison.to_json()
    if matched is not None:
        write_parquet(matched.table(), f"{folder}/{MATCHING.file}", storage)
        content |= {"matching": matched.to_json()}
    write_json(content, f"{folder}/comparison.json", storage)


def write_parquet(table: pa.Table, url: str, storage: Storage) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(sink.getvalue(), url, storage)


def write_json(content: Mapping[str, Any], url: str, storage: Storage, *, option: str = "--output") -> None:
    write_bytes((json.dumps(content, indent=2) + "\n").encode(), url, storage, option=option)


def write_text(content: str, url: str, storage: Storage) -> None:
    write_bytes(content.encode(), url, storage)


def write_bytes(data: bytes, url: str, storage: Storage, *, option: str = "--output") -> None:
    """Raises OutputError. option: the one that chooses the place."""
    try:
        storage.put_bytes(data, url)
    except OSError as error:
        raise OutputError(f"{error}; choose another folder with {option}") from None
