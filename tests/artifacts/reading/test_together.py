"""Who is in the top and simultaneous intervals, as columns: whole rankings count, what has no jackknife is null."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pcace_dist.artifacts.reading.together import IN_TOP, SIMULTANEOUS, with_membership, with_simultaneous
from pcace_dist.statistics.order.membership import membership
from pcace_dist.statistics.order.simultaneous import simultaneous_intervals

FOLDS, CHANNELS = 16, 8


def table(*, noise: bool = True, groups: int = 2) -> pa.Table:
    """Rankings of eight channels in two layers; the last channel of each is constant."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for group in range(groups):
        for channel in range(CHANNELS):
            pseudo = channel / 10 + 0.2 * rng.normal(size=FOLDS)
            of_plan = 0.2 * rng.normal(size=FOLDS)
            ok = channel < CHANNELS - 1
            row: dict[str, Any] = {"target": "logit:label", "group": group, "layer": f"conv{channel // 4}"}
            row |= {"channel": channel % 4, "status": "ok" if ok else "constant"}
            row |= {"score_squared": pseudo.mean() if ok else None, "pseudo_values": pseudo.tolist() if ok else None}
            rows.append(row | ({"plan_noise": (of_plan - of_plan.mean()).tolist() if ok else None} if noise else {}))
    return pa.Table.from_pylist(rows)


def by_fold(rows: pa.Table, name: str) -> np.ndarray:
    return np.array(rows[name].to_pylist()[: CHANNELS - 1])


def test_every_ranking_is_judged_by_its_own_channels() -> None:
    whole = table()
    found = with_membership(whole, 3)
    one = whole.slice(CHANNELS, CHANNELS)
    squared = np.array(one["score_squared"].to_pylist()[:-1])
    expected = membership(squared, by_fold(one, "pseudo_values"), by_fold(one, "plan_noise"), 3)
    assert found["in_top"].to_pylist()[CHANNELS:] == [*expected.in_top, None]
    assert found["in_top_probability"].to_pylist()[CHANNELS:] == [*expected.probability, None]
    assert found.schema.names[-2:] == [column.name for column in IN_TOP]


@pytest.mark.parametrize("noise", [True, False])
def test_simultaneous_intervals_hold_another_pilot_where_that_is_known(noise: bool) -> None:
    whole = table(noise=noise, groups=1)
    found = with_simultaneous(whole)
    squared = np.array(whole["score_squared"].to_pylist()[:-1])
    pseudo = by_fold(whole, "pseudo_values") + (np.sqrt(2) * by_fold(whole, "plan_noise") if noise else 0)
    ends = simultaneous_intervals(squared, pseudo)
    for column, own in zip(SIMULTANEOUS, ends, strict=True):
        assert found[column.name].to_pylist()[:-1] == pytest.approx(own) and found[column.name][-1].as_py() is None


def test_an_estimator_without_a_jackknife_has_nulls() -> None:
    without = table(groups=1).drop_columns(["pseudo_values"])
    found = with_simultaneous(with_membership(without, 3))
    assert {found[column.name].null_count for column in (*IN_TOP, *SIMULTANEOUS)} == {CHANNELS}
