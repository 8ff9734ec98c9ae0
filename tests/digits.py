"""A few hundred images of examples/mnist as a data set with further columns, and the job that ranks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.config.job import parse_job
from pcace_dist.run.rank import run_job

MNIST = Path(__file__).resolve().parents[1] / "examples" / "mnist"


def digits_table(start: int, rows: int) -> pa.Table:
    """Images with label, name (unique id), writer (some share one), place (text, some null), weight (some NaN and
    null), ink and half (numbers), odd (bool)."""
    parts = [pq.read_table(path) for path in sorted((MNIST / "data").glob("*.parquet"))]
    table = pa.concat_tables(parts).slice(start, rows)
    number = np.arange(start, start + rows)
    random = np.random.default_rng(start)
    label = table["label"].to_numpy()
    places = np.array(["north", "south", None], object)[number % 7 % 3]
    weight = pa.array([None if n % 50 == 7 else float("nan") if n % 50 == 9 else float(n % 2) for n in number])
    more = {
        "name": pa.array([f"digit-{n}" for n in number]),
        "writer": pa.array(number // 4),
        "place": pa.array(places, pa.string()),
        "weight": weight,
        "ink": pa.array(np.sin(label) + random.standard_normal(rows) / 5),
        "half": pa.array(label % 2 + random.standard_normal(rows) / 5),
        "odd": pa.array(label % 2 == 1),
    }
    for name, column in more.items():
        table = table.append_column(name, column)
    return table


def write_digits(folder: Path, rows: int, *, files: int = 3, start: int = 0, row_group: int = 100) -> None:
    """`rows` images in so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        first, last = file * rows // files, (file + 1) * rows // files
        table = digits_table(start + first, last - first)
        pq.write_table(table, folder / f"part-{start + first:05d}.parquet", row_group_size=row_group)


def digits_job(data: Path | str, output: Path, **changes: Any) -> dict[str, Any]:
    """Two layers, two components; `statistics` is added to, every other key of `changes` replaces the job's."""
    statistics = {"pilot": 256, "components": 2} | changes.pop("statistics", {})
    dataset = {"path": str(data), "label": "label"} | changes.pop("dataset", {})
    return {
        "dataset": dataset,
        "model": {
            "factory": "examples.mnist.model:mnist_cnn",
            "weights": str(MNIST / "weights.safetensors"),
            "input": {"mode": "L", "mean": [0.1307], "std": [0.3081]},
        },
        "layers": ["conv1", "conv2"],
        "target": {"logit": "label"},
        "statistics": statistics,
        "compute": {"batch": 48},
        "workers": {"max": 2},
        "output": str(output),
    } | changes


def ranked(job: dict[str, Any]) -> Run:
    """Run a job to its end."""
    assert run_job(parse_job(job)) in (0, 4)
    return open_run(job["output"])


def bytes_of(run: Run | Path, name: str = "rankings.parquet") -> bytes:
    folder = Path(run.path) if isinstance(run, Run) else run
    return (folder / name).read_bytes()


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    """Bodies of the ledger's records of one kind."""
    found = [json.loads(path.read_text()) for path in sorted((run / "ledger").glob("*.json"))]
    return [record["body"] for record in found if record["kind"] == kind]
