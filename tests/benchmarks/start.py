"""What `pcace rank` on a hundred images takes, without Ray (as it is) and with it: imports, Ray's own start, the rest.
Prints, asserts nothing.

    python -m tests.benchmarks.start [--repeats 3] [--json start.json]

Imports and Ray's start are measured by processes that do nothing else; "the rest" is the whole command less these.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import compile_package

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT / "examples" / "mnist"
IMAGES = 100
NOTHING = "pass"
HELP = "from pcace_dist.cli.main import build_parser; build_parser().format_help()"
IMPORTS = """
from pcace_dist.imports import quick_imports
with quick_imports():
    import pcace_dist.run.rank, pcace_dist.run.prepare, pcace_dist.run.model_run
"""
IMPORTS_WITH_RAY = f"{IMPORTS}    import pcace_dist.executors.ray_executor"
RAY = """
import sys, time, ray
from pcace_dist.executors.ray_session import ray_session
start = time.perf_counter()
with ray_session():
    ray.get(ray.remote(lambda: 1).remote())
    print(time.perf_counter() - start)
"""


def run(*arguments: str, **env: str) -> tuple[float, str]:
    """Wall seconds of a Python process, and what it printed."""
    held = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | env
    start = time.perf_counter()
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=held)
    return time.perf_counter() - start, done.stdout


def job(folder: Path, number: int) -> Path:
    table = pq.read_table(MNIST / "data" / "part-00000.parquet").slice(0, IMAGES)
    pq.write_table(pa.table(table), folder / "images.parquet")
    path = folder / f"job-{number}.json"
    content = {
        "dataset": {"path": str(folder / "images.parquet"), "label": "label"},
        "model": {
            "factory": "examples.mnist.model:mnist_cnn",
            "weights": str(MNIST / "weights.safetensors"),
            "input": {"mode": "L", "mean": [0.1307], "std": [0.3081]},
        },
        "layers": "all",
        "target": [{"logit": "label"}],
        "workers": {"max": 1},
        "output": str(folder / f"run-{number}"),
    }
    path.write_text(json.dumps(content))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.start", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    repeats, rows = asked.repeats, []
    compile_package()
    with tempfile.TemporaryDirectory() as name:
        for repeat in range(repeats):
            python, _ = run("-c", NOTHING)
            shown, _ = run("-c", HELP)
            imports, _ = run("-c", IMPORTS)
            ray = float(run("-c", RAY)[1])
            more, _ = run("-c", IMPORTS_WITH_RAY)
            here, _ = run("-m", "pcace_dist", "rank", str(job(Path(name), 2 * repeat)))
            whole, _ = run("-m", "pcace_dist", "rank", str(job(Path(name), 2 * repeat + 1)), RAY_ADDRESS="local")
            summary = json.loads((Path(name) / f"run-{2 * repeat + 1}" / "summary.json").read_text())
            worker = summary["stages"]["start"]
            rows.append((python, shown, imports, here, here - imports, more, ray, whole, whole - more - ray, worker))
    table = Table(title=f"pcace rank on {IMAGES} images, seconds (median of {repeats})", title_justify="left", box=None)
    names = (
        *("Python", "pcace --help", "imports without Ray", "pcace rank, without Ray", "without Ray, beyond imports"),
        *("imports with Ray", "Ray's start", "pcace rank, with Ray", "with Ray, beyond imports and its start"),
        "with Ray, start of its worker",
    )
    found = {label: median(values) for label, values in zip(names, zip(*rows, strict=True), strict=True)}
    for label, seconds in found.items():
        table.add_row(label, f"{seconds:.2f}")
    Console().print(table)
    if asked.json is not None:
        asked.json.write_text(
            json.dumps([{"what": label, "seconds": found[label]} for label in found], indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
