"""A finished run, read back: its ranking as Arrow or pandas, its summary, its bad rows. Local or s3://. No torch, no
Ray."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pcace_dist.datasets.storage import Storage
from pcace_dist.errors import DatasetError, UserError

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

    def ranking(
        self, *, top: int | None = None, layer: str | None = None, group: object = None, target: str | None = None
    ) -> pa.Table:
        """Rows of rankings.parquet, best first within each target and group when `top` is given.

        `layer`, `group` and `target` select; `top` keeps the best N channels of every target and group (ranks within
        the layer if a layer is named). Raises UserError naming what there is when nothing matches.
        """
        filesystem, path = self.storage.filesystem(f"{self.path}/rankings.parquet")
        dataset_filter = None
        for column, value in (("layer", layer), ("group", group), ("target", target)):
            if value is None:
                continue
            clause = pc.equal(pc.field(column).cast(pa.string()), pa.scalar(str(value)))
            dataset_filter = clause if dataset_filter is None else dataset_filter & clause
        try:
            table = pq.read_table(path, filesystem=filesystem, filters=dataset_filter)
        except FileNotFoundError:
            raise self._unfinished("rankings.parquet") from None
        if not len(table):
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

    def bad_rows(self) -> pa.Table:
        """Rows that were set aside: file, row_group, row, id, stage, reason."""
        filesystem, path = self.storage.filesystem(f"{self.path}/bad_rows.parquet")
        try:
            return pq.read_table(path, filesystem=filesystem)
        except FileNotFoundError:
            raise self._unfinished("bad_rows.parquet") from None

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
        filesystem, path = self.storage.filesystem(f"{self.path}/{name}")
        try:
            return pq.read_table(path, filesystem=filesystem)
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
        filesystem, path = self.storage.filesystem(f"{self.path}/rankings.parquet")
        parts = []
        for column, value in asked.items():
            if value is not None:
                values = pq.read_table(path, filesystem=filesystem, columns=[column])[column]
                known = ", ".join(str(v) for v in pc.unique(values).to_pylist()[:20])
                parts.append(f"{column} {value!r} (there are: {known})")
        return f"{self.path}: no rows for {' and '.join(parts)}"


def open_run(path: str, *, storage: Storage | None = None) -> Run:
    """Open a finished run by its output path, local or s3://. Raises UserError when there is no ranking."""
    run = Run(path.rstrip("/"), storage or Storage({}))
    run.summary  # noqa: B018  (fails here rather than later when there is no run)
    return run


def _group_key(key: dict[str, Any]) -> tuple[str, str]:
    return str(key["target"]), str(key["group"])
