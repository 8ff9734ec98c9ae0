"""What every benchmark shares: settings, taking turns, medians and ratios with their spread, facts of the machine, the
table and the JSON file. Knows no question.

A figure is a `Spread`: the median of its repeats with the least and the most. A ratio is taken round by round, of
timings that lie next to each other, so that what else the machine does weighs on both.
"""

from __future__ import annotations

import compileall
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

FORMAT_VERSION = 1
LIBRARIES = ("pcace-dist", "torch", "torchvision", "numpy", "pyarrow", "ray")
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What a question is asked with. `photos` is a folder of Parquet files with real photographs (generated ones
    where it is None), `full_size` whether the codes benchmark has the rows of ImageNet."""

    scratch: Path
    quick: bool = False
    repeats: int = 3
    photos: Path | None = None
    full_size: bool = False

    def pick(self, quick: T, full: T) -> T:
        return quick if self.quick else full


@dataclass(frozen=True)
class Spread:
    """The median of some figures, the least and the most of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one figure."""
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.least == self.most:
            return number(self.median)
        return f"{number(self.median)} ({number(self.least)} to {number(self.most)})"


Value: TypeAlias = "Spread | float | int | str | None"


@dataclass(frozen=True)
class Answer:
    """What a question came to: a line of values for each case. `notes` go under the table, `details` to the JSON file
    only."""

    lines: Mapping[str, Mapping[str, Value]]
    notes: Sequence[str] = ()
    details: Any = None


@dataclass(frozen=True)
class Judged:
    """A figure beside its goal."""

    case: str
    figure: str
    value: float
    goal: str
    verdict: str


@dataclass(frozen=True)
class Asked:
    """An answer with what it took, or the reason why there is none. `load` is the machine's, before and after;
    `processor` the processor's seconds, but for those of Ray's own processes."""

    name: str
    title: str
    answer: Answer | None
    seconds: float
    load: tuple[float, float]
    error: str | None = None
    processor: float = 0.0
    goals: Sequence[Judged] = ()


@dataclass(frozen=True)
class Samples:
    """Seconds of every round, by the name of the work."""

    seconds: Mapping[str, tuple[float, ...]]

    def each(self, name: str, per: float = 1.0) -> Spread:
        """Seconds of one of `per` things."""
        return Spread.of([value / per for value in self.seconds[name]])

    def milliseconds(self, name: str, per: float) -> Spread:
        """Milliseconds of one of `per` things."""
        return Spread.of([1000 * value / per for value in self.seconds[name]])

    def ratio(self, above: Sequence[str] | str, below: Sequence[str] | str, scale: float = 1.0) -> Spread:
        """Of the sums of both, round by round, times `scale`."""
        tops, bottoms = self._sums(above), self._sums(below)
        return Spread.of([scale * top / bottom for top, bottom in zip(tops, bottoms, strict=True)])

    def _sums(self, names: Sequence[str] | str) -> list[float]:
        chosen = [names] if isinstance(names, str) else names
        return [sum(values) for values in zip(*(self.seconds[name] for name in chosen), strict=True)]


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """A work for `take_turns` that counts from its call to its end."""

    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def take_turns(works: Mapping[str, Callable[[], float]], repeats: int, *, warm: int = 1) -> Samples:
    """Rounds in which every work is done once, each beginning with the next one; `warm` rounds that do not count
    come first. A work returns the seconds that count (see `timed`)."""
    names = list(works)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds = works[name]()
            if turn >= 0:
                taken[name].append(seconds)
    return Samples({name: tuple(values) for name, values in taken.items()})


def alone(work: Callable[..., T], *arguments: Any, limit: float | None = None) -> T:
    """What `work` returns, done in a new process: nothing that others loaded, pinned or used up counts in it. After
    `limit` seconds the process and all that it started are ended. Raises TimeoutError."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(work, *arguments)
        try:
            return future.result(limit)
        except TimeoutError:
            if limit is None or future.done():
                raise  # of the work itself
            for child in multiprocessing.active_children():
                for process in psutil.Process(child.pid).children(recursive=True):
                    process.kill()
                child.kill()
            raise TimeoutError(f"took longer than {limit:g} s") from None


