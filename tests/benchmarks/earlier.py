"""The figures of a run beside those of an earlier one: `make bench BENCH="--compare FILE"`.

A ratio of two runs is not one of timings that took turns: another load or machine is in it. Both stand above the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import FORMAT_VERSION, described, number

SAME = 0.05  # a ratio within 1 +- this is not marked


def read_earlier(path: Path) -> dict[str, Any]:
    """The JSON file of an earlier run. Raises ValueError, one line, where it is none."""
    try:
        earlier = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--compare {path}: cannot be read ({error}); give the JSON file of an earlier run") from error
    if not isinstance(earlier, dict) or earlier.get("format_version") != FORMAT_VERSION or "answers" not in earlier:
        raise ValueError(f"--compare {path}: is no file that `make bench` wrote; give the JSON file of an earlier run")
    return earlier


def ratios(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str, float, float]]:
    """Question, case, figure, its value then and now: every number that both runs have and that is not 0 then."""
    for question, answer in now["answers"].items():
        lines = {line["case"]: line for line in earlier["answers"].get(question, {}).get("lines", ())}
        for line in answer.get("lines", ()):
            for figure, value in line.items():
                before, after = _number(lines.get(line["case"], {}).get(figure)), _number(value)
                if before and after is not None:
                    yield question, line["case"], figure, before, after


def _number(value: object) -> float | None:
    """A figure's value, the median of a spread; None for what is no number."""
    if isinstance(value, Mapping):
        value = value.get("median")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def print_ratios(earlier: Mapping[str, Any], now: Mapping[str, Any], console: Console) -> None:
    """The table; or that there is nothing to compare."""
    found = list(ratios(earlier, now))
    if not found:
        console.print("nothing to compare: the earlier run has no figure of these\n", highlight=False)
        return
    for name, run in (("then", earlier), ("now", now)):
        quick = ", quick" if run.get("quick") else ""
        console.print(f"{name}: {described(run['machine'])}{quick}{_loads(run)}", highlight=False)
    table = Table(box=None)
    for column in ("question", "case", "figure"):
        table.add_column(column, overflow="fold")
    for column in ("then", "now", "now / then"):
        table.add_column(column, justify="right")
    for question, case, figure, before, after in found:
        ratio = after / before
        mark = "" if abs(ratio - 1) <= SAME else " *"
        table.add_row(question, case, figure, number(before), number(after), f"{number(ratio)}{mark}")
    console.print(table)
    console.print(f"  * differs by more than {SAME:.0%}; loads and machines differ too\n", highlight=False)


def _loads(run: Mapping[str, Any]) -> str:
    loads = [load for answer in run["answers"].values() for load in answer.get("load", ())]
    return f", load {number(min(loads))} to {number(max(loads))}" if loads else ""
