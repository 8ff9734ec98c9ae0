"""One unit as an earlier run kept it, for a run that extends that one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pcace_dist.artifacts.attempt import CODES_FILE, blocks_of
from pcace_dist.artifacts.bad_rows import BAD_ROWS
from pcace_dist.artifacts.checked import read_table
from pcace_dist.artifacts.codes.columns import KeptRows, codes_of_block, effect_values
from pcace_dist.datasets.groups import group_of
from pcace_dist.datasets.rows import BadRow, RowRef
from pcace_dist.datasets.stored_parquet import StoredParquet, WrongBytes
from pcace_dist.datasets.units import Unit
from pcace_dist.datasets.values.labels import UNLABELLED, Labelling
from pcace_dist.errors import DatasetError
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.storage.files import Changed, Storage


@dataclass(frozen=True, eq=False)
class KeptUnit:
    """The rows of one unit as an earlier run kept them, and the rows that it set aside."""

    rows: KeptRows
    codes: Mapping[str, LayerCodes]
    bad: Sequence[BadRow]
    bad_rows: int

    def groups(self, column: str | None) -> list[Any]:
        """Each row's value of group_by; NaN counts as null."""
        if column is None:
            return [None] * len(self.rows.refs)
        values = [row[column] for row in self.rows.columns]
        return [group_of(value) for value in values]

    def labels(self, column: str | None, labelling: Labelling) -> list[int | None]:
        """Each row's class index, None where there is none."""
        if column is None:
            return [None] * len(self.rows.refs)
        values = pa.chunked_array([pa.array([row[column] for row in self.rows.columns])])
        indices, _ = labelling.indices(values)
        return [None if index == UNLABELLED else index for index in indices.tolist()]


def read_unit(url: str, storage: Storage, unit: Unit, plan: Plan) -> KeptUnit:
    """A unit's rows from a codes file of the run that is extended. Raises DatasetError if they cannot be read."""
    rows_of = {(row_group.key, row_group.row_group): row_group.rows for row_group in unit.row_groups}
    try:
        stored = storage.stat(url)
        if stored is None:
            raise FileNotFoundError(f"{url}: no such file")
        file = StoredParquet(stored, storage)
        groups = [index for index in range(file.metadata.num_row_groups) if _touches(file, index, rows_of)]
        table = file.read(groups, file.schema.names) if groups else file.schema.empty_table()
        bad_url = url.removesuffix(CODES_FILE) + BAD_ROWS
        with_bad = storage.stat(bad_url) is not None
        listed = read_table(io.BytesIO(storage.read_bytes(bad_url))).to_pylist() if with_bad else []
    except (OSError, WrongBytes, Changed, pa.ArrowException) as error:
        raise DatasetError(f"extend: {url} cannot be read ({type(error).__name__})") from error
    places = zip(table["file"].to_pylist(), table["row_group"].to_pylist(), strict=True)
    table = table.take(pa.array([row for row, place in enumerate(places) if place in rows_of], pa.int64()))
    bad = [BadRow(**row) for row in listed if (row["file"], row["row_group"]) in rows_of]
    bad_rows = sum(1 if bad_row.row is not None else rows_of[bad_row.file, bad_row.row_group] for bad_row in bad)
    return KeptUnit(_kept_rows(table, plan), _kept_codes(table, plan), bad, bad_rows)


def _touches(file: StoredParquet, index: int, row_groups: Mapping[tuple[str, int], int]) -> bool:
    """Whether a row group of a codes file holds rows of these row groups of the data set."""
    places = file.read([index], ["file", "row_group"])
    return any(place in row_groups for place in zip(*(column.to_pylist() for column in places.columns), strict=True))


def _kept_rows(table: pa.Table, plan: Plan) -> KeptRows:
    names = [name for name in table.column_names if name.startswith("column:")]
    plain = table.select(names).rename_columns([name.removeprefix("column:") for name in names])
    targets = [table[f"target:{target.name}"].to_numpy() for target in plan.targets]
    places = table.select(["file", "row_group", "row", "id"]).to_pylist()
    return KeptRows(
        [RowRef(**place) for place in places],
        table["fold_key"].to_numpy(),
        plain.to_pylist() if names else [{}] * len(table),
        np.stack(targets, 1) if targets else np.empty((len(table), 0)),
        effect_values(table, plan),
    )


def _kept_codes(table: pa.Table, plan: Plan) -> dict[str, LayerCodes]:
    parts: dict[str, list[LayerCodes]] = {layer.name: [] for layer in plan.layers}
    for block in blocks_of(plan):
        parts[block.layer].append(codes_of_block(table, block, plan))
    return {name: LayerCodes.cat(of_layer, dim=1) for name, of_layer in parts.items()}
