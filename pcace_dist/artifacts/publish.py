"""Publishing: whole objects, one put each, in the order of the protocol (item 10): rankings, bad rows, then `done` with
their digests, then summary.json. No done, no result. No Ray.
"""

from __future__ import annotations

import base64
import io
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.artifacts.across_groups import across_groups_table
from pcace_dist.artifacts.attempt import BAD_ROWS_SCHEMA, parquet_bytes, read_checked
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.checked import Digest
from pcace_dist.artifacts.examples import ShownRows, exemplars_table, sample_table
from pcace_dist.artifacts.jackknife import publish_jackknife
from pcace_dist.artifacts.plan_metadata import Facts
from pcace_dist.artifacts.rankings import rankings_table
from pcace_dist.artifacts.transforms import BlockCurves, transforms_table
from pcace_dist.config.job import FORMAT_VERSION, Job
from pcace_dist.datasets.units import Unit
from pcace_dist.errors import OutputError
from pcace_dist.ledger.ledger import RESTORE, Receipt, RunState
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.ranks import Ranks
from pcace_dist.storage.store import Sink, Store

PACKAGES = ("pcace-dist", "ray", "torch", "torchvision", "numpy", "scipy", "pyarrow")

ROW_GROUP_ROWS = 8192

DONE, TOO_MANY_BAD_ROWS, NOTHING_RANKED = "done", "too_many_bad_rows", "nothing_ranked"  # outcomes; with code 0, 4, 4


@dataclass
class Publication:
    """Hands published files on and keeps their digests, for `done`."""

    put_on: Callable[[str, bytes], None]
    files: dict[str, Digest] = field(default_factory=dict)

    def put(self, key: str, data: bytes) -> None:
        self.put_on(key, data)
        self.files[key] = Digest.of(data)

    def to_json(self) -> dict[str, Any]:
        return {name: digest.to_json() for name, digest in self.files.items()}


@dataclass(frozen=True)
class Results:
    """What a reduce has found, and what else its files are made of. `grouped`: the job has group_by."""

    plan: Plan
    state: RunState
    blocks: Sequence[BlockScores]
    ranks: Sequence[Ranks]
    shown: Sequence[Mapping[str, bytes]]
    group_type: pa.DataType
    grouped: bool


def publish_results(sink: Sink, store: Store, found: Results) -> None:
    """All files of a result but the index of kept codes and summary.json. store: where the attempts lie."""
    plan, blocks, group_type = found.plan, found.blocks, found.group_type
    receipts = found.state.accepted_receipts()
    check_counts(store, blocks, receipts)
    publish_shown(sink, plan, found.shown, group_type)
    publish_transforms(sink, plan, [curves for block in blocks for curves in block.curves], group_type)
    publish_jackknife(sink, plan, blocks, group_type)
    if found.grouped:
        publish_across_groups(sink, across_groups_table(plan, blocks, found.ranks))
    publish_rankings(sink, rankings_table(plan, blocks, found.ranks, Facts.of(plan).weight_norms, group_type))
    publish_bad_rows(sink, store, receipts, rows_set_aside(found.state))


def check_counts(store: Store, blocks: Sequence[BlockScores], receipts: Iterable[Receipt]) -> None:
    """Raises OutputError unless the attempts hold as many images as the ledger says that they do."""
    counted = sum(count.rows for receipt in receipts for count in receipt.units.values())
    for block in blocks:
        held = sum(int(scores[0].images.max(initial=0)) for scores in block.scores.values())
        if held != counted:
            raise OutputError(
                f"{store.url}/ledger: its accept records count {counted:,} images, the files of their attempts hold "
                f"{held:,}; {RESTORE}"
            )


def rows_set_aside(state: RunState) -> Iterable[dict[str, Any]]:
    """A unit that kept killing its workers is listed row group by row group."""
    units = {unit["id"]: unit for unit in (state.manifest or {}).get("units", ())}
    for unit, reason in state.set_aside.items():
        for piece in Unit.from_json(units[unit]).pieces:
            yield {
                "file": piece.key,
                "row_group": piece.row_group,
                "row": None,
                "id": None,
                "stage": "model",
                "reason": f"{piece.rows} rows: {reason}",
            }


