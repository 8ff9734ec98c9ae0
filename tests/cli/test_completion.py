"""TAB in the shells that people have: the real shell reads the script of `pcace completion`, which then asks pcace."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcace_dist.cli.main import build_parser

BIN = Path(sys.executable).parent  # where `pcace` lies
VERBS = list(build_parser().verbs())
LINES = {
    "pcace rer": "pcace rerank",
    "pcace rank ci": "pcace rank city.yaml",  # not city.txt
    "pcace report runs/monday --no-s": "pcace report runs/monday --no-synthesis",
    "pcace show run": "pcace show runs/",
    "pcace rank city.yaml --set statistics.pen": "pcace rank city.yaml --set statistics.penalty=",
    "pcace rank city.yaml --set compute.precision=bfl": "pcace rank city.yaml --set compute.precision=bfloat16",
    "pcace pack a b --kind web": "pcace pack a b --kind webdataset",
}
SET_UP = {
    "bash": "bind 'set show-all-if-ambiguous on'; bind 'set bell-style none'; eval \"$(pcace completion bash)\"",
    "zsh": 'autoload -U compinit; compinit -u; unsetopt beep; eval "$(pcace completion zsh)"',
}


def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG") if name in os.environ}
    return kept | {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(home), "TERM": "dumb", "PS1": "$ "}


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"this machine has no {shell}")


@contextlib.contextmanager
def interactive(shell: str, folder: Path) -> Iterator[int]:
    """An interactive shell in a terminal of its own (its descriptor), which has read the script."""
    command = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}[shell]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, environment(folder))
    try:
        said(terminal, f"{SET_UP[shell]}; echo rea''dy\n", "ready")
        yield terminal
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def said(terminal: int, keys: str, *wanted: str) -> None:
    """Type the keys and read until all the texts have come back."""
    os.write(terminal, keys.encode())
    answer, end = "", time.monotonic() + 60
    while not all(text in answer for text in wanted):
        readable, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        assert readable, answer
        answer += os.read(terminal, 1 << 16).decode(errors="replace")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a job file, a file of the same beginning that is none, and a run."""
    (tmp_path / "city.yaml").touch()
    (tmp_path / "city.txt").touch()
    (tmp_path / "runs" / "monday").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("typed, completed", LINES.items())
@pytest.mark.parametrize("shell", SET_UP)
def test_tab_completes_what_is_typed(shell: str, typed: str, completed: str, folder: Path) -> None:
    needs(shell)
    with interactive(shell, folder) as terminal:
        said(terminal, f"{typed}\t", completed)


@pytest.mark.parametrize("shell", SET_UP)
def test_tab_lists_all_verbs(shell: str, folder: Path) -> None:
    needs(shell)
    with interactive(shell, folder) as terminal:
        said(terminal, "pcace \t", *VERBS)


def fish(line: str, folder: Path) -> list[str]:
    """What fish offers for the last word of a line."""
    needs("fish")
    script = f"pcace completion fish | source; complete --do-complete {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], cwd=folder, env=environment(folder), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [offer.partition("\t")[0] for offer in done.stdout.splitlines()]


@pytest.mark.parametrize("typed, completed", LINES.items())
def test_fish_completes_what_is_typed(typed: str, completed: str, folder: Path) -> None:
    assert fish(typed, folder) == [completed.split()[-1]]


def test_fish_lists_all_verbs(folder: Path) -> None:
    assert set(VERBS) <= set(fish("pcace ", folder))
