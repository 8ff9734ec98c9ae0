"""Orders, areas, bands and standings of ablation curves, on effects that are made up."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from pcace_dist.analysis.curves import (
    BEST,
    LOST,
    RANDOM,
    WORST,
    Curves,
    RankedLayer,
    curves_table,
    first,
    orders,
    sets_of,
    sizes,
)
from pcace_dist.analysis.figure import curves_svg
from pcace_dist.analysis.standings import judge, standings, verdict
from pcace_dist.models.ablation.replacement import BLOCKS, Effect

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


# -- which order to trust


def judged_curves(parts: dict[str, float], blocks: int = BLOCKS, seed: int = 0) -> list[Curves]:
    """Four layers on the same images. An order takes its part and a noise, block by block, of which ten times as much
    is what all orders share as what is its own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 0.4, blocks)
    curves = []
    for name in "abcd":
        effects = {}
        for order, part in parts.items():
            by_block = part + shared + rng.normal(0, 0.04, blocks)
            area, without = by_block.mean(), (by_block.sum() - by_block) / (blocks - 1)
            of_measures = (tuple(without), tuple(0.5 * without), tuple(without * np.nan))
            effects[order, 0] = (Effect(area, 0.0, float("nan"), 0.5 * area, of_measures),)
        curves.append(Curves(RankedLayer("t", None, name, {BEST: WEIGHTS}), "mean", 100, (1,), effects))
    return curves


def test_orders_are_told_apart_by_what_they_do_on_the_same_images() -> None:
    """An order's own standard error is 0.1, that of a difference 0.007."""
    curves = judged_curves({BEST: 0.3, "effect": 0.5, "taylor": 0.5, RANDOM: 0.1, WORST: 0.0})
    judged = judge(curves, "mean", LOST)
    assert judged.names == (BEST, "effect", "taylor", RANDOM), "the worst first is no order to trust"
    difference, error = judged.difference("effect", BEST)
    assert difference == pytest.approx(0.2, abs=0.03) and error < 0.02
    said = verdict(curves, "mean")
    assert said.startswith("Trust, by 4 of 4 curves, replaced by mean: for 1 - r^2 ")
    first, second = ("effect", "taylor") if judged.ranks and judged.ranks.rank[1] == 1 else ("taylor", "effect")
    assert said.count(f"{first} ({second} may be as good)") == 2, "for both measures"
    assert said.endswith("; by 1 - r^2 pcace is above random, below effect and taylor.")
    rows = {row.order: row for row in standings(curves, "mean")}
    assert (rows["effect"].rank_low, rows["effect"].rank_high) == (1, 2)
    assert (rows[BEST].rank_low, rows[RANDOM].rank_low, rows[WORST].rank_low) == (3, 4, None)
    assert rows[RANDOM].changed_rank_low == 4 and rows[RANDOM].accuracy is None


def test_nothing_is_said_of_too_few_images_or_of_orders_that_one_cannot_tell_apart() -> None:
    few = judged_curves({BEST: 0.3, "effect": 0.9, RANDOM: 0.1}, blocks=BLOCKS - 1)
    assert "for 1 - r^2 none (too few images to compare orders)" in verdict(few, "mean")
    assert "pcace is not compared" in verdict(few, "mean")
    same = judged_curves({BEST: 0.3, "effect": 0.3, RANDOM: 0.3}, seed=3)
    assert "for 1 - r^2 none (no order is told from random ones)" in verdict(same, "mean")
    assert "pcace is told from no other order" in verdict(same, "mean")


def test_equal_orders_are_rarely_told_apart() -> None:
    """Of 12 orders that are equal in truth, one is told from any other in about 5 % of the cases."""
    names = (BEST, RANDOM, *"cdefghijkl")
    told = 0
    for seed in range(200):
        ranks = judge(judged_curves(dict.fromkeys(names, 0.3), seed=seed), "mean", LOST).ranks
        assert ranks is not None
        told += int(ranks.low[0] > 1 or ranks.high[0] < len(names))
    assert 1 <= told <= 22


def test_orders_are_compared_on_the_curves_that_have_them_all() -> None:
    curves = judged_curves({BEST: 0.3, "effect": 0.5, RANDOM: 0.1})
    without = [
        Curves(one.layer, "mean", 100, (1,), {k: v for k, v in one.effects.items() if k[0] != "effect"})
        for one in curves[:1]
    ]
    assert judge([*curves[1:], *without], "mean", LOST).curves == 3
    assert "by 3 of 4 curves" in verdict([*curves[1:], *without], "mean")
