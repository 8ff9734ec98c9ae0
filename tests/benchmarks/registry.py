"""All questions that `make bench` asks, in the order of the table.

A question of our own is a module with `TITLE` and `ask(settings) -> Answer`. A command is a module that can be run by
itself (`python -m tests.benchmarks.NAME ... --json FILE`): its JSON becomes the
lines. One that is not there is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Answer, Settings, Value

PACKAGE = "tests.benchmarks"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Command:
    """A benchmark with a command line of its own: its arguments in a quick and in a full run; `columns` of a list that
    the table shows (none: all)."""

    title: str
    quick: tuple[str, ...]
    full: tuple[str, ...]
    full_size: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()

    def arguments(self, settings: Settings) -> tuple[str, ...]:
        if settings.full_size and self.full_size is not None:
            return self.full_size
        return settings.pick(self.quick, self.full)


MODULES = (
    "main_pass",
    "decode",
    "published",
    "loader",
    "ray_data",
    "memory",
    "scaling",
    "overhead",
    "solve",
    "driver",
    "rates",
    "all_layers",
    "effects",
)
COMMANDS: Mapping[str, Command] = {
    "start": Command(
        "what a command takes besides its work", ("--repeats", "1"), ("--repeats", "2"), columns=("seconds",)
    ),
    "groups": Command(
        "a hundred rankings in one pass, and from kept codes",
        ("--example", "--repeats", "1"),
        ("--repeats", "2", "--commands"),
    ),
    "codes_scale": Command(
        "reduce and solve at the size of ImageNet (--full-size: 1.28 million rows, 1,000 groups)",
        ("--rows", "16384", "--groups", "1", "10"),
        ("--rows", "32768", "--groups", "1", "20"),
        ("--rows", "1280000", "--groups", "1", "1000"),
        columns=("rows", "channels", "seconds", "reduce and rank, s", "peak MiB", "peak_of_all MiB", "codes MiB"),
    ),
    "device": Command("forward, tap and statistics on the GPU, and nvJPEG", ("--quick",), ()),
}


NOT_QUICK = ("groups", "start")  # left out of a quick run unless they are named
ON_GPU = ("device",)  # where there is none, main_pass has the processor's figures
BY_NAME = ("rates", "all_layers")  # asked only where they are named: for docs/scale.md, no comparisons


def names(*, quick: bool = False) -> list[str]:
    """Questions that are asked here where none is named."""
    left_out = BY_NAME + (NOT_QUICK if quick else ())
    return [name for name in all_names() if name not in left_out]


def all_names() -> list[str]:
    """Questions that can be asked here."""
    there = [name for name in (*MODULES, *COMMANDS) if importlib.util.find_spec(f"{PACKAGE}.{name}") is not None]
    return [name for name in there if name not in ON_GPU or _has_gpu()]


def _has_gpu() -> bool:
    from torch.cuda import is_available  # late: it takes a second

    return bool(is_available())


def title_of(name: str) -> str:
    if name in COMMANDS:
        return COMMANDS[name].title
    return str(importlib.import_module(f"{PACKAGE}.{name}").TITLE)


def ask(name: str, settings: Settings) -> Answer:
    """One question, in this process (a command in its own)."""
    if name in COMMANDS:
        return _run(name, COMMANDS[name], settings)
    question: Callable[[Settings], Answer] = importlib.import_module(f"{PACKAGE}.{name}").ask
    return question(settings)


def _run(name: str, command: Command, settings: Settings) -> Answer:
    file = settings.scratch / f"{name}.json"
    line = [sys.executable, "-m", f"{PACKAGE}.{name}", *command.arguments(settings), "--json", str(file)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"{' '.join(line[1:])} ended with {done.returncode}: {last[0]}")
    found = json.loads(file.read_text())
    return Answer(lines_of(found, command.columns), details=found)


def lines_of(found: Any, columns: Sequence[str] = ()) -> dict[str, dict[str, Value]]:
    """Any JSON as lines: one for each entry of a list of objects, else one for each value, named by its path, but for
    the seconds of stages."""
    if isinstance(found, list) and found and all(isinstance(entry, dict) for entry in found):
        lines = {_case(index, entry): _flat(entry) for index, entry in enumerate(found)}
        return {case: {name: line.get(name) for name in columns or line} for case, line in lines.items()}
    return {path: {"value": value} for path, value in _flat(found).items() if not path.startswith("stages.")}


def _case(index: int, entry: Mapping[str, Any]) -> str:
    first = next(iter(entry.items()), ("", index))
    return str(first[1]) if isinstance(first[1], str) else f"{first[0]} {first[1]}"


def _flat(found: Any, path: str = "") -> dict[str, Value]:
    if isinstance(found, dict):
        merged: dict[str, Value] = {}
        for key, value in found.items():
            merged |= _flat(value, f"{path}.{key}" if path else str(key))
        return merged
    if isinstance(found, list):
        return {path: ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in found)}
    if path.endswith("_bytes") and isinstance(found, int):
        return {path.replace("_bytes", " MiB"): found / 2**20}
    return {path: found if isinstance(found, str | int | float) or found is None else str(found)}
