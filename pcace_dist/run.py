"""A finished run, read back: its ranking as Arrow or pandas, its summary, its bad rows. Local or s3://. No torch, no
Ray."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pcace_dist.datasets.storage import Storage, normalised
from pcace_dist.errors import DatasetError, UserError
from pcace_dist.job import Job, read_job

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """A finished run. `path` is what the job's `output` said."""

    path: str
    storage: Storage

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json as a dict."""
        content: dict[str, Any] = json.loads(self._read("summary.json"))
        return content

    @property
    def job(self) -> Job:
        """The resolved job, from job.yaml."""
        return read_job(self._read("job.yaml").decode(), name=f"{self.path}/job.yaml")

    def published(self) -> str | None:
        """The run below this path that `pcace rerank` published last; None where this is a run itself."""
        try:
            return str(json.loads(self.storage.read_bytes(f"{self.path}/latest.json"))["run"])
        except (OSError, DatasetError, ValueError, KeyError):
            return None

    def manifest(self) -> dict[str, Any]:
        """What the run is made of, from its ledger: fingerprint, digests of weights and plan, units."""
        number = 0
        while True:
            number += 1
            record = json.loads(self._read(f"ledger/{number:08d}.json"))
            if record["kind"] == "manifest":
                body: dict[str, Any] = record["body"]
                return body

    def ranking(
        self, *, top: int | None = None, layer: str | None = None, group: object = None, target: str | None = None
    ) -> pa.Table:
        """Rows of rankings.parquet, best first within each target and group when `top` is given.

        `layer`, `group` and `target` select, and only the row groups that may hold them are read; `top` keeps the best
        N channels of every target and group (ranks within the layer if a layer is named). Raises UserError naming
        what there is when nothing matches.
        """
        try:
            source = self.storage.open(f"{self.path}/rankings.parquet")
            schema = pq.read_schema(source)
            selected = _selection(schema, {"layer": layer, "group": group, "target": target})
            table = None if selected is False else pq.read_table(source, filters=selected)
        except FileNotFoundError:
            raise self._unfinished("rankings.parquet") from None
        if table is None or not len(table):
            raise UserError(self._nothing_matches(layer=layer, group=group, target=target))
        if top is None:
            return table
        rank = "rank" if layer is None else "layer_rank"
        table = table.filter(pc.less_equal(pc.field(rank), top))
        order = pa.array(range(len(table)))
        keys = table.select(["target", "group"]).to_pylist()
        seen = {key: index for index, key in enumerate(dict.fromkeys(map(_group_key, keys)))}
        block = pa.array([seen[_group_key(key)] for key in keys], pa.int64())
        ranked = table.append_column("_block", block).append_column("_order", order)
        ranked = ranked.sort_by([("_block", "ascending"), (rank, "ascending"), ("_order", "ascending")])
        return ranked.drop_columns(["_block", "_order"])

    def to_pandas(self, **selection: Any) -> pd.DataFrame:
        """`ranking(...)` as a pandas DataFrame; needs the extra `pandas`."""
        frame: pd.DataFrame = self.ranking(**selection).to_pandas()
        return frame

    def across_groups(self, *, top: int | None = None, target: str | None = None) -> pa.Table:
        """Rows of rankings_across_groups.parquet: what all groups' rankings have in common (docs/outputs.md).

        With `top` the N channels of every target that are most often among a group's best. Raises UserError for a run
        without groups.
        """
        try:
            table = pq.read_table(self.storage.open(f"{self.path}/rankings_across_groups.parquet"))
        except FileNotFoundError:
            raise UserError(f"{self.path}: is a run without group_by, or not finished") from None
        names = pc.unique(table["target"]).to_pylist()
        if target is not None and target not in names:
            raise UserError(f"{self.path}: no rows for target {target!r} (there are: {', '.join(names)})")
        parts = [table.filter(pc.equal(table["target"], name)) for name in names if target in (None, name)]
        often = next(name for name in table.column_names if name.startswith("groups_in_top_"))
        if top is not None:
            parts = [part.sort_by([(often, "descending"), ("mean_score", "descending")])[:top] for part in parts]
        return pa.concat_tables(parts)

    def bad_rows(self) -> pa.Table:
        """Rows that were set aside: file, row_group, row, id, stage, reason."""
        try:
            return pq.read_table(self.storage.open(f"{self.path}/bad_rows.parquet"))
        except FileNotFoundError:
            raise self._unfinished("bad_rows.parquet") from None

    def jackknife(self) -> pa.Table:
        """Pseudo-values of score_squared: target, group, layer, channel, pseudo_values (a double per fold).

        Rows in the order of `ranking()`. Null unless the channel's status is ok; see docs/method.md, section 4.
        """
        table = self._table("jackknife.parquet")
        if table is None:
            raise self._unfinished("jackknife.parquet")
        return table

    def exemplars(self) -> pa.Table | None:
        """For every channel the rows with the largest mean activation (docs/outputs.md); None in a run without."""
        return self._table("exemplars.parquet")

    def sample(self) -> pa.Table | None:
        """A uniform sample of the rows with their codes (docs/outputs.md); None in a run without."""
        return self._table("sample.parquet")

    def transforms(self) -> pa.Table | None:
        """theta and phi on the knots (docs/outputs.md); None in a run without."""
        return self._table("transforms.parquet")

    def job_text(self) -> str:
        """job.yaml: the resolved job."""
        return self._read("job.yaml").decode()

    def plan_bytes(self) -> bytes:
        """The frozen plan, for `statistics.plan.Plan.from_bytes`."""
        return self._read(f"plan/{self.summary['plan']}.safetensors")

    def _table(self, name: str) -> pa.Table | None:
        try:
            return pq.read_table(self.storage.open(f"{self.path}/{name}"))
        except FileNotFoundError:
            return None

    def _read(self, name: str) -> bytes:
        try:
            return self.storage.read_bytes(f"{self.path}/{name}")
        except (FileNotFoundError, DatasetError):
            raise self._unfinished(name) from None

    def _unfinished(self, name: str) -> UserError:
        return UserError(
            f"{self.path}: holds no {name}; is it the output of a finished run? see `pcace status {self.path}`"
        )

    def _nothing_matches(self, **asked: object) -> str:
        source = self.storage.open(f"{self.path}/rankings.parquet")
        parts = []
        for column, value in asked.items():
            if value is not None:
                values = pq.read_table(source, columns=[column])[column]
                known = ", ".join(str(v) for v in pc.unique(values).to_pylist()[:20])
                parts.append(f"{column} {value!r} (there are: {known})")
        return f"{self.path}: no rows for {' and '.join(parts)}"


def open_run(path: str, *, storage: Storage | None = None) -> Run:
    """Open a finished run by its output path, local or s3://. Raises UserError when there is no ranking.

    The output of `pcace rerank` stands for the run that it published last.
    """
    run = Run(normalised(path), storage or Storage({}))
    latest = run.published()
    run = run if latest is None else Run(f"{run.path}/{latest}", run.storage)
    run.summary  # noqa: B018  (fails here rather than later when there is no run)
    return run


def _selection(schema: pa.Schema, asked: dict[str, object]) -> pc.Expression | bool | None:
    """What rows are asked for, in the columns' own types; None for all, False where no row can match."""
    selected = None
    for column, value in asked.items():
        if value is None:
            continue
        try:
            wanted = pa.scalar(str(value)).cast(schema.field(column).type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return False
        clause = pc.field(column) == wanted
        selected = clause if selected is None else selected & clause
    return selected


def _group_key(key: dict[str, Any]) -> tuple[str, str]:
    return str(key["target"]), str(key["group"])
