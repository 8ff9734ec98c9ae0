"""Progress reads well in a log: one line at a change of stage and now and then, the last one always."""

from __future__ import annotations

import io

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
        lines.show(Tally("reducing", 100, 100, workers=1))
    written = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in written] == [
        "pcace: ranking: 0 of 100 images (0 %)",
        "pcace: ranking: 100 of 100 images (100 %)",
        "pcace: reducing: 100 of 100 images (100 %)",
    ]


def test_a_tally_says_what_of_the_storage_is_waited_for() -> None:
    tally = Tally("ranking", 100, 200, 2, waits_for="waits for s3://b/k (for 20 s by now)")
    assert describe(tally).endswith("2 workers up, waits for s3://b/k (for 20 s by now)")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_on_which_names_are_no_markup() -> None:
    terminal = Terminal()
    with RunDisplay(terminal) as display:
        display.show(Tally("ranking", 1, 4, waits_for="waits for s3://b/[/red]k"))
        display.show(Tally("ranking", 4, 4))
    assert "waits for s3://b/[/red]k" in terminal.getvalue() or "4 of 4 images (100 %)" in terminal.getvalue()
    assert "pcace: " not in terminal.getvalue()
