"""Values of the data reach a terminal as text: no markup, no control characters, no tracebacks."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

import pcace_dist
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.cli.tables import print_ranking
from pcace_dist.datasets.groups import name_of
from pcace_dist.progress import logs, terminal

HOSTILE = ("[/] closing", "[red]x[/red]", "[unknown]", "\x1b[31mred", "a\rb", "a\nb", ":smile:", "\u202eevil", "\x9b1m")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Zürich 東京 \U0001f600", "Zürich 東京 \U0001f600"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202e", "\\u202e"),
        ("caf\udce9", "caf\\udce9"),
        ("a\u200cb", "a\u200cb"),
        (None, "None"),
    ],
)
def test_what_a_terminal_would_obey_is_written_as_an_escape(text: object, shown: str) -> None:
    assert terminal.visible(text) == shown


def ranking(*groups: str | None) -> pa.Table:
    columns = ("rank", "layer_rank", "rank_low", "rank_high", "channel", "images")
    numbers = {name: [1] * len(groups) for name in columns}
    floats = {
        name: [0.5] * len(groups) for name in ("score", "score_low", "score_high", "score_first_component", "pearson")
    }
    texts = {"target": "column:[/]", "layer": "[bold]conv[/bold]", "status": "ok"}
    return pa.table(
        numbers | floats | {name: [text] * len(groups) for name, text in texts.items()} | {"group": list(groups)}
    )


@pytest.mark.parametrize("value", HOSTILE)
def test_a_group_of_any_text_is_printed_as_it_is(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_ranking(ranking(value), ClassNames(), grouped=True)
    printed = capsys.readouterr().out
    assert terminal.visible(name_of(value)) in printed
    assert "[bold]conv[/bold]" in printed and "column:[/]" in printed
    assert not set(printed) & set("\x1b\r\x9b\u202e")


def test_a_line_of_an_error_is_one_line_whatever_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    logs.say("no column 'a\nb\x1b[2J'", prefix="pcace rank: ")
    assert capsys.readouterr().err == "pcace rank: no column 'a\\nb\\x1b[2J'\n"


def test_nothing_is_printed_past_the_terminal() -> None:
    """`tell`, `logs.say` and tables of terminal.py are the only ways out."""
    package = Path(pcace_dist.__file__).parent
    printing = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == {"progress/terminal.py", "progress/logs.py", "cli/completion.py"}, "a script for a shell"


SHOW = (
    "import sys\nfrom tests.progress.test_terminal import ClassNames, ranking\n"
    "from pcace_dist.cli import main, show, tables\n"
    "show._show = lambda _: tables.print_ranking(ranking(*['x'] * 2000), ClassNames(), grouped=True) or 0\n"
    "sys.argv = ['pcace', 'show', 'run']\nmain.entry()"
)


def test_a_reader_that_takes_the_first_lines_is_no_error() -> None:
    shown = subprocess.Popen([sys.executable, "-c", SHOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert shown.stdout is not None and shown.stderr is not None
    shown.stdout.read(10)
    shown.stdout.close()
    assert (shown.stderr.read(), shown.wait(60)) == (b"", 0)
    shown.stderr.close()


@pytest.mark.parametrize("stream", [1, 2])
def test_a_stream_that_is_closed_is_no_traceback(stream: int) -> None:
    command = f"{sys.executable} -m pcace_dist status nowhere {stream}>&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_arguments_are_utf8_whatever_the_locale_says() -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "pcace_dist", "show", "nö"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2
    assert "nö".encode() in done.stderr


def test_an_argument_that_is_not_utf8_is_named() -> None:
    command: list[str | bytes] = [sys.executable, "-m", "pcace_dist", "show", b"caf\xe9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "caf\\udce9 is not UTF-8" in done.stderr


def test_bars_of_libraries_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "HF_HUB_DISABLE_PROGRESS_BARS"
    monkeypatch.setenv(name, "0")
    terminal.quiet_libraries()
    assert os.environ[name] == "0"  # whoever says so has bars in a file too
    monkeypatch.delenv(name)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True))
        terminal.quiet_libraries()
    assert name not in os.environ
    terminal.quiet_libraries()
    assert os.environ[name] == "1"
