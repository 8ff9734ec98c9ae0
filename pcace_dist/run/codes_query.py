"""What a job asks of kept codes: which rows, in which groups and folds, against which targets. No Ray, no model.

The answer is a `Selection`, written as the one attempt of such a run: its rows in the order of the kept codes, with
everything that a reduce task needs besides the codes themselves.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from pcace_dist.artifacts.codes.columns import effect_columns
from pcace_dist.artifacts.codes.stored import StoredCodes
from pcace_dist.artifacts.selection import Selection
from pcace_dist.config.job import Job
from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.columns import plain_type
from pcace_dist.datasets.groups import groups_of
from pcace_dist.datasets.listing import find_files
from pcace_dist.datasets.row_filter import RowFilter
from pcace_dist.datasets.rows import BadRow
from pcace_dist.errors import DatasetError, JobError
from pcace_dist.ledger.ledger import UnitCount
from pcace_dist.models.layers import ALL, NOT
from pcace_dist.models.targets import usable
from pcace_dist.run.codes_effects import fixed_values, question_effects
from pcace_dist.statistics.folds import key_of_value
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import Plan, make_target_plan
from pcace_dist.statistics.plan_noise.noise import PlanNoise
from pcace_dist.statistics.recode import knots_of
from pcace_dist.storage.files import Storage, first_line

PLACE = ["file", "row_group", "row", "id"]


@dataclass(frozen=True, eq=False)
class CodesQuery:
    """A job that kept codes can answer: layers and targets of the question, and the columns it needs."""

    layers: tuple[str, ...]
    targets: tuple[TargetSpec, ...]
    group_type: pa.DataType


def check_query(job: Job, kept_codes: StoredCodes) -> CodesQuery:
    """Check a job against kept codes before anything is read but footers. Raises UserError, one line."""
    if job.statistics.estimator != "gram":
        raise JobError("statistics.estimator ace: needs the maps' components, and kept codes have none; use gram")
    if job.statistics.components > kept_codes.plan.components:
        raise JobError(
            f"statistics.components {job.statistics.components}: the kept codes have {kept_codes.plan.components}"
        )
    for key, value in (("stop", job.stop), ("extend", job.extend), ("statistics.plan", job.statistics.plan)):
        if value is not None:
            raise JobError(f"{key}: has no meaning for kept codes, which are read whole; leave the key out")
    if job.statistics.keep_codes:
        raise JobError("statistics.keep_codes: the codes are kept already; leave the key out")
    layers = _layers(job.layer_patterns, [layer.name for layer in kept_codes.plan.layers])
    targets = job.targets
    columns = kept_codes.columns | ({} if job.dataset.join is None else _join_schema(job, kept_codes.storage))
    for target in targets:
        if target.name not in kept_codes.targets and target.of_outputs:
            raise JobError(
                f"target {target.name}: the kept codes hold {', '.join(kept_codes.targets)}; "
                "others need a run of the model"
            )
        if target.name not in kept_codes.targets and target.column is not None:
            _require("target", target.column, columns)
            _check_numeric(target.column, columns[target.column])
    for key, column in (("group_by", job.group_by), ("dataset.fold_by", job.dataset.fold_by)):
        if column is not None:
            _require(key, column, columns)
    for column in job.dataset.filter:
        _require("dataset.filter", column, columns)
    RowFilter(job.dataset.filter, columns.__getitem__)
    if kept_codes.index.fold_by is not None and job.dataset.fold_by is None:
        raise JobError(
            f"dataset.fold_by: the codes were kept with {kept_codes.index.fold_by}; name it, or another column"
        )
    group_type = pa.string() if job.group_by is None else columns[job.group_by]
    return CodesQuery(layers, targets, group_type)


def query_plan(
    job: Job, kept_codes: StoredCodes, query: CodesQuery, values: Mapping[str, np.ndarray[Any, Any]]
) -> Plan:
    """The kept plan for this question: fewer layers, other targets (knots at the quantiles of `values`), other folds.

    The layers' knots are still the kept ones; see `chooses_knots` and `with_knots`. A kept target's plan stays too,
    unless the knots are to be chosen from the rows.
    """
    settings = job.statistics
    kept_targets = {target.name: target for target in kept_codes.plan.targets}
    same_knots = _same_knots(job, kept_codes)
    targets = []
    for target in query.targets:
        kept_target = kept_targets.get(target.name) if same_knots and settings.knots_from == "plan" else None
        targets.append(
            kept_target or make_target_plan(target.name, values[target.name], settings.knots, settings.tails)
        )
    layers = tuple(layer for layer in kept_codes.plan.layers if layer.name in query.layers)
    return replace(
        kept_codes.plan,
        layers=tuple(layer.first_components(settings.components) for layer in layers),
        targets=tuple(targets),
        components=settings.components,
        folds=settings.folds,
        tails=settings.tails,
        effects=question_effects(job, kept_codes.plan.effects, query.targets, query.layers),
        noise=_question_noise(job, kept_codes.plan, query),
    )


def _question_noise(job: Job, kept: Plan, query: CodesQuery) -> PlanNoise | None:
    """What another pilot would change in the answer; None where it was estimated for other axes, or not at all."""
    if kept.noise is None or job.statistics.components != kept.components:
        return None
    targets = [target.name for target in query.targets]
    return kept.noise.select(
        layers=query.layers, targets=targets, group_by=job.group_by, filtered=bool(job.dataset.filter)
    )


def chooses_knots(job: Job, kept_codes: StoredCodes) -> bool:
    """Whether the layers' knots are chosen anew from all the rows."""
    return job.statistics.knots_from == "rows" or (
        job.statistics.knots_from == "plan" and not _same_knots(job, kept_codes)
    )


