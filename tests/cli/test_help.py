"""The command teaches: what it is without arguments, an example and the exit codes in every --help, errors that point
to the verb's own help; and jobs/ has a script for every verb that a cluster may be asked for."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pcace_dist.cli.main import build_parser, main

ROOT = Path(__file__).resolve().parents[2]
VERBS = list(build_parser().verbs())
HERE_ONLY = {"completion", "init", "schema", "serve"}  # of no use to a cluster


def printed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_without_arguments_it_says_what_it_is_and_the_first_three_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    first = re.findall(r"^  (pcace .*?)  +\d\.", text, re.M)
    assert len(first) == 3
    for line in first:
        build_parser().read(shlex.split(line)[1:])
    assert all(len(line) < 80 for line in text.splitlines())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_examples_and_the_exit_codes(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed([verb, "--help"], capsys)
    assert f"pcace {verb} " in text.partition("\nexample:\n")[2]
    assert "exit codes:" in text


@pytest.mark.parametrize("verb", sorted(set(VERBS) - HERE_ONLY))
def test_the_examples_are_commands(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed([verb, "--help"], capsys).partition("\nexample:\n")[2].partition("\nexit codes:")[0]
    lines = re.findall(r"^  (pcace .*?)(?:  +#.*)?$", text, re.M)
    assert lines
    for line in lines:
        build_parser().read(shlex.split(line)[1:])


def test_the_module_is_the_command() -> None:
    for arguments in ([], ["rank", "--help"]):
        done = subprocess.run([sys.executable, "-m", "pcace_dist", *arguments], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.startswith("pcace ranks" if not arguments else "usage: pcace rank ")


@pytest.mark.parametrize(
    "line, message",
    [
        ("rank", "pcace rank: the following arguments are required: JOB.yaml; see pcace rank --help"),
        ("rank a.yaml --sets b", "pcace rank: unknown argument --sets (did you mean --set?); see pcace rank --help"),
        ("show runs/a extra", "pcace show: unknown argument extra; see pcace show --help"),
        (
            "report a --top 0",
            "pcace report: argument --top: '0': is not a whole number from 1; see pcace report --help",
        ),
        ("rnak a.yaml", "pcace: there is no verb 'rnak' (did you mean rank?); see pcace --help"),
    ],
)
def test_a_wrong_argument_is_one_line_that_points_to_the_verbs_own_help(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(line.split(), capsys) == message + "\n"


@pytest.mark.parametrize("verb", sorted(set(VERBS) - HERE_ONLY))
def test_jobs_has_a_script_with_the_same_arguments(verb: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "jobs" / f"{verb}.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert f"pcace {verb}" in done.stdout


def test_scripts_of_jobs_are_no_modules() -> None:
    """Python puts a script's folder first on the path; jobs/select.py must not be what `import select` finds."""
    script = ROOT / "jobs" / "rank.py"
    code = f"""
import runpy, sys
sys.path[0], sys.argv = {str(script.parent)!r}, ["rank.py", "--help"]
try:
    runpy.run_path({str(script)!r}, run_name="__main__")
except SystemExit:
    pass
import select
select.select
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
