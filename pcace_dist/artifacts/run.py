"""A finished run, read back: its ranking as Arrow or pandas, its summary, its bad rows. Local or s3://. No torch, no
Ray.

The ledger's `done` says what was published: every byte is checked against it before it is used. Version 0.1.0 recorded
no digests; its runs are read as they are.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.artifacts.bad_rows import BAD_ROWS
from pcace_dist.artifacts.checked import (
    Damaged,
    Digest,
    fetching,
    parquet,
    parse_json,
    parsing,
    read_checked,
    read_parquet,
    read_table,
)
from pcace_dist.artifacts.jackknife import BY_FOLD, JACKKNIFE
from pcace_dist.artifacts.rankings import RANKINGS, best_of, why_unranked
from pcace_dist.artifacts.reading.class_names import CLASSES, ClassNames, names_of_table
from pcace_dist.config.choice import Wanted, choose, rows_with
from pcace_dist.config.job import Job, read_job
from pcace_dist.config.resolve import begun_in, images_of
from pcace_dist.errors import JobError, PcaceError, UserError, require_packages
from pcace_dist.ledger.records import RESTORE, IllegalHistory, Record
from pcace_dist.storage.files import Storage, normalised

if TYPE_CHECKING:
    import pandas as pd

RERANK = "the next `pcace rerank` writes it anew"


@dataclass(frozen=True)
class Run:
    """A finished run. `path` is what the job's `output` said."""

    path: str
    storage: Storage = field(repr=False)

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json as a dict; for a finished run the copy in the ledger."""
        recorded, url = self._done.get("summary"), f"{self.path}/summary.json"
        with parsing(url):
            return parse_json(self._read("summary.json"), url) if recorded is None else dict(recorded)

    @property
    def finished_at(self) -> float | None:
        """When it ended, in seconds since 1970 by its driver's clock; None where the ledger does not say that it is
        done, or is not here."""
        return self._last.time if self._last is not None and self._last.kind == "done" else None

    @property
    def job(self) -> Job:
        """The resolved job, from job.yaml."""
        return read_job(self.job_text(), name=f"{self.path}/job.yaml")

    @property
    def directory(self) -> str:
        """The directory that relative paths of the job are meant from."""
        return begun_in(self.path, self.job, self.summary.get("directory"))

    def published(self) -> str | None:
        """The run below this path that `pcace rerank` published last; None where this is a run itself."""
        url = f"{self.path}/latest.json"
        with fetching(url, RERANK):
            if self.storage.stat(url) is None and not self.storage.list(f"{self.path}/history"):
                return None
        data = read_checked(self.storage, url, None)
        with parsing(url, RERANK):
            return _name(parse_json(data, url, RERANK)["run"])

    def manifest(self) -> dict[str, Any]:
        """What the run is made of, from its ledger: fingerprint, digests of weights and plan, units."""
        for number in range(1, self._records[-1] + 1 if self._records else 1):
            record = self._record(number)
            if record.kind == "manifest":
                return record.body
        raise self._unfinished("manifest in its ledger")

    @cached_property
    def _records(self) -> list[int]:
        """Numbers of the ledger's records, ascending; none where only the results were copied here."""
        with fetching(f"{self.path}/ledger", RESTORE):
            names = [file.url.rpartition("/")[2] for file in self.storage.list(f"{self.path}/ledger")]
        return sorted(int(name[:8]) for name in names if len(name) == 13 and name[:8].isdecimal())

    @cached_property
    def _last(self) -> Record | None:
        return self._record(self._records[-1]) if self._records else None

    @property
    def _done(self) -> Mapping[str, Any]:
        """Body of the record that ends the run; empty where there is none."""
        return self._last.body if self._last is not None and self._last.kind == "done" else {}

    @cached_property
    def _digests(self) -> Mapping[str, Digest] | None:
        """Published files by name; None where they were not recorded."""
        files = self._done.get("files")
        with parsing(f"{self.path}/ledger"):
            return None if files is None else {name: Digest.from_json(value) for name, value in files.items()}

    def _record(self, number: int) -> Record:
        name = f"ledger/{number:08d}.json"
        try:
            return Record.from_bytes(read_checked(self.storage, f"{self.path}/{name}", None), number)
        except IllegalHistory as error:
            raise IllegalHistory(f"{self.path}/{error}") from error

    def ranking(
        self, *, top: int | None = None, layer: Wanted = None, group: Wanted = None, target: Wanted = None
    ) -> pa.Table:
        """Rows of rankings.parquet, best first within each target and group when `top` is given.

        `layer`, `group` (a value, or the name of a class) and `target` select by exact name or glob, one or a list of
        them; only the row groups that may hold them are read. `top` keeps the best N selected channels of every target
        and group. Raises UserError for a name that nothing has, with those that are near.
        """
        chosen = self._chosen(layer=layer, group=group, target=target)
        if top is not None and layer is None:  # ranks are over all layers: the others need not be read
            among = pc.field("rank") <= top
            chosen = among if chosen is None else chosen & among
        return best_of(self.table(RANKINGS, filters=chosen), top)

    def _chosen(self, **wanted: Wanted) -> pc.Expression | None:
        """The rows of rankings.parquet and jackknife.parquet that are wanted, as a filter; None for all."""
        self._refuse_unfinished()
        names = {column: own for column, own in wanted.items() if own is not None}
        if not names:
            return None
        with parquet(self.storage, *self._recorded(RANKINGS)) as file:
            return functools.reduce(operator.and_, (self._rows_with(file, *item) for item in names.items()))

    def _rows_with(self, file: pa.NativeFile, column: str, wanted: Wanted) -> pc.Expression:
        """The rows of the ranking that are wanted by one column, as a filter."""
        values = pc.unique(read_table(file, columns=[column])[column])
        chosen = choose(column, wanted, values.to_pylist(), self.names.of_column(column), where=self.path)
        return rows_with(column, chosen, values.type)

    def to_pandas(self, **selection: Any) -> pd.DataFrame:
        """`ranking(...)` as a pandas DataFrame; needs the extra `pandas`."""
        require_packages("Run.to_pandas", "pandas", "pandas")
        frame: pd.DataFrame = self.ranking(**selection).to_pandas()
        return frame

    def _repr_html_(self) -> str:
        """What a notebook shows: the best channels of each target, group and layer, with small pictures of what they
        respond to where the images lie on this machine."""
        from pcace_dist.artifacts.notebook import html

        rows = html.best_rows(self.table(RANKINGS, filters=[("layer_rank", "<=", html.TOP)]))
        shown = rows[: html.MOST_ROWS]
        pictures, notes = self._pictures([(row["layer"], row["channel"]) for row in shown])
        if len(rows) > len(shown):
            notes.append(f"{len(rows) - len(shown):,} more rows: run.ranking(top={html.TOP})")
        if not rows:
            grouped = self.job.group_by is not None
            notes += why_unranked(self.ranking(), self.names, self.job.statistics, grouped=grouped)
        title = f"{self.path}: {self.summary['images']:,} images"
        return html.page(title, shown, self.names, pictures, notes)

    def _pictures(self, channels: Sequence[tuple[str, int]]) -> tuple[list[list[str]], list[str]]:
        """Pictures of each of these channels' exemplars, and why there are none."""
        if not self.shows_images:
            return [[] for _ in channels], []
        from pcace_dist.artifacts.notebook.pictures import LocalRows, pictures_of
        from pcace_dist.artifacts.reading.rows import dataset_again

        try:
            dataset = dataset_again(self.job, self.manifest(), self.path, self.directory)
            rows = LocalRows(dataset, images_of(self.job), self.storage)
            return pictures_of(rows, self.exemplars(), channels), []
        except (PcaceError, OSError) as error:  # a notebook shows the ranking all the same
            return [[] for _ in channels], [f"no pictures: {error}"]

    def across_groups(self, *, top: int | None = None, target: Wanted = None) -> pa.Table:
        """Rows of rankings_across_groups.parquet: what all groups' rankings have in common (docs/outputs.md).

        With `top` the N channels of every target that are most often among a group's best. Raises UserError for a run
        without groups.
        """
        table = self.table_if_any("rankings_across_groups.parquet")
        if table is None:
            raise UserError(f"{self.path}: is a run without group_by")
        with parsing(f"{self.path}/rankings_across_groups.parquet"):
            return self._across(table, top, target)

    def _across(self, table: pa.Table, top: int | None, target: Wanted) -> pa.Table:
        names = choose(
            "target", target, pc.unique(table["target"]).to_pylist(), self.names.target_names, where=self.path
        )
        parts = [table.filter(pc.equal(table["target"], name)) for name in names]
        often = next(name for name in table.column_names if name.startswith("groups_in_top_"))
        if top is not None:
            parts = [part.sort_by([(often, "descending"), ("mean_score", "descending")])[:top] for part in parts]
        return pa.concat_tables(parts)

    def bad_rows(self) -> pa.Table:
        """Rows that were set aside: file, row_group, row, id, stage, reason."""
        return self._needed(BAD_ROWS)

    def jackknife(self) -> pa.Table:
        """Pseudo-values of score_squared: target, group, layer, channel, pseudo_values (a double per fold).

        Rows in the order of `ranking()`. Null unless the channel's status is ok; see docs/method.md, section 2.
        """
        return self._needed(JACKKNIFE)

    def with_jackknife(self, *, layer: Wanted = None, group: Wanted = None, target: Wanted = None) -> pa.Table:
        """Rows of `ranking` with the columns of `jackknife` beside theirs; runs of earlier versions have fewer."""
        chosen = self._chosen(layer=layer, group=group, target=target)
        table, jackknife = (self.table(name, filters=chosen) for name in (RANKINGS, JACKKNIFE))
        for name in jackknife.column_names:
            if name not in table.column_names:
                table = table.append_column(name, jackknife[name])
        return table

    def membership(self, top: int, *, layer: Wanted = None, group: Wanted = None, target: Wanted = None) -> pa.Table:
        """Rows of `ranking` with `in_top` and `in_top_probability`: who is among the true `top` best of its target and
        group, over all layers, with another pilot and any number of images (docs/method.md, section 4)."""
        from pcace_dist.artifacts.reading.together import with_membership

        return self._of_layers(with_membership(self.with_jackknife(group=group, target=target), top), layer)

    def simultaneous(self, *, layer: Wanted = None, group: Wanted = None, target: Wanted = None) -> pa.Table:
        """Rows of `ranking` with `score_low_simultaneous` and `score_high_simultaneous`: intervals that hold all
        channels of a target and group at once with 95 %. Those of `score_low` and `score_high` hold each channel."""
        from pcace_dist.artifacts.reading.together import with_simultaneous

        return self._of_layers(with_simultaneous(self.with_jackknife(group=group, target=target)), layer)

    def _of_layers(self, table: pa.Table, layer: Wanted) -> pa.Table:
        """The rows of some layers, without the columns of jackknife.parquet."""
        chosen = self._chosen(layer=layer)
        table = table if chosen is None else table.filter(chosen)
        return table.drop_columns([name for name in BY_FOLD if name in table.column_names])

    @property
    def shows_images(self) -> bool:
        """Whether its images may be shown: the job allows it, and its files say which they are."""
        exemplars = self.exemplars()
        return self.job.shown == "images" and (exemplars is None or exemplars["file"].null_count == 0)

    def exemplars(self) -> pa.Table | None:
        """For every channel the rows with the largest mean activation (docs/outputs.md); None if the run has none."""
        return self.table_if_any("exemplars.parquet")

    def sample(self) -> pa.Table | None:
        """A uniform sample of the rows with their codes (docs/outputs.md); None if the run has none."""
        return self.table_if_any("sample.parquet")

    def transforms(self) -> pa.Table | None:
        """theta and phi on the knots (docs/outputs.md); None if the run has none."""
        return self.table_if_any("transforms.parquet")

    @cached_property
    def names(self) -> ClassNames:
        """Names of the classes, as far as the run has any, and how groups, labels and targets are shown with them."""
        table = self.table_if_any(CLASSES)
        if table is None:
            return ClassNames()
        dataset, group_by = self.job.dataset, self.job.group_by
        by_label = group_by is not None and group_by == dataset.label
        return ClassNames(names_of_table(table), dataset.label_base or 0, by_label)

    def job_text(self) -> str:
        """The text of job.yaml, the resolved job. Users may edit it, for example when data or weights have moved.

        If it cannot be read, the copy in the ledger of a finished run is returned.
        """
        url, recorded = f"{self.path}/job.yaml", self._done.get("job")
        try:
            if self.storage.stat(url) is None and not self._done:
                raise self._unfinished("job.yaml")
            with parsing(url):
                text = read_checked(self.storage, url, None).decode()
            read_job(text, name=url)
        except (Damaged, JobError):
            if recorded is None:
                raise
            return str(recorded)
        return text

    def plan_bytes(self) -> bytes:
        """The frozen plan, for `statistics.plan.Plan.from_bytes(..., digest=run.plan)`."""
        return read_checked(self.storage, f"{self.path}/plan/{self.plan}.safetensors", None)

    @property
    def plan(self) -> str:
        """Digest of the frozen plan."""
        return str(self.manifest()["plan"])

    def table(self, name: str, **selection: Any) -> pa.Table:
        """A published Parquet file, as `pyarrow.parquet.read_table` selects. Raises UserError if the run has none."""
        self._refuse_unfinished()
        return read_parquet(self.storage, *self._recorded(name), **selection)

    def table_if_any(self, name: str) -> pa.Table | None:
        """A published table; None if the run has none."""
        self._refuse_unfinished()
        try:
            return self.table(name) if self._digests is None or name in self._digests else None
        except Damaged:
            if self._digests is None and self.storage.stat(f"{self.path}/{name}") is None:
                return None
            raise

    def _needed(self, name: str) -> pa.Table:
        table = self.table_if_any(name)
        if table is None:
            raise self._unfinished(name)
        return table

    def _recorded(self, name: str) -> tuple[str, Digest | None]:
        """Where a published file lies, and what it must be."""
        return f"{self.path}/{name}", (self._digests or {}).get(name)

    def _read(self, name: str) -> bytes:
        if self.storage.stat(f"{self.path}/{name}") is None and not self._done:
            raise self._unfinished(name)
        return read_checked(self.storage, *self._recorded(name))

    def _refuse_unfinished(self) -> None:
        """Without `done` there is no result, whatever lies there. Results copied without a ledger are read."""
        if self._records and not self._done:
            raise self._unfinished("result: its ledger does not say that it is done")

    def _unfinished(self, name: str) -> UserError:
        return UserError(
            f"{self.path}: holds no {name}; is it the output of a finished run? see `pcace status {self.path}`"
        )


def open_run(path: str, *, storage: Storage | None = None) -> Run:
    """Open a finished run by its output path, local or s3://. Raises UserError when there is no ranking.

    The output of `pcace rerank` stands for the run that it published last.
    """
    run = Run(normalised(path), storage or Storage({}))
    latest = run.published()
    run = run if latest is None else Run(f"{run.path}/{latest}", run.storage)
    run.summary  # noqa: B018  (fails here rather than later when there is no run)
    return run


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no name of a run")
    return value
