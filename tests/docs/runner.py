"""A page as a reader types it: its blocks in order, as one shell script in a scratch directory.

`sh` blocks are commands; of `console` blocks the lines after `$ ` are. Consecutive `python` blocks are one program.
A `python` or `yaml` block whose first line is `# NAME.py` or `# NAME.yaml` is that file. Everything else (output, parts
of a job) is only read.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tests.docs.pages import ROOT, Block

SECONDS = 580
BEGIN = """\
set -eu -o pipefail
trap 'echo "the page stops at: $BASH_COMMAND" >&2' ERR
"""


@dataclass(frozen=True)
class Recipe:
    """What a page needs to be run as it stands.

    `given`: folders of data and runs that the page takes for granted (tests/docs/given.py); `before`: shell, run first;
    `names`: Python, put before each of the page's programs; `check`: Python, at the end of the last program.
    `instead`: what the page says and what is run in its place; `skipped`: the beginning of a line, or of a whole block
    of Python, and why it is not run.
    `server`: what is up meanwhile, and the environment that leads there.
    """

    given: tuple[str, ...] = ()
    before: str = ""
    names: str = ""
    check: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    server: Callable[[], AbstractContextManager[dict[str, str]]] = lambda: contextlib.nullcontext({})


def script(page: Iterable[Block], recipe: Recipe = Recipe()) -> str:
    """The page as a script for bash."""
    steps = [step for block in page if (step := _step(block, recipe))]
    if recipe.check:
        steps.append(("python", recipe.check))
    parts = [BEGIN, recipe.before]
    for kind, run in groupby(steps, key=lambda step: step[0]):
        texts = [text for _, text in run]
        parts += [_program(recipe.names, texts)] if kind == "python" else texts
    return "\n".join(parts)


def _step(block: Block, recipe: Recipe) -> tuple[str, str] | None:
    """("sh" or "python", what is run of the block)."""
    text = block.text
    for said, ran in recipe.instead.items():
        text = text.replace(said, ran)
    named = re.match(r"# (\S+\.(?:py|yaml|txt))\b.*\n", text)
    if named and block.language in ("python", "yaml"):
        return "sh", _here(f"cat > {named[1]}", text)
    skipped = tuple(recipe.skipped)
    if block.language == "console":
        text = "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
    if block.language in ("sh", "console"):
        return "sh", "\n".join(line for line in _lines(text) if not line.lstrip().startswith(skipped))
    return ("python", text) if block.language == "python" and not text.startswith(skipped) else None


def _lines(text: str) -> list[str]:
    """Lines of a shell block, those that go on in the next one put together."""
    return re.sub(r"\s*\\\n\s*", " ", text).splitlines()


def _program(names: str, texts: list[str]) -> str:
    return _here("python -", "\n".join(["from __future__ import annotations", names, *texts]))


def _here(command: str, text: str) -> str:
    return f"{command} <<'END_OF_BLOCK'\n{text.rstrip()}\nEND_OF_BLOCK"


def run_page(page: Iterable[Block], recipe: Recipe, folder: Path) -> str:
    """Run the page in `folder`; what it has printed. An assertion names the command at which it stops."""
    file = folder / ".page.sh"
    file.write_text(script(page, recipe))
    with recipe.server() as leads_there:
        done = subprocess.run(
            ["bash", str(file)],
            cwd=folder,
            env=_environment() | leads_there,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def _environment() -> dict[str, str]:
    """This process's, without what would lead elsewhere; the project and its commands are found, no hub is asked.
    Workers are threads: the bytes are Ray's, which other tests hold, and Ray's start would take most of the time."""
    left_out = ("AWS_", "RAY_", "PCACE_", "WANDB_", "MLFLOW_")
    held = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{held['PATH']}"
    found = {"PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}."}
    return held | found | {"PCACE_EXECUTOR": "threads", "HF_HUB_OFFLINE": "1", "TERM": "dumb"}
