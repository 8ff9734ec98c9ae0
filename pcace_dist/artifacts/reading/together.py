"""What is said of the channels of a ranking together: who is in the true top, and intervals that hold all at once.

From rankings.parquet and jackknife.parquet side by side (`Run.with_jackknife`), for whole rankings: every channel of a
target and group counts, so that layers are chosen afterwards. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.artifacts.columns import Column
from pcace_dist.artifacts.jackknife import by_fold
from pcace_dist.artifacts.rankings import RANKED, ranking_numbers
from pcace_dist.statistics.order.membership import membership
from pcace_dist.statistics.order.simultaneous import simultaneous_intervals
from pcace_dist.statistics.plan_noise import ANOTHER

Floats: TypeAlias = npt.NDArray[np.float64]

IN_TOP = (
    Column(
        "in_top", "string", "whether it is in the true top N: `surely`, `possibly` or `no`; null without a jackknife"
    ),
    Column("in_top_probability", "float64", "the probability that it is, 0 to 1"),
)
SIMULTANEOUS = (
    Column(
        "score_low_simultaneous", "float64", "lower end: with 95 % all channels of the ranking lie in these at once"
    ),
    Column("score_high_simultaneous", "float64", "upper end"),
)


class _Ranking(NamedTuple):
    """The ranked channels of a target and group: their rows in the table, score_squared (C,), by fold (C, F)."""

    rows: npt.NDArray[np.int64]
    squared: Floats
    pseudo: Floats
    plan_noise: Floats


def with_membership(table: pa.Table, top: int) -> pa.Table:
    """The table with IN_TOP, of the `top` best of every target and group."""

    def columns(ranking: _Ranking) -> tuple[npt.NDArray[np.str_], Floats]:
        found = membership(ranking.squared, ranking.pseudo, ranking.plan_noise, top)
        return found.in_top, found.probability

    return _with(table, IN_TOP, columns)


def with_simultaneous(table: pa.Table) -> pa.Table:
    """The table with SIMULTANEOUS."""

    def columns(ranking: _Ranking) -> tuple[Floats, Floats]:
        return simultaneous_intervals(ranking.squared, ranking.pseudo + ANOTHER * ranking.plan_noise)

    return _with(table, SIMULTANEOUS, columns)


def _with(
    table: pa.Table, columns: tuple[Column, ...], of: Callable[[_Ranking], tuple[npt.NDArray[np.generic], ...]]
) -> pa.Table:
    values = [np.full(len(table), None, object) for _ in columns]
    for ranking in _rankings(table):
        for own, found in zip(values, of(ranking), strict=True):
            own[ranking.rows] = found.tolist()
    for column, own in zip(columns, values, strict=True):
        table = table.append_column(column.name, pa.array(own.tolist(), pa.type_for_alias(column.type)))
    return table


def _rankings(table: pa.Table) -> Iterator[_Ranking]:
    """The rankings that have a jackknife."""
    squared = table["score_squared"].to_numpy()
    pseudo, noise = (by_fold(table, name) for name in ("pseudo_values", "plan_noise"))
    noise = np.nan_to_num(noise) if noise.shape == pseudo.shape else np.zeros_like(pseudo)  # older runs have none
    known = np.array([status == RANKED for status in table["status"].to_pylist()]) & np.isfinite(pseudo).any(axis=1)
    numbers = ranking_numbers(table)
    for number in np.unique(numbers[known]):
        rows = np.flatnonzero(known & (numbers == number))
        yield _Ranking(rows, squared[rows], pseudo[rows], noise[rows])
