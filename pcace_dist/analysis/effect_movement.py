"""Which effects moved between two runs: columns of comparison.parquet. Arrays in, Arrow out; reads nothing.

Judged as scores are (movement.py), by the effects' own pseudo-values. These hold the noise of each run's axes: nothing
is added for other plans, and where both runs have one plan what the axes share cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.analysis.movement import Side, difference, false_discovery
from pcace_dist.artifacts.jackknife import by_fold
from pcace_dist.config.job import Job

Floats: TypeAlias = npt.NDArray[np.float64]

EFFECT, PSEUDO = "effect", "effect_pseudo_values"
NUMBERS = ("effect", "effect_low", "effect_high")
RANKS = ("effect_rank", "effect_rank_low", "effect_rank_high")


def comparable(one: Job, other: Job) -> bool:
    """Whether two jobs mean the same by an effect; the axes' images may differ in number."""
    first, second = one.effect, other.effect
    return (first.gradient, first.at, first.of) == (second.gradient, second.at, second.of)


def effect_columns(
    table_a: pa.Table, table_b: pa.Table, *, paired: bool, level: float, tolerance: float, judged: bool
) -> dict[str, pa.Array]:
    """Both runs' effects side by side and whether they moved; null where a run has none, or `judged` says no."""
    columns: dict[str, pa.Array] = {}
    for names, kind in ((("effect_status",), pa.string()), (RANKS, pa.int32()), (NUMBERS, pa.float64())):
        for name in names:
            columns |= {f"{name}_{run}": _column(table, name, kind) for run, table in (("a", table_a), ("b", table_b))}
    sides = [_side(table) for table in (table_a, table_b)]
    if not judged or any(side is None for side in sides):
        nothing = np.full(len(table_a), np.nan)
        return columns | _judgement(nothing, nothing, nothing, nothing, np.zeros(len(table_a), np.bool_))
    one, other = sides
    assert one is not None and other is not None
    apart = difference(one, other, paired=paired)
    q_value = false_discovery(apart.p_value)
    moved = (q_value <= level) & (np.abs(np.nan_to_num(apart.change)) >= tolerance)
    return columns | _judgement(apart.change, apart.error, apart.p_value, q_value, moved)


def _judgement(
    change: Floats, error: Floats, p_value: Floats, q_value: Floats, moved: npt.NDArray[np.bool_]
) -> dict[str, pa.Array]:
    numbers: Mapping[str, Floats] = {
        "effect_change": change,
        "effect_error": error,
        "effect_p_value": p_value,
        "effect_q_value": q_value,
    }
    columns = {name: pa.array(values, pa.float64(), mask=np.isnan(values)) for name, values in numbers.items()}
    return columns | {"effect_moved": pa.array(moved, pa.bool_())}


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    return table[name].combine_chunks() if name in table.column_names else pa.nulls(len(table), kind)


def _side(table: pa.Table) -> Side | None:
    """None for a run from before effects."""
    if EFFECT not in table.column_names or PSEUDO not in table.column_names:
        return None
    return Side(
        squared=np.asarray(table[EFFECT].to_numpy(zero_copy_only=False), np.float64),
        pseudo=by_fold(table, PSEUDO),
        images=table["images"].to_numpy(),
        dead=np.zeros(len(table), np.bool_),
    )
