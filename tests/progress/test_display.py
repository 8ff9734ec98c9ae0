"""Progress reads well in a log: one line at a change of stage and now and then, the last one always."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import pytest

from pcace_dist.progress.display import RunDisplay, Tally, describe, duration


def test_a_tally_is_one_line_with_rate_remaining_time_workers_and_bad_rows() -> None:
    tally = Tally("ranking", 600, 1200, workers=2, bad_rows=3, rate=10.0)
    assert describe(tally) == "ranking: 600 of 1,200 images (50 %), 10 images/s, 1m00s left, 2 workers up, 3 bad"


def test_durations() -> None:
    assert [duration(s) for s in (4.4, 125, 3725)] == ["4s", "2m05s", "1h02m"]


def test_a_log_gets_a_line_for_each_stage_and_the_end_once() -> None:
    stream = io.StringIO()
    with RunDisplay(stream) as lines:
        for images in (0, 10, 20, 100, 100):
            lines.show(Tally("ranking", images, 100, workers=1))
        lines.prepare()
        for share in (0.0, 0.5, 1.0, 1.0):
            lines.show(Tally("reducing", 100, 100, workers=1, share=share))
    written = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in written] == [
        "pcace: ranking: 0 of 100 images (0 %)",
        "pcace: ranking: 100 of 100 images (100 %)",
        "pcace: reducing (0 %)",
        "pcace: reducing (100 %)",
    ]


def test_a_tally_says_what_of_the_storage_is_waited_for() -> None:
    tally = Tally("ranking", 100, 200, 2, waits_for="waits for s3://b/k (for 20 s by now)")
    assert describe(tally).endswith("2 workers up, waits for s3://b/k (for 20 s by now)")


def test_a_stage_that_counts_no_images_has_a_percentage_from_the_first_moment() -> None:
    assert describe(Tally("starting workers", 0, 0, share=0.0)) == "starting workers (0 %), 0 workers up"
    assert describe(Tally("pilot", 0, 0, 2, share=0.416)) == "pilot (42 %), 2 workers up"
    assert describe(Tally("reducing", 9, 9, 1, rate=7.0, share=0.5)) == "reducing (50 %), 1 worker up"


def test_a_long_stage_writes_fewer_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100_000))
    monkeypatch.setattr("pcace_dist.progress.bar.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    with RunDisplay(stream) as lines:
        for second in range(3600):
            lines.show(Tally("ranking", second, 10_000, workers=1))
    assert stream.getvalue().count("\n") < 100


def test_a_notebook_has_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def show(content: dict[str, str], **_: object) -> SimpleNamespace:
        shown.append(content["text/plain"])
        return SimpleNamespace(update=show)

    shell = SimpleNamespace(kernel=object())
    notebook = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=show))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    with RunDisplay() as lines:
        lines.prepare()
        lines.show(Tally("ranking", 0, 4))
        lines.show(Tally("ranking", 4, 4))
    first, *_, last = shown
    assert first == "pcace: preparing" and last.startswith("pcace: ranking: 4 of 4 images (100 %)")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_on_which_names_are_no_markup() -> None:
    terminal = Terminal()
    with RunDisplay(terminal) as display:
        display.show(Tally("ranking", 1, 4, waits_for="waits for s3://b/[/red]k"))
        display.show(Tally("ranking", 4, 4))
    assert "waits for s3://b/[/red]k" in terminal.getvalue() or "4 of 4 images" in terminal.getvalue()
    assert "pcace: " not in terminal.getvalue()


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_bar_is_one_line_however_narrow_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with RunDisplay(terminal) as display:
        display.show(Tally("ranking", 1_000_000, 2_000_000, 64, 17, 1234.5, "waits for s3://bucket/" + "k" * 300))
    drawn = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split("[\r\n]+", terminal.getvalue())]
    assert max(map(len, drawn)) <= columns and any(" 50 % " in line for line in drawn)
    assert "\x1b[3" not in terminal.getvalue(), "no colours"


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with RunDisplay(terminal) as display:
        display.show(Tally("ranking", 1, 4))
    assert terminal.getvalue() == "pcace: ranking: 1 of 4 images (25 %), 0 workers up\n"
