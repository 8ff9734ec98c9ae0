"""Orders, areas, bands and standings of ablation curves, on effects that are made up."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from pcace_dist.analysis.curves import (
    BEST,
    RANDOM,
    WORST,
    Curves,
    RankedLayer,
    curves_table,
    first,
    orders,
    sets_of,
    sizes,
    standings,
)
from pcace_dist.analysis.figure import curves_svg
from pcace_dist.models.ablation import Effect

WEIGHTS = np.array([4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0])
LAYER = RankedLayer("logit:label", 3, "conv", {BEST: WEIGHTS, "weight_norm": WEIGHTS[::-1].copy()})


def made_up(layer: RankedLayer, replacement: str = "mean", draws: int = 5) -> Curves:
    """Curves of a model in which a set of channels takes its share of the weights."""
    all_orders = orders(layer, draws, seed=0)
    counts = sizes(layer.channels)
    effects = {
        (order.name, order.draw): tuple(
            Effect(float(WEIGHTS[list(first(order, count))].sum() / WEIGHTS.sum()), 0.0, float("nan"))
            for count in counts
        )
        for order in all_orders
    }
    return Curves(layer, replacement, 100, counts, effects)


def test_sizes_double_below_all_channels() -> None:
    assert sizes(8) == (1, 2, 4)
    assert sizes(9) == (1, 2, 4, 8)
    assert sizes(1) == (1,)


def test_the_worst_order_is_the_ranking_reversed_and_unranked_channels_come_last() -> None:
    scores = np.array([0.2, np.nan, 0.9])
    best, worst, *rest = orders(RankedLayer("t", None, "l", {BEST: scores}), draws=2, seed=1)
    assert (best.name, best.channels) == (BEST, (2, 0, 1))
    assert (worst.name, worst.channels) == (WORST, (1, 0, 2))
    assert [order.name for order in rest] == [RANDOM, RANDOM]


def test_random_orders_are_the_same_every_time() -> None:
    assert orders(LAYER, 3, seed=5) == orders(LAYER, 3, seed=5)
    assert orders(LAYER, 3, seed=5) != orders(LAYER, 3, seed=6)


def test_a_set_that_several_orders_share_is_measured_once() -> None:
    layer = RankedLayer("t", None, "l", {BEST: WEIGHTS, "variance": WEIGHTS * 2})
    sets = sets_of(orders(layer, draws=0, seed=0), (1, 2, 4))
    assert sets == [(0,), (0, 1), (0, 1, 2, 3), (7,), (6, 7), (4, 5, 6, 7)]


def test_the_area_is_the_mean_over_the_sizes() -> None:
    curves = made_up(LAYER)
    assert curves.area(BEST) == pytest.approx(np.mean([0.4, 0.7, 1.0]))
    assert curves.area(WORST) == 0
    low, high = curves.band
    assert 0 <= low <= curves.area(RANDOM) <= high < curves.area(BEST)


def test_standings_count_curves_that_the_ranking_wins_and_loses() -> None:
    other = RankedLayer("logit:label", 4, "conv", {BEST: WEIGHTS[::-1].copy(), "weight_norm": WEIGHTS})
    rows = {row.order: row for row in standings([made_up(LAYER), made_up(other), made_up(other, "zero")], "mean")}
    assert (rows["weight_norm"].won, rows["weight_norm"].lost, rows["weight_norm"].curves) == (1, 1, 2)
    assert (rows[BEST].won, rows[BEST].lost, rows[BEST].beyond_random) == (0, 0, 1)


def test_the_table_has_a_row_per_curve_and_size() -> None:
    table = curves_table([made_up(LAYER)])
    assert len(table) == (3 + 5) * 3
    assert table["accuracy"].null_count == len(table)
    assert table["group"].to_pylist() == [3] * len(table)


def test_the_figure_is_svg_with_a_line_per_order_and_a_band() -> None:
    named = RankedLayer("logit:label", 3, "conv<1>", LAYER.scores)
    root = ElementTree.fromstring(curves_svg([made_up(named)], "mean"))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{space}polyline")) == 3 and len(root.findall(f".//{space}polygon")) == 1
    assert "conv<1>" in [text.text for text in root.iter(f"{space}text")]
