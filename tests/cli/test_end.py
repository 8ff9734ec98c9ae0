"""How the command ends: at once, with the code of its verb, once all that it has said is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SAYS = "import pcace_dist.cli.main as cli\ncli.main = lambda _: print('said') or {code}\ncli.entry()"


def ended(code: int, **streams: Any) -> subprocess.CompletedProcess[str]:
    """The command ended with this code after a line, which waits in Python's buffer until then."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    command = [sys.executable, "-c", SAYS.format(code=code)]
    return subprocess.run(command, text=True, timeout=60, env=env, **streams)


@pytest.mark.parametrize("code", [0, 4])
def test_all_is_written_and_the_code_is_the_verbs(code: int) -> None:
    done = ended(code)
    assert (done.returncode, done.stdout, done.stderr) == (code, "said\n", "")


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = ended(0, stdout=pipe)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no file that is always full")
@pytest.mark.parametrize("code, ends", [(0, 1), (4, 4)])
def test_output_that_cannot_be_written_is_said(code: int, ends: int) -> None:
    with open("/dev/full", "wb") as full:
        done = ended(code, stdout=full)
    assert done.returncode == ends
    assert done.stderr.startswith("pcace: the output cannot be written: ")
    assert done.stderr.count("\n") == 1
