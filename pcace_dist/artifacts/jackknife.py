"""jackknife.parquet: the pseudo-values behind every score, fold by fold, used to compare two runs. No Ray.

A row for each row of rankings.parquet, in the same order: `target`, `group`, `layer`, `channel`, and `pseudo_values`, a
list with a double for each fold (null where the fold is empty). Their mean is `score_squared`, and the variance of that
mean is their variance by the number of folds (docs/method.md, section 4). Null unless the status is ok, and for
estimators without a jackknife. `plan_noise`: what another pilot would change, fold by fold, about 0; null where that
is not known. `effect_pseudo_values`: the same as `pseudo_values` of the effect; they hold the axes' noise too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.artifacts.columns import KEYS, Column, Table
from pcace_dist.artifacts.encoding import parquet_bytes
from pcace_dist.datasets.groups import group_order

if TYPE_CHECKING:
    from pcace_dist.artifacts.block_scores import BlockScores
    from pcace_dist.statistics.plan import Plan
    from pcace_dist.storage.store import Sink

JACKKNIFE = "jackknife.parquet"
TABLE = Table(
    JACKKNIFE,
    "A row for each row of rankings.parquet, in the same order.",
    (
        *KEYS,
        Column(
            "pseudo_values",
            "list of float64",
            "a pseudo-value of `score_squared` for each fold, null for an empty fold; null unless status is ok",
        ),
        Column(
            "plan_noise",
            "list of float64",
            "residuals by fold, about 0: the variance of their mean is that of `score_squared` between pilots; null "
            "where that is not known",
        ),
        Column(
            "effect_pseudo_values",
            "list of float64",
            "the same of `effect`: they hold the noise of its axis too; null unless effect_status is ok",
        ),
    ),
)
BY_FOLD = tuple(column.name for column in TABLE.columns if column not in KEYS)


def publish_jackknife(sink: Sink, plan: Plan, blocks: Sequence[BlockScores], group_type: pa.DataType) -> None:
    """Write jackknife.parquet, before the ledger's `done` as every published file."""
    sink.put(TABLE.file, parquet_bytes(jackknife_table(plan, blocks, group_type)))


def jackknife_table(plan: Plan, blocks: Sequence[BlockScores], group_type: pa.DataType) -> pa.Table:
    """The rows of jackknife.parquet, in the order of `rankings.rankings_table`."""
    ordered = sorted(blocks, key=lambda b: b.block.index)
    groups = sorted({group for b in ordered for group in b.scores}, key=group_order)
    layers = [b.block.layer for b in ordered for _ in range(b.block.start, b.block.stop)]
    channels = [channel for b in ordered for channel in range(b.block.start, b.block.stop)]
    tables = [
        pa.table(
            {
                "target": pa.array([target.name] * len(channels), pa.string()),
                "group": pa.array([group] * len(channels), group_type),
                "layer": pa.array(layers, pa.string()),
                "channel": pa.array(channels, pa.int32()),
                "pseudo_values": _lists(np.concatenate([b.scores[group][index].pseudo for b in ordered])),
                "plan_noise": _lists(np.concatenate([b.scores[group][index].plan_noise for b in ordered])),
                "effect_pseudo_values": _lists(np.concatenate([b.effects[group][index].pseudo for b in ordered])),
            }
        )
        for index, target in enumerate(plan.targets)
        for group in groups
    ]
    return pa.concat_tables(tables)


def _lists(pseudo: npt.NDArray[np.float64]) -> pa.Array:
    """Rows (C, F) as lists: null where every value is NaN, null elements for the NaNs of other rows."""
    finite = np.isfinite(pseudo)
    has_values = finite.any(axis=1)
    if not has_values.any():
        return pa.nulls(len(pseudo), pa.list_(pa.float64()))
    offsets = pa.array(np.arange(len(pseudo) + 1, dtype=np.int32) * pseudo.shape[1])
    values = pa.array(pseudo.ravel(), pa.float64(), mask=~finite.ravel())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(~has_values))


def by_fold(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """A column of lists of this file as (rows, F), NaN where null; (rows, 1) where the run is older than the column."""
    if name not in table.column_names:
        return np.full((len(table), 1), np.nan)
    column = table[name].combine_chunks()
    known = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = column.drop_null().value_lengths().to_pylist()
    result = np.full((len(column), max(lengths, default=1)), np.nan)
    if lengths:
        result[known] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, max(lengths))
    return result
