"""Runs a command, and prints how long it took and how much memory its processes used at most.

    python -m examples.street.watched [--out FILE] COMMAND...

Memory is the proportional set size, sampled twice a second: shared pages count once, divided among the processes that
share them. By kind: the command itself; Ray's workers that run the job's actors and tasks (the largest of them, and all
together); and the rest (Ray's own processes). Its exit code is that of the command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

EVERY = 0.5  # seconds
MEGABYTE = 10**6


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process; 0 if it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def kind_of(process: psutil.Process, command: int) -> str:
    """The kind of a process. Ray's workers have titles like ray::TASK; idle ones do not count as workers."""
    if process.pid == command:
        return "command"
    try:
        title = process.cmdline()[:1] or [""]
    except psutil.Error:
        return "rest"
    return "workers" if title[0].startswith("ray::") and not title[0].startswith("ray::IDLE") else "rest"


def sample(command: int) -> dict[str, int]:
    """Bytes by kind now, and of the largest worker."""
    sizes = {"command": 0, "workers": 0, "rest": 0, "largest_worker": 0}
    try:
        top = psutil.Process(command)
        family = [top, *top.children(recursive=True)]
    except psutil.Error:
        return sizes
    for process in family:
        kind, size = kind_of(process, command), memory_of(process)
        sizes[kind] += size
        if kind == "workers":
            sizes["largest_worker"] = max(sizes["largest_worker"], size)
    return sizes


def watch(arguments: list[str]) -> tuple[int, float, dict[str, int]]:
    """A command's exit code, its seconds, and its largest bytes by kind."""
    most: dict[str, int] = {}
    started = time.monotonic()
    with subprocess.Popen(arguments) as process:
        while process.poll() is None:
            current = sample(process.pid)
            most = {kind: max(size, most.get(kind, 0)) for kind, size in current.items()}
            time.sleep(EVERY)
    return process.returncode, time.monotonic() - started, most


def described(seconds: float, most: Mapping[str, int]) -> str:
    parts = [f"{name.replace('_', ' ')} {size / MEGABYTE:,.0f} MB" for name, size in most.items() if size]
    return f"{seconds:.0f} s; most memory: {', '.join(parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the numbers, .json")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("names no command")
    code, seconds, most = watch(args.command)
    print(described(seconds, most), flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps({"seconds": round(seconds, 1), "bytes": most}, indent=1) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
