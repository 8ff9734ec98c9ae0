"""Publishing: whole objects, one put each, in the order of the protocol (item 10): rankings, bad rows, then `done`,
then summary.json. No done, no result. No Ray.
"""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.job import FORMAT_VERSION
from pcace_dist.service.attempt import BAD_ROWS_SCHEMA, parquet_bytes, read_checked
from pcace_dist.service.curves import BlockCurves, transforms_table
from pcace_dist.service.ledger import Receipt
from pcace_dist.service.shown import ShownRows, exemplars_table, sample_table
from pcace_dist.service.store import Store
from pcace_dist.statistics.plan import Plan

PACKAGES = ("pcace-dist", "ray", "torch", "torchvision", "numpy", "scipy", "pyarrow")

ROW_GROUP_ROWS = 8192

OUTCOMES = {0: "done", 1: "failed", 2: "wrong_input", 4: "too_many_bad_rows", 5: "stopped"}


def publish_rankings(store: Store, rankings: pa.Table) -> None:
    """In row groups of some thousand rows, whose statistics let a reader skip other targets and groups."""
    store.put("rankings.parquet", parquet_bytes(rankings, row_group_rows=ROW_GROUP_ROWS))


def publish_across_groups(store: Store, table: pa.Table) -> None:
    store.put("rankings_across_groups.parquet", parquet_bytes(table))


def publish_bad_rows(store: Store, receipts: Sequence[Receipt], set_aside: Iterable[Mapping[str, Any]]) -> None:
    """bad_rows.parquet from all accepted attempts and the units that were set aside, in the order of the data set."""
    tables = [pa.Table.from_pylist(list(set_aside), schema=BAD_ROWS_SCHEMA)]
    for receipt in receipts:
        ref = receipt.files.get("bad_rows.parquet")
        if ref is not None:
            data = read_checked(store, receipt.attempt, "bad_rows.parquet", ref)
            tables.append(pq.read_table(io.BytesIO(data)))
    table = pa.concat_tables(tables)
    store.put(
        "bad_rows.parquet",
        parquet_bytes(table.sort_by([("file", "ascending"), ("row_group", "ascending"), ("row", "ascending")])),
    )


def publish_shown(store: Store, plan: Plan, parts: Sequence[Mapping[str, bytes]], group_type: pa.DataType) -> None:
    """exemplars.parquet and sample.parquet, from what `merge_shown` gave; nothing where no images were read."""
    if not parts:
        return
    total = ShownRows(plan).merge(ShownRows.from_files(plan, part) for part in parts)
    store.put("exemplars.parquet", parquet_bytes(exemplars_table(total.top, plan)))
    rows = total.sample.rows()
    if rows is not None:
        store.put("sample.parquet", parquet_bytes(sample_table(rows, plan, group_type)))


def publish_transforms(store: Store, plan: Plan, curves: Sequence[BlockCurves], group_type: pa.DataType) -> None:
    """transforms.parquet: theta and phi of the channels that are shown (curves.py says which)."""
    store.put("transforms.parquet", parquet_bytes(transforms_table(plan, curves, group_type)))


def summary_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json, as plain JSON without NaN."""
    content = {"format_version": FORMAT_VERSION, **facts, "versions": versions()}
    plain: dict[str, Any] = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return plain


def publish_summary(store: Store, summary: Mapping[str, Any]) -> None:
    """summary.json: written while the run works (outcome `running`) and last of all when it ends."""
    store.put("summary.json", (json.dumps(summary, indent=2, sort_keys=False) + "\n").encode())


def read_summary(store: Store) -> dict[str, Any]:
    """summary.json as it is; empty if there is none."""
    content: dict[str, Any] = json.loads(store.get("summary.json") or b"{}")
    return content


def versions() -> dict[str, str]:
    """Of Python and the libraries that results depend on; Numba's is in the numeric class, as it may be missing."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
