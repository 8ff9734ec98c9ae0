"""Forward once, rank many: what a hundred rankings cost beside one, and the same question from kept codes.

    python -m tests.benchmarks.groups [--repeats 3] [--example] [--commands] [--json groups.json]

60,000 images of MNIST (where they are, else the 5,000 of examples/mnist twelve times), three layers, 56 channels. In
turn, each in this process with one worker: one ranking (logit 0, all images); ten digits x ten logits in one pass; the
same with kept codes; and that question from the codes. `--commands`: also whole commands, from start to exit. Then ten
of the hundred rankings are held against runs of their own on the kept codes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from pcace_dist.artifacts.run import open_run
from pcace_dist.config.job import parse_job
from pcace_dist.executors.base import WorkerShape
from pcace_dist.executors.threads import ThreadExecutor
from pcace_dist.run import rank as rank_module
from pcace_dist.run.model_run import ModelRun
from tests.benchmarks.harness import compile_package
from tests.benchmarks.memory import copies
from tests.statistics import mnist

LOGITS = [{"logit": logit} for logit in range(10)]


def job(data: str, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"path": data, "label": "label"},
        "model": {
            "factory": "examples.mnist.model:mnist_cnn",
            "weights": str(mnist.ROOT / "examples/mnist/weights.safetensors"),
            "input": {"mode": "L", "mean": [0.1307], "std": [0.3081]},
        },
        "layers": "all",
        "target": LOGITS,
        "group_by": "label",
        "workers": {"max": 1},
        "output": str(output),
    } | changes


@contextlib.contextmanager
def without_ray() -> Iterator[None]:
    """Workers are threads of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ModelRun,
            "_executor",
            lambda self: ThreadExecutor(self._preparation.spec, WorkerShape.of(self._job.workers)),
        )
        patch.setattr(rank_module, "ray_session", contextlib.nullcontext)
        yield


def seconds(asked: dict[str, Any]) -> float:
    """Of the whole job, in this process; the output is new each time."""
    shutil.rmtree(asked["output"], ignore_errors=True)
    start = time.monotonic()
    assert rank_module.run_job(parse_job(asked)) == 0
    return time.monotonic() - start


def command_seconds(asked: dict[str, Any], file: Path) -> float:
    """Of the whole command, with its own Ray where it needs one."""
    shutil.rmtree(asked["output"], ignore_errors=True)
    file.write_text(json.dumps(asked))
    start = time.monotonic()
    command = [sys.executable, "-m", "pcace_dist", "rank", str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=mnist.ROOT)
    return time.monotonic() - start


def sixty_thousand(folder: Path) -> str:
    """Where the images are."""
    return str(mnist.TRAIN if mnist.TRAIN.exists() else copies(folder, 60_000))


def equal_rankings(base: Path, scratch: Path) -> int:
    """How many rankings, one of each digit, are number by number those of runs of their own; but for the intervals,
    which hold what another pilot would give to the group, or to all."""
    columns = open_run(str(base)).ranking().column_names
    columns = [name for name in columns if not name.endswith(("group", "_low", "_high"))]
    equal = 0
    for digit in range(10):
        own = job(str(base), scratch / "own", target=[LOGITS[digit]], group_by=None)
        own["dataset"] |= {"filter": {"label": digit}}
        seconds(own)
        mine = open_run(str(scratch / "own")).ranking().select(columns)
        theirs = open_run(str(base)).ranking(group=digit, target=f"logit:{digit}").select(columns)
        equal += mine.equals(theirs)
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.groups", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("--example", action="store_true", help="the 5,000 images of examples/mnist")
    parser.add_argument("--json", type=Path, default=Path("groups.json"))
    arguments = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    compile_package()
    with tempfile.TemporaryDirectory() as folder, without_ray():
        scratch = Path(folder)
        data = str(mnist.EXAMPLE) if arguments.example else sixty_thousand(scratch / "data")
        kept = job(data, scratch / "kept", statistics={"keep_codes": True})
        cases = {
            "one": job(data, scratch / "one", target=[{"logit": 0}], group_by=None),
            "hundred": job(data, scratch / "hundred"),
            "hundred, codes kept": kept,
            "hundred, from codes": job(str(scratch / "kept"), scratch / "codes"),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        stages: dict[str, Any] = {}
        for _ in range(arguments.repeats):
            for name, asked in cases.items():
                times[name].append(round(seconds(asked), 2))
                stages[name] = open_run(asked["output"]).summary["stages"]
        found: dict[str, Any] = {
            "images": open_run(kept["output"]).summary["images"],
            "load": os.getloadavg()[0],
            "seconds": times,
            "stages": stages,
            "hundred / one": round(median(h / o for h, o in zip(times["hundred"], times["one"], strict=True)), 2),
            "model / codes": round(
                median(m / c for m, c in zip(times["hundred"], times["hundred, from codes"], strict=True)), 1
            ),
        }
        one_from_codes = job(str(scratch / "kept"), scratch / "one-codes", target=[{"logit": 0}], group_by=None)
        again = [round(seconds(one_from_codes), 2) for _ in range(arguments.repeats)]
        found["seconds"]["one, from codes"] = again
        found["one: model / codes"] = round(median(times["one"]) / median(again), 1)
        names = ("rankings.parquet", "jackknife.parquet")
        same = all((scratch / "kept" / n).read_bytes() == (scratch / "codes" / n).read_bytes() for n in names)
        found["same bytes from codes"] = same
        if arguments.commands:
            file = scratch / "job.json"
            found["command seconds"] = commands = {
                name: round(command_seconds(asked, file), 2)
                for name, asked in (
                    ("one", cases["one"]),
                    ("hundred", cases["hundred"]),
                    ("one, from codes", one_from_codes),
                )
            }
            found["command: model / codes"] = round(commands["one"] / commands["one, from codes"], 1)
        found["rankings equal to runs of their own"] = equal_rankings(scratch / "kept", scratch)
        print(json.dumps(found, indent=2))
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
