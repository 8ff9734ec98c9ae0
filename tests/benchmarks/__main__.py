"""`make bench`: every question once, a table for each on the screen and everything in one JSON file.

    python -m tests.benchmarks [--quick] [--only NAME ...] [--photos DIR] [--full-size] [--json benchmarks.json]
                               [--compare EARLIER.json]

Each question runs in a process of its own; all figures that are compared come from one run, taking turns, repeated.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.benchmarks.earlier import print_ratios, read_earlier
from tests.benchmarks.goals import judged
from tests.benchmarks.harness import (
    Asked,
    Settings,
    alone,
    compile_package,
    described,
    goals_table,
    machine,
    print_answer,
    to_json,
    write_json,
)
from tests.benchmarks.registry import all_names, ask, names, title_of

LIMIT = 900.0  # seconds of a question: one that hangs is not to cost the others


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every question found its answer; 2 where the file to compare with is none."""
    asked_for = _parser().parse_args(arguments)
    try:
        earlier = None if asked_for.compare is None else read_earlier(asked_for.compare)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.pop("RAY_ADDRESS", None)
    compile_package()
    console = Console(width=None if sys.stdout.isatty() else 160)
    facts = alone(machine)
    console.print(f"{described(facts)}\n", highlight=False)
    answers = []
    with tempfile.TemporaryDirectory(prefix="pcace-bench-") as folder:
        settings = Settings(
            scratch=Path(folder),
            quick=asked_for.quick,
            repeats=asked_for.repeats or (1 if asked_for.quick else 3),
            photos=asked_for.photos,
            full_size=asked_for.full_size,
        )
        for name in asked_for.only or names(quick=asked_for.quick):
            answers.append(_ask(name, settings))
            print_answer(answers[-1], console)
            write_json(asked_for.json, to_json(answers, settings, facts))
    if earlier is not None:
        print_ratios(earlier, to_json(answers, settings, facts), console)
    sum_up(answers, console)
    console.print(f"all figures: {asked_for.json}", highlight=False)
    return int(any(one.answer is None for one in answers))


def sum_up(answers: Sequence[Asked], console: Console) -> None:
    """What all of it took, and the goals that are not met."""
    goals = [goal for one in answers for goal in one.goals]
    missed = [goal for goal in goals if goal.verdict != "met"]
    if missed:
        console.print(goals_table(missed))
    took = f"{sum(one.seconds for one in answers) / 60:.1f} minutes"
    met = f"; {len(goals) - len(missed)} of {len(goals)} goals are met" if goals else ""
    console.print(f"{took}{met}", highlight=False)


def _processor() -> float:
    """Seconds of the processor that ended children have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ask(name: str, settings: Settings) -> Asked:
    """One question in a process of its own; what goes wrong in it is its answer."""
    before, start, processor = os.getloadavg()[0], time.monotonic(), _processor()
    answer = error = None
    own = settings.scratch / name
    own.mkdir()
    try:
        answer = alone(ask, name, replace(settings, scratch=own), limit=None if settings.full_size else LIMIT)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    seconds = time.monotonic() - start
    load = (round(before, 1), round(os.getloadavg()[0], 1))
    goals = () if answer is None or settings.quick else tuple(judged(name, answer))
    return Asked(name, title_of(name), answer, seconds, load, error, _processor() - processor, goals)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: some minutes")
    parser.add_argument("--only", nargs="+", choices=all_names(), metavar="NAME", help=", ".join(all_names()))
    parser.add_argument("--repeats", type=int, help="rounds (3; quick: 1)")
    parser.add_argument("--photos", type=Path, help="a folder of Parquet files with JPEGs (else they are generated)")
    parser.add_argument("--full-size", action="store_true", help="codes_scale with the rows of ImageNet: an hour")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="print ratios to the figures of an earlier --json")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