def peak_bytes() -> int:
    """The most memory this process has had so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -- the machine


def machine() -> dict[str, Any]:
    """What figures depend on; no names of hosts, no dates."""
    from torch.backends import cpu
    from torch.cuda import device_count, get_device_name

    flags = _cpu_info("flags").split()
    return {
        "processor": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": cpu.get_cpu_capability(),
        "bfloat16": next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), "slow"),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [get_device_name(index) for index in range(device_count())],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def described(facts: Mapping[str, Any]) -> str:
    """The machine in one line."""
    parts = (
        str(facts["processor"]),
        f"{facts['cores']} cores",
        str(facts["instructions"]),
        f"bfloat16 {facts['bfloat16']}",
        f"{facts['memory_bytes'] / 2**30:.0f} GiB",
        f"GPUs: {', '.join(facts['gpus']) or 'none'}",
    )
    return ", ".join(parts)


def _cpu_info(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def compile_package() -> None:
    """Leaves bytecode of pcace_dist beside its source, as an installer does. Where PYTHONDONTWRITEBYTECODE is set, each
    process would compile what it imports anew: a third of a second that no user waits for."""
    compileall.compile_dir(Path(__file__).resolve().parents[2] / "pcace_dist", quiet=1)


# -- what comes out


def number(value: float) -> str:
    """Three figures, whole numbers from a thousand up with their commas."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:#.3g}".rstrip(".")


def shown(value: Value) -> str:
    """A value as the table shows it."""
    if value is None:
        return ""
    return str(value) if isinstance(value, str | Spread) else number(value)


def print_answer(asked: Asked, console: Console) -> None:
    """The table of one question, or the reason why there is none."""
    if asked.answer is None:
        console.print(f"[bold]{asked.name}[/bold]: no answer: {asked.error}\n", highlight=False)
        return
    console.print(f"[bold]{asked.name}: {asked.title}[/bold]", highlight=False)
    if asked.answer.lines:
        console.print(_table(asked.answer.lines))
    for note in asked.answer.notes:
        console.print(f"  {note}", highlight=False)
    if asked.goals:
        console.print(goals_table(asked.goals))
    load = " to ".join(f"{value:.1f}" for value in asked.load)
    took = f"{asked.seconds:.0f} s, {asked.processor:.0f} s of the processor"
    console.print(f"  {took}; load of the machine {load}\n", highlight=False)


def goals_table(goals: Sequence[Judged]) -> Table:
    """Each figure that has a goal, with the goal and whether it is met."""
    table = Table(box=None)
    for column in ("goal of", "figure"):
        table.add_column(column, overflow="fold")
    for column in ("value", "goal", "verdict"):
        table.add_column(column, justify="right")
    for one in goals:
        table.add_row(one.case, one.figure, number(one.value), one.goal, one.verdict)
    return table


def _table(lines: Mapping[str, Mapping[str, Value]]) -> Table:
    table = Table(box=None)
    columns = list(dict.fromkeys(name for line in lines.values() for name in line))
    table.add_column("case", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for case, line in lines.items():
        table.add_row(case, *(shown(line.get(column)) for column in columns))
    return table


def to_json(asked: Sequence[Asked], settings: Settings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The whole run in plain values."""
    return {
        "format_version": FORMAT_VERSION,
        "machine": dict(facts),
        "quick": settings.quick,
        "repeats": settings.repeats,
        "photographs": "generated" if settings.photos is None else "real",
        "answers": {one.name: _plain(one) for one in asked},
    }


def _plain(one: Asked) -> dict[str, Any]:
    held: dict[str, Any] = {"title": one.title, "seconds": round(one.seconds, 1), "load": list(one.load)}
    held |= {"processor": round(one.processor, 1), "goals": [asdict(goal) for goal in one.goals]}
    if one.answer is None:
        return held | {"error": one.error}
    lines: list[dict[str, Any]] = []
    for case, line in one.answer.lines.items():
        plain = {name: asdict(value) if isinstance(value, Spread) else value for name, value in line.items()}
        lines.append({"case": case} | plain)
    return held | {"lines": lines, "notes": list(one.answer.notes), "details": one.answer.details}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The file as a whole, indented."""
    path.write_text(json.dumps(content, indent=2) + "\n")
