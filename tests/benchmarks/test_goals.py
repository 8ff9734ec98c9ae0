"""Goals: which figures have one, and what is said of them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.benchmarks import registry
from tests.benchmarks.__main__ import sum_up
from tests.benchmarks.goals import GOALS, Goal, judged, least, most
from tests.benchmarks.harness import Answer, Asked, Spread, print_answer


@pytest.mark.parametrize(
    ("goal", "value", "said"),
    [
        (least("*", "x", 0.95), 0.95, "met"),
        (least("*", "x", 0.95), 0.855, "short by 10.0%"),
        (most("*", "x", 2.0), 1.0, "met"),
        (most("*", "x", 2.0), 2.5, "over by 25.0%"),
        (most("*", "x", 2.0), 2.0001, "over by 0.1%"),
    ],
)
def test_a_verdict_says_by_how_much(goal: Goal, value: float, said: str) -> None:
    assert goal.verdict(value) == said


def test_every_goal_is_of_a_question_that_is_asked() -> None:
    assert set(GOALS) <= {*registry.MODULES, *registry.COMMANDS}


def test_medians_are_judged_and_what_has_no_figure_is_not() -> None:
    answer = Answer(
        {
            "ResNet-18, 1 layer, bfloat16, cpu": {"images": 96, "of the limit": Spread(0.96, 0.9, 1.0)},
            "ResNet-18, all 20, bfloat16, cpu": {"of the limit": 0.44},
            "ResNet-50, all 53, bfloat16, cpu": {"of the limit": None},
            "MNIST CNN, 3 layers, float32, cpu": {"of forward": 1.0},
        }
    )
    found = list(judged("main_pass", answer))
    assert [(one.value, one.goal, one.verdict) for one in found] == [
        (0.96, "at least 0.95", "met"),
        (0.44, "at least 0.88", "short by 50.0%"),
    ]
    assert list(judged("no such question", answer)) == []


def test_verdicts_stand_under_their_table_and_the_missed_ones_at_the_end() -> None:
    console = Console(file=io.StringIO(), record=True, width=160)
    answer = Answer({"photographs, contiguous": {"of bare": 0.5}, "28 x 28 PNG": {"of bare": 1.2}})
    asked = Asked("decode", "title", answer, 90.0, (0.0, 0.0), goals=tuple(judged("decode", answer)))
    print_answer(asked, console)
    assert console.export_text(clear=True).count("at least 0.95") == 2
    sum_up([asked], console)
    text = console.export_text()
    assert "short by 47.4%" in text and "1.5 minutes; 1 of 2 goals are met" in text and "28 x 28" not in text
