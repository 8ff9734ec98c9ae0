"""The harness takes turns fairly and its figures are what they say; the registry names what is there."""

from __future__ import annotations

import io
import json
import multiprocessing
import subprocess
from functools import partial
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from tests.benchmarks import registry
from tests.benchmarks.__main__ import main
from tests.benchmarks.harness import (
    Answer,
    Asked,
    Samples,
    Settings,
    Spread,
    alone,
    print_answer,
    shown,
    take_turns,
    to_json,
)


def test_every_work_is_done_once_in_every_round_and_another_one_begins() -> None:
    order: list[str] = []

    def work(name: str) -> float:
        order.append(name)
        return 1.0

    samples = take_turns({name: partial(work, name) for name in "abc"}, 3, warm=0)
    assert ["".join(order[at : at + 3]) for at in (0, 3, 6)] == ["abc", "bca", "cab"]
    assert {name: len(values) for name, values in samples.seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_rounds_to_warm_up_do_not_count() -> None:
    answers = iter([100.0, 1.0, 2.0])
    assert take_turns({"work": lambda: next(answers)}, 2).seconds == {"work": (1.0, 2.0)}


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    samples = Samples({"a": (1.0, 2.0, 9.0), "b": (2.0, 2.0, 3.0), "c": (0.0, 2.0, 0.0)})
    assert samples.ratio("a", "b") == Spread(1.0, 0.5, 3.0)
    assert samples.ratio(("a", "c"), "b") == Spread(2.0, 0.5, 3.0)
    assert samples.ratio("a", "b", scale=10) == Spread(10.0, 5.0, 30.0)


def test_what_takes_too_long_is_ended_with_all_that_it_started() -> None:
    with pytest.raises(TimeoutError, match="took longer than 2 s"):
        alone(subprocess.run, ["sleep", "600"], limit=2)
    assert not multiprocessing.active_children()
    assert not [one for one in psutil.Process().children(recursive=True) if one.name() == "sleep"]


def test_times_of_a_thing_have_median_and_spread() -> None:
    samples = Samples({"a": (1.0, 4.0, 2.0)})
    assert samples.each("a", per=2) == Spread(1.0, 0.5, 2.0)
    assert samples.milliseconds("a", per=100) == Spread(20.0, 10.0, 40.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("float32", "float32"),
        (12_345, "12,345"),
        (7, "7"),
        (1234.5, "1,234"),
        (0.12345, "0.123"),
        (1.0, "1.00"),
        (Spread.of([0.5]), "0.5"),
        (Spread.of([0.5, 0.25, 0.75]), "0.5 (0.25 to 0.75)"),
    ],
)
def test_figures_are_shown_with_three_digits_and_their_spread(value: Spread | float | str | None, text: str) -> None:
    assert shown(value) == text


def test_the_json_holds_every_line_and_what_failed(tmp_path: Path) -> None:
    answer = Answer({"case": {"images": 3, "ratio": Spread(1.0, 0.5, 2.0)}}, notes=("a note",), details={"x": 1})
    asked = [
        Asked("good", "title", answer, 1.25, (0.5, 1.5)),
        Asked("bad", "title", None, 0.0, (0.0, 0.0), "ValueError: no"),
    ]
    found = to_json(asked, Settings(tmp_path, quick=True, repeats=1), {"cores": 2})
    assert json.loads(json.dumps(found)) == found
    assert (found["quick"], found["photographs"], found["machine"]) == (True, "generated", {"cores": 2})
    good, bad = found["answers"]["good"], found["answers"]["bad"]
    assert good["lines"] == [{"case": "case", "images": 3, "ratio": {"median": 1.0, "least": 0.5, "most": 2.0}}]
    assert (good["notes"], good["details"], bad["error"]) == (["a note"], {"x": 1}, "ValueError: no")


def test_the_table_shows_cases_figures_and_notes() -> None:
    console = Console(file=io.StringIO(), record=True, width=120)
    answer = Answer({"one": {"ms": 1.5}, "two": {"ms": 2.5, "more": "yes"}}, notes=("a note",))
    print_answer(Asked("name", "title", answer, 1.0, (0.0, 0.0)), console)
    print_answer(Asked("worse", "title", None, 1.0, (0.0, 0.0), "ValueError: no"), console)
    text = console.export_text()
    for part in ("name: title", "one", "1.50", "two", "2.50", "yes", "a note", "worse: no answer: ValueError: no"):
        assert part in text


def test_notes_without_lines_stand_under_a_title_of_one_line() -> None:
    console = Console(file=io.StringIO(), record=True, width=60)
    print_answer(
        Asked("start", "what a command takes besides its work", Answer({}, notes=("a note",)), 1.0, (0.0, 0.0)), console
    )
    assert console.export_text().startswith("start: what a command takes besides its work\n  a note\n")


def test_every_question_of_our_own_has_a_title() -> None:
    assert set(registry.MODULES) <= set(registry.all_names())
    for name in registry.all_names():
        assert registry.title_of(name)


def test_a_command_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = registry.Command("not written yet", (), ())
    monkeypatch.setattr(registry, "COMMANDS", {**registry.COMMANDS, "no_such_benchmark": nothing})
    assert "no_such_benchmark" not in registry.names()
    assert "groups" in registry.names()


def test_a_quick_run_leaves_the_long_ones_out() -> None:
    assert set(registry.names()) - set(registry.names(quick=True)) == set(registry.NOT_QUICK)
    assert set(registry.all_names()) - set(registry.names()) == set(registry.BY_NAME)


def test_a_commands_json_becomes_lines() -> None:
    assert registry.lines_of([{"groups": 1, "stages": {"reduce": 2.5}}, {"groups": 10, "seconds": [1.5, 2.0]}]) == {
        "groups 1": {"groups": 1, "stages.reduce": 2.5},
        "groups 10": {"groups": 10, "seconds": "1.5, 2"},
    }
    assert registry.lines_of({"a": {"b": 1.5}, "c": "d", "stages": {"reduce": 2.5}}) == {
        "a.b": {"value": 1.5},
        "c": {"value": "d"},
    }


def test_a_list_shows_the_columns_that_were_chosen_and_bytes_in_mib() -> None:
    found = [{"groups": 1, "peak_bytes": 3 << 20, "load": 1.0}]
    assert registry.lines_of(found, ("peak MiB", "rows")) == {"groups 1": {"peak MiB": 3.0, "rows": None}}


def test_a_command_is_run_with_the_arguments_of_its_size() -> None:
    command = registry.Command("t", ("q",), ("f",), ("s",))
    assert command.arguments(Settings(Path(), quick=True)) == ("q",)
    assert command.arguments(Settings(Path())) == ("f",)
    assert command.arguments(Settings(Path(), full_size=True)) == ("s",)


def test_a_question_that_is_not_there_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "nonsense"])
    assert ended.value.code == 2
    assert "nonsense" in capsys.readouterr().err
