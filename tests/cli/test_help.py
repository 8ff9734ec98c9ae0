"""--help teaches: every verb shows an example and the exit codes, and jobs/ has a script for each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pcace_dist.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
VERBS = ["compare", "estimate", "evaluate", "history", "pack", "rank", "report", "rerank", "show", "status"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example_and_the_exit_codes(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"example:\n  pcace {verb} " in text
    assert "exit codes:" in text


def test_a_wrong_argument_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["rank"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_jobs_has_a_script_with_the_same_arguments(verb: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "jobs" / f"{verb}.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert f"pcace {verb}" in done.stdout