def _same_knots(job: Job, kept_codes: StoredCodes) -> bool:
    plan = kept_codes.plan
    return (job.statistics.knots, job.statistics.tails) == (plan.knots, plan.tails)


def with_knots(plan: Plan, knots: int, counts: Mapping[str, torch.Tensor]) -> Plan:
    """The plan with knots at quantiles of the rows, and their spread; counts: by layer, how often each code occurs
    (C, p, 256)."""
    layers = []
    for layer in plan.layers:
        chosen, spread = knots_of(counts[layer.name][:, : plan.components], layer.knots, knots, plan.tails)
        layers.append(replace(layer, knots=chosen, spread=spread))
    return replace(plan, layers=tuple(layers), knots=knots)


class SelectedRows:
    """The rows of kept codes with the columns that a job asks for, joined and filtered, and those set aside."""

    def __init__(self, job: Job, kept_codes: StoredCodes, query: CodesQuery) -> None:
        self._job = job
        self._stored = [target for target in query.targets if target.name in kept_codes.targets]
        target_columns = [target.column for target in query.targets if target not in self._stored]
        needed = [*target_columns, *job.dataset.filter, job.group_by, job.dataset.fold_by]
        names = [name for name in dict.fromkeys(needed) if name is not None]
        stored_names = [name for name in names if name in kept_codes.columns]
        columns = [
            *PLACE,
            "fold_key",
            *(f"column:{name}" for name in stored_names),
            *(f"target:{t.name}" for t in self._stored),
            *effect_columns(kept_codes.plan),
        ]
        self._kept_effects = kept_codes.plan.effects
        self.table = kept_codes.read_rows(columns)
        joined_names = [name for name in names if name not in stored_names]
        if joined_names:
            self.table = _join(self.table, job, kept_codes.storage, joined_names)
        self.rows = self.table.num_rows
        self.selected = np.flatnonzero(self._mask())
        filtered = self.selected
        self.bad: list[BadRow] = []
        self.values = self._target_values(query.targets)
        is_usable = np.asarray(usable(np.stack(list(self.values.values()), 1)).all(1))
        self._set_aside(is_usable)
        self.selected = filtered[is_usable]
        self.values = {name: column[is_usable] for name, column in self.values.items()}
        self._bad_positions = filtered[~is_usable]

    def _mask(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        row_filter = RowFilter(self._job.dataset.filter, lambda name: self._column(name).type)
        return row_filter.mask(self._column, self.rows)

    def _target_values(self, targets: Sequence[TargetSpec]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        values = {}
        for target in targets:
            column = self.table[f"target:{target.name}"] if target in self._stored else self._column(str(target.column))
            if pa.types.is_boolean(column.type):
                column = column.cast(pa.int8())
            numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            values[target.name] = np.asarray(numbers, np.float64)[self.selected]
        return values

    def _set_aside(self, is_usable: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        bad_positions = self.selected[~is_usable]
        for place in self.table.select(PLACE).take(pa.array(bad_positions)).to_pylist():
            reason = "the target is null, NaN, infinite or beyond float32"
            self.bad.append(BadRow(**place, stage="target", reason=reason))

    def counts(self, parts: Sequence[int]) -> list[UnitCount]:
        """Used, bad and filtered rows of consecutive parts of so many rows each."""
        ends = np.cumsum(parts)
        used = np.diff(np.searchsorted(self.selected, ends), prepend=0)
        bad = np.diff(np.searchsorted(self._bad_positions, ends), prepend=0)
        return [
            UnitCount(rows=int(u), bad=int(b), filtered=int(rows - u - b))
            for rows, u, b in zip(parts, used, bad, strict=True)
        ]

    def select(self, plan: Plan) -> Selection:
        """The selection under a plan's folds and target knots."""
        groups, group_of = self._groups()
        values = np.stack([self.values[target.name] for target in plan.targets], 1)
        codes, fixed = plan.encode_targets(values)
        effects = None
        if plan.effects is not None and plan.effects.targets and self._kept_effects is not None:
            effects = fixed_values(plan.effects, self._kept_effects, self.table, self.selected)
        return Selection(self.selected, group_of, groups, RowCodes(self._folds(plan.folds), codes, fixed, effects))

    def _folds(self, folds: int) -> torch.Tensor:
        column = self._job.dataset.fold_by
        if column is None:
            keys = self.table["fold_key"].to_numpy()[self.selected]
        else:
            encoded = self._column(column).combine_chunks().dictionary_encode()
            by_value = [key_of_value(value) for value in encoded.dictionary.to_pylist()] + [key_of_value(None)]
            index = pc.fill_null(encoded.indices, len(by_value) - 1).to_numpy()[self.selected]
            keys = np.array(by_value, np.uint64)[index]
        return torch.from_numpy((keys % np.uint64(folds)).astype(np.uint8))

    def _groups(self) -> tuple[pa.Array, np.ndarray[Any, np.dtype[np.int32]]]:
        """The values of group_by, and the index of each row's; NaN counts as null."""
        if self._job.group_by is None:
            return pa.nulls(1, pa.string()), np.zeros(len(self.selected), np.int32)
        column = self._column(self._job.group_by).combine_chunks().take(pa.array(self.selected))
        encoded = groups_of(column).dictionary_encode()
        index = pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy().astype(np.int32)
        groups = pa.concat_arrays([encoded.dictionary, pa.nulls(1, encoded.dictionary.type)])
        return groups, index

    def _column(self, name: str) -> pa.ChunkedArray:
        stored_name = f"column:{name}"
        return self.table[stored_name if stored_name in self.table.column_names else f"join:{name}"]


def _layers(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    chosen: set[str] = set()
    left_out: set[str] = set()
    for pattern in patterns:
        glob = pattern.removeprefix(NOT)
        matches = [name for name in names if glob in (ALL, name) or fnmatchcase(name, glob)]
        if not matches and glob == pattern:
            raise JobError(f"layers: {pattern!r} matches none of the layers with kept codes: {', '.join(names)}")
        (chosen if glob == pattern else left_out).update(matches)
    return tuple(name for name in names if name in chosen - left_out)


def _require(key: str, column: str, columns: Mapping[str, pa.DataType]) -> None:
    if column in columns:
        return
    near = difflib.get_close_matches(column, list(columns), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"they hold {', '.join(map(repr, columns)) or 'none'}"
    raise JobError(f"{key}: no column {column!r} beside the kept codes; {hint} (dataset.join adds columns by id)")


def _check_numeric(column: str, kind: pa.DataType) -> None:
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    if not any(check(kind) for check in numeric):
        raise JobError(f"target: column {column!r} is {kind}; it must be numeric")


# -- dataset.join


def _join_files(job: Job, storage: Storage) -> list[str]:
    try:
        return [file.url for file in find_files([str(job.dataset.join)], storage)[0].values()]
    except DatasetError as error:
        raise DatasetError(str(error).replace("dataset.path", "dataset.join", 1)) from None


def _join_schema(job: Job, storage: Storage) -> dict[str, pa.DataType]:
    """Columns that dataset.join adds, by name."""
    first = _join_files(job, storage)[0]
    try:
        with storage.open(first) as source:
            schema = pq.read_schema(source)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"dataset.join: {first} is not a readable Parquet file ({first_line(error)})") from None
    key = job.dataset.id or "id"
    if key not in schema.names:
        raise DatasetError(
            f"dataset.join: no column {key!r} in {first}, by which rows are joined (dataset.id names it)"
        )
    return {field.name: plain_type(field.type) for field in schema if field.name != key}


def _join(table: pa.Table, job: Job, storage: Storage, columns: list[str]) -> pa.Table:
    """The rows with further columns, by id; null where the other side has no such id."""
    key = job.dataset.id or "id"
    parts = []
    for url in _join_files(job, storage):
        with storage.open(url) as source:
            part = pq.read_table(source, columns=[key, *columns])
        plain = {name: _plain(part[name]) for name in columns}
        parts.append(pa.table({"id": _plain(part[key]).cast(pa.string()), **plain}))
    joined = pa.concat_tables(parts, promote_options="permissive")
    if pc.count_distinct(joined["id"]).as_py() != len(joined):
        raise DatasetError(f"dataset.join: {job.dataset.join} has the same {key} more than once, or none")
    positions = pc.index_in(table["id"].combine_chunks(), joined["id"].combine_chunks())
    for name in columns:
        table = table.append_column(f"join:{name}", joined[name].combine_chunks().take(positions))
    return table


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
