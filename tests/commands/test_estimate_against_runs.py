"""Estimates against real runs on this machine: the MNIST example, and ResNet-18 on photographs.

Run and estimate alternate, each a process of its own, so that both meet the same machine. A machine that is busy with
other work gives the two different shares of it, so the test waits for quiet and skips where there is none. What was
measured is printed (pytest -s).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
PAIRS = 3
QUIET = float(os.environ.get("PCACE_QUIET_PERCENT", "30"))  # of all cores that others may use,
PATIENCE = 600.0  # and seconds to wait for that
CLOSE = 0.25

MakeJob = Callable[[Path], dict[str, object]]


def photographs(folder: Path, count: int = 480) -> None:
    """Cut-outs of two photographs, 500x375, as JPEG."""
    import numpy as np
    from sklearn.datasets import load_sample_images

    whole = [Image.fromarray(image).resize((900, 600)) for image in load_sample_images().images]
    random = np.random.default_rng(0)
    images = []
    for i in range(count):
        x, y = int(random.integers(0, 400)), int(random.integers(0, 225))
        sink = io.BytesIO()
        whole[i % 2].crop((x, y, x + 500, y + 375)).save(sink, "JPEG", quality=90)
        images.append(sink.getvalue())
    folder.mkdir()
    for shard in range(4):
        table = pa.table({"image": pa.array(images[shard * count // 4 : (shard + 1) * count // 4], pa.binary())})
        pq.write_table(table, folder / f"part-{shard:05d}.parquet", row_group_size=32)


def mnist_job(folder: Path) -> dict[str, object]:
    held: dict[str, object] = yaml.safe_load((ROOT / "examples" / "mnist" / "job.yaml").read_text())
    return held


def photographs_job(folder: Path) -> dict[str, object]:
    photographs(folder / "photographs")
    return {
        "dataset": {"path": str(folder / "photographs")},
        "model": {
            "factory": "torchvision:resnet18",
            "weights": "random",
            "input": {
                "resize": 256,
                "crop": 224,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
        },
        "layers": ["layer4.*.conv2"],
        "target": {"logit": "predicted"},
        "statistics": {"pilot": 256},
        "workers": {"max": 2},
    }


def wait_for_quiet() -> float:
    """Per cent of all cores that others use now."""
    deadline = time.monotonic() + PATIENCE
    while (busy := psutil.cpu_percent(5.0)) > QUIET:
        if time.monotonic() > deadline:
            pytest.skip(f"this machine is busy with other work: {busy:.0f} % of its cores for {PATIENCE:.0f} s")
    return busy


def pcace(*arguments: str) -> tuple[str, float]:
    """What a command prints, and its seconds."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pcace_dist", *arguments], cwd=ROOT, env=env, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, seconds


@pytest.mark.parametrize("make", [mnist_job, photographs_job])
def test_the_predicted_time_is_close_to_that_of_the_run(make: MakeJob, tmp_path: Path) -> None:
    held = make(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(held | {"output": str(tmp_path / "run")}))
    ratios = []
    for _ in range(PAIRS):
        busy = wait_for_quiet()
        text, _ = pcace("estimate", str(path), "--json")
        predicted = json.loads(text)["here"]
        _, real = pcace("rank", str(path))
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        shutil.rmtree(tmp_path / "run")
        assert predicted["workers"] == summary["workers"]
        ratios.append(predicted["seconds"] / real)
        stages = {name: round(predicted[name], 1) for name in ("start", "pilot", "main_pass", "reduce", "publish")}
        print(
            f"{make.__name__}: predicted {predicted['seconds']:.1f} s, took {real:.1f} s ({ratios[-1]:.2f}), others "
            f"used {busy:.0f} % of {os.cpu_count()} cores; predicted {stages}, took {summary['stages']}"
        )
    assert abs(median(ratios) - 1) <= CLOSE, ratios
