"""Ratios to an earlier run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks import __main__ as bench
from tests.benchmarks.earlier import print_ratios, ratios, read_earlier
from tests.benchmarks.harness import Answer, Asked, Settings, Spread, Value, machine, to_json


def run(tmp_path: Path, **figures: Value) -> dict[str, object]:
    asked = [
        Asked("speed", "title", Answer({"one": figures, "two": {"ms": 1.0}}), 1.0, (0.5, 2.5)),
        Asked("bad", "title", None, 0.0, (0.0, 0.0), "ValueError: no"),
    ]
    content = to_json(asked, Settings(tmp_path), machine())
    plain: dict[str, object] = json.loads(json.dumps(content))
    return plain


def test_every_number_that_both_have_is_compared(tmp_path: Path) -> None:
    then = run(tmp_path, ms=Spread(4.0, 3.0, 5.0), none=0, text="x", gone=1, flag=True)
    now = run(tmp_path, ms=Spread(2.0, 1.0, 9.0), none=3, text="y", new=1, flag=True)
    assert list(ratios(then, now)) == [("speed", "one", "ms", 4.0, 2.0), ("speed", "two", "ms", 1.0, 1.0)]


def test_the_table_names_both_machines_and_marks_what_moved(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), record=True, width=160)
    print_ratios(run(tmp_path, ms=4.0), run(tmp_path, ms=2.0), console)
    print_ratios(run(tmp_path, ms=4.0), {"answers": {}}, console)
    text = console.export_text()
    assert "then: " in text and "now: " in text and "load 0 to 2.50" in text
    assert "0.5 *" in text and text.count(" *") == 2, "one figure, and the legend"
    assert "nothing to compare" in text


def test_a_file_that_is_none_is_one_line_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("broken.json", "{"), ("other.json", "[]"), ("missing.json", None)):
        if text is not None:
            (tmp_path / name).write_text(text)
        assert bench.main(["--compare", str(tmp_path / name), "--json", str(tmp_path / "out.json")]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"--compare {tmp_path / name}: ") and err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_a_run_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(run(tmp_path, ms=1.5)))
    assert read_earlier(tmp_path / "a.json")["answers"]["speed"]["lines"][0] == {"case": "one", "ms": 1.5}
