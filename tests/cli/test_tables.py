"""What `pcace show` and the end of `pcace rank` print, as whole tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pcace_dist.artifacts.rankings import best_of
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.cli.tables import membership_in_words, print_ranking
from pcace_dist.progress.terminal import Format

LAYERS = [
    f"backbone.features.stage_{stage}.block_{block}.depthwise_convolution" for stage in (1, 2) for block in (1, 2)
]
PETS = ClassNames({0: "cat", 1: "dog"}, of_groups=True)


def ranking(*, groups: int = 1, effects: bool = False) -> pa.Table:
    """Two channels of a layer each, in four layers."""
    rows: list[dict[str, Any]] = []
    for group in range(groups):
        for place in range(8):
            row: dict[str, Any] = {"target": "logit:label", "group": group, "layer": LAYERS[place // 2]}
            row |= {"channel": place % 2 * 1000, "images": 500, "rank": place + 1, "layer_rank": place % 2 + 1}
            row |= {"rank_low": place + 1, "rank_high": place + 9, "status": "ok"}
            row |= {"score": 0.9 - place / 10, "score_low": 0.8 - place / 10, "score_high": 0.95 - place / 10}
            row |= {"score_low_given_plan": 0.82 - place / 10, "score_high_given_plan": 0.92 - place / 10}
            if effects:
                row |= {"effect": place / 10 - 0.1, "effect_low": place / 10 - 0.15, "effect_high": place / 10}
                row |= {"effect_rank": 8 - place, "effect_rank_low": 8 - place, "effect_rank_high": 9 - place}
            rows.append(row)
    return pa.Table.from_pylist(rows)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes stdout a terminal of so many columns."""
    return lambda columns: monkeypatch.setattr("pcace_dist.progress.table.terminal_width", lambda: columns)


def shown(table: pa.Table, capsys: pytest.CaptureFixture[str], *, top: int = 2, by: str = "score", **more: Any) -> str:
    rank = "rank" if by == "score" else "effect_rank"
    print_ranking(best_of(table, top, by=rank), PETS, grouped=True, by=by, layers=LAYERS, **more)
    return capsys.readouterr().out


def test_eighty_columns(terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    terminal(80)
    assert (
        shown(ranking(groups=2), capsys)
        == """
logit:label, group 0 (cat) (500 images)
rank  95 %  layer                                    channel  score         95 %
   1   1-9  backb…e_1.block_1.depthwise_convolution        0  0.900  0.800-0.950
   2  2-10  backb…e_1.block_1.depthwise_convolution     1000  0.800  0.700-0.850

logit:label, group 1 (dog) (500 images)
rank  95 %  layer                                    channel  score         95 %
   1   1-9  backb…e_1.block_1.depthwise_convolution        0  0.900  0.800-0.950
   2  2-10  backb…e_1.block_1.depthwise_convolution     1000  0.800  0.700-0.850
"""
    )


@pytest.mark.parametrize(
    "kinds, words",
    [
        (["surely", "possibly", *["no"] * 6], "surely 1, possibly 2 channels; of these 2, 1.2 expected"),
        (["possibly"] * 8, "surely 0, possibly 8 channels; of these 2, 1.2 expected"),
        (["surely"] * 8, None),
        ([None] * 8, None),
    ],
    ids=["some", "all possibly", "a top of all", "unknown"],
)
def test_who_is_in_the_true_top_is_said_below_a_table(
    kinds: list[str | None], words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ranking().append_column("in_top", pa.array(kinds, pa.string()))
    table = table.append_column("in_top_probability", pa.array([0.6] * 8))
    below = membership_in_words(table, PETS, 2, grouped=True, all_layers=True)
    text = shown(table, capsys, below=below)
    assert (f"\nin the true top 2: {words}\n" in text) if words else "true top" not in text


def test_a_score_that_rests_on_few_images_is_marked(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(80)
    table = ranking()
    text = shown(table.append_column("support", pa.array([0.3, 0.02] + [None] * (len(table) - 2))), capsys)
    assert "  0.900   0.800-0.950" in text and "  0.800*  0.700-0.850" in text
    assert text.endswith("\n*      rests on less than 5% of the images (support)\n")


def test_eighty_columns_with_effects(terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    terminal(80)
    assert (
        shown(ranking(effects=True), capsys)
        == """
logit:label, group 0 (cat) (500 images)
rank  95 %  layer                            channel  tells         95 %    does
   1   1-9  backbon…stage_1.block_1…olution        0  0.900  0.800-0.950  -0.100
   2  2-10  backbon…stage_1.block_1…olution     1000  0.800  0.700-0.850   0.000
(no room for: 95 % of the effect; see --wide)

tells: the score, what a channel tells about the output (0 to 1)
does:  the effect, what share of the output goes through it; may be negative
"""
    )


def test_by_effect_the_other_interval_goes_first(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(72)
    assert (
        shown(ranking(effects=True), capsys, by="effect")
        == """
logit:label, group 0 (cat), by effect (500 images)
rank  95 %  layer                  channel  tells   does            95 %
   1   1-2  ba…stage_2.block_2…on     1000  0.200  0.600  0.550 to 0.700
   2   2-3  ba…stage_2.block_2…on        0  0.300  0.500  0.450 to 0.600
(no room for: 95 % of the score; see --wide)

tells: the score, what a channel tells about the output (0 to 1)
does:  the effect, what share of the output goes through it; may be negative
"""
    )


def test_intervals_that_do_not_hold_another_pilot_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert "given the plan" not in shown(ranking(), capsys)
    old = ranking().drop_columns(["score_low_given_plan", "score_high_given_plan"])
    assert "what another pilot would change was not estimated" in shown(old, capsys)
    same = old.append_column("score_low_given_plan", old["score_low"])
    assert "what another pilot would change was not estimated" in shown(same, capsys)


def test_intervals_that_more_images_would_not_narrow_say_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert "statistics.pilot" not in shown(ranking(), capsys)
    table = ranking().drop_columns(["score_high_given_plan"])
    table = table.append_column("score_high_given_plan", pc.add(table["score_low_given_plan"], 0.07))
    assert "more than half of their width is the pilot's" in shown(table, capsys)
    assert "statistics.pilot" not in shown(table, capsys, format="json")


def test_forty_columns(terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    terminal(40)
    assert (
        shown(ranking(), capsys)
        == """
logit:label, group 0 (cat) (500 images)
rank  layer               channel  score
   1  …stage_1.block_1…n        0  0.900
   2  …stage_1.block_1…n     1000  0.800
(no room for: 95 % of the rank, 95 % of the score; see --wide)
"""
    )


def test_a_pipe_gets_whole_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert LAYERS[0] in shown(ranking(), capsys)


def test_no_more_rankings_than_wanted_and_a_way_to_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(ranking(groups=5), capsys, most=2)
    assert printed.count("logit:label, group") == 2
    assert printed.endswith("5 rankings in all; see the others with `pcace show --group NAME`\n")


def test_json_has_all_columns_and_exact_values(capsys: pytest.CaptureFixture[str]) -> None:
    table = ranking(groups=2)
    assert json.loads(shown(table, capsys, top=8, format=Format.JSON)) == table.to_pylist()


def test_the_best_are_those_of_the_rows_that_are_left() -> None:
    table = ranking(groups=2)
    last = table.filter(pc.equal(table["layer"], LAYERS[3]))
    assert best_of(last, 1)["rank"].to_pylist() == [7, 7]