def publish_rankings(sink: Sink, rankings: pa.Table) -> None:
    """In row groups of some thousand rows, whose statistics let a reader skip other targets and groups."""
    sink.put("rankings.parquet", parquet_bytes(rankings, row_group_rows=ROW_GROUP_ROWS))


def publish_across_groups(sink: Sink, table: pa.Table) -> None:
    sink.put("rankings_across_groups.parquet", parquet_bytes(table))


def publish_bad_rows(
    sink: Sink, store: Store, receipts: Sequence[Receipt], set_aside: Iterable[Mapping[str, Any]]
) -> None:
    """bad_rows.parquet from all accepted attempts and the units that were set aside, in the order of the data set."""
    tables = [pa.Table.from_pylist(list(set_aside), schema=BAD_ROWS_SCHEMA)]
    for receipt in receipts:
        ref = receipt.files.get("bad_rows.parquet")
        if ref is not None:
            data = read_checked(store, receipt.attempt, "bad_rows.parquet", ref)
            tables.append(pq.read_table(io.BytesIO(data)))
    table = pa.concat_tables(tables)
    sink.put(
        "bad_rows.parquet",
        parquet_bytes(table.sort_by([("file", "ascending"), ("row_group", "ascending"), ("row", "ascending")])),
    )


def publish_shown(sink: Sink, plan: Plan, parts: Sequence[Mapping[str, bytes]], group_type: pa.DataType) -> None:
    """exemplars.parquet and sample.parquet, from what `merge_shown` gave; nothing where no images were read."""
    if not parts:
        return
    total = ShownRows(plan).merge(ShownRows.from_files(plan, part) for part in parts)
    sink.put("exemplars.parquet", parquet_bytes(exemplars_table(total.top, plan)))
    rows = total.sample.rows()
    if rows is not None:
        sink.put("sample.parquet", parquet_bytes(sample_table(rows, plan, group_type)))


def publish_transforms(sink: Sink, plan: Plan, curves: Sequence[BlockCurves], group_type: pa.DataType) -> None:
    """transforms.parquet: theta and phi of the channels that are shown (curves.py says which)."""
    sink.put("transforms.parquet", parquet_bytes(transforms_table(plan, curves, group_type)))


def summary_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json, as plain JSON without NaN."""
    content = {"format_version": FORMAT_VERSION, **facts, "versions": versions()}
    plain: dict[str, Any] = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return plain


def publish_summary(store: Store, summary: Mapping[str, Any]) -> None:
    """summary.json: written while the run works (outcome `running`) and last of all when it ends."""
    store.put("summary.json", summary_bytes(summary))


def summary_bytes(summary: Mapping[str, Any]) -> bytes:
    return (json.dumps(summary, indent=2, sort_keys=False) + "\n").encode()


def done_body(summary: Mapping[str, Any], job: Job, group_type: pa.DataType, published: Publication) -> dict[str, Any]:
    """What `done` records: the outcome, what small files hold, and the digests of all, so that what is damaged later
    can be told and written anew."""
    last = Publication(lambda key, data: None, dict(published.files))
    last.put("job.yaml", job.to_yaml().encode())
    last.put("summary.json", summary_bytes(summary))
    kind = pa.schema([("group", group_type)]).serialize().to_pybytes()
    return {
        "exit_code": summary["exit_code"],
        "outcome": summary["outcome"],
        "summary": summary,
        "job": job.to_yaml(),
        "group_type": base64.b64encode(kind).decode(),
        "files": last.to_json(),
    }


def recorded_group_type(done: Mapping[str, Any]) -> pa.DataType:
    """The type of the column `group`, as `done_body` wrote it."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(done["group_type"]))).field("group").type


def versions() -> dict[str, str]:
    """Of Python and the libraries that results depend on; Numba's is in the numeric class, as it may be missing."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
