"""The jobs that are measured, and the two ways to run one here: its engine alone, or the whole of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.run import open_run
from pcace_dist.config.job import parse_job
from pcace_dist.datasets.units import Unit, make_units, rows_per_unit
from pcace_dist.run.prepare import prepare
from pcace_dist.run.rank import run_job
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import LocalStore
from pcace_dist.worker.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LAST = {"resnet18": "layer4.1.conv2", "resnet50": "layer4.2.conv2"}  # 512 channels of 7 x 7 each

Job = dict[str, Any]


def digits(output: Path, *, data: Path | None = None, **changes: Any) -> Job:
    """The example network on MNIST: 3 layers, 56 channels."""
    job = {
        "dataset": {"path": str(data or ROOT / "examples/mnist/data"), "label": "label"},
        "model": {
            "factory": "examples.mnist.model:mnist_cnn",
            "weights": str(ROOT / "examples/mnist/weights.safetensors"),
            "input": {"mode": "L", "mean": [0.1307], "std": [0.3081]},
        },
        "layers": "all",
        "target": {"logit": "label"},
        "statistics": {"pilot": 512},
        "workers": {"max": 1},
        "output": str(output),
    }
    return _merged(job, changes)


def network(output: Path, photos: Path, name: str = "resnet18", layers: Any = None, **changes: Any) -> Job:
    """A torchvision network with random weights on photographs, as ImageNet's are given to it; one layer of 512
    channels unless told otherwise."""
    job = {
        "dataset": {"path": str(photos)},
        "model": {
            "factory": f"torchvision:{name}",
            "weights": "random",
            "input": {"resize": 256, "crop": 224, "mean": MEAN, "std": STD},
        },
        "layers": layers or [LAST[name]],
        "target": {"logit": "predicted"},
        "effect": {"gradient": "off"},  # auto would take every image's gradient; effects are measured on their own
        "workers": {"max": 1},
        "output": str(output),
    }
    return _merged(job, changes)


def _merged(job: Job, changes: Job) -> Job:
    """Sections key by key, the rest as given."""
    return job | {
        key: job[key] | value if isinstance(value, dict) and isinstance(job.get(key), dict) else value
        for key, value in changes.items()
    }


@dataclass(frozen=True)
class Ready:
    """The body of a worker that has taken its plan, and the units of its data."""

    engine: Engine
    plan: Plan
    units: tuple[Unit, ...]

    @property
    def facts(self) -> PlanMetadata:
        return PlanMetadata.of(self.plan)

    def main_pass(self) -> None:
        """All units, reading ahead as a worker does."""
        for unit, upcoming in zip(self.units, (*self.units[1:], None), strict=True):
            self.engine.process(unit, upcoming)


def ready(job: Job) -> Ready:
    """Prepare a job, make its plan and begin, without Ray."""
    prepared = prepare(parse_job(job))
    engine = Engine(prepared.spec, "bench", LocalStore(prepared.spec.output))
    with mock.patch("pcace_dist.worker.pilot._refuse_too_few"):  # a rate needs fewer images than a ranking
        plan, check = engine.pilot(prepared.listing)
    engine.pilot_cache.clear()  # what it has forwarded is to be forwarded again
    engine.begin(plan, check, 1)
    return Ready(engine, plan, tuple(make_units(prepared.listing, rows_per_unit(prepared.listing))))


def whole(job: Job) -> float:
    """Seconds of the whole job on a new output; on the Ray that this process has, or without one within
    `jobs_without_ray`."""
    shutil.rmtree(job["output"], ignore_errors=True)
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # its progress
        code = run_job(parse_job(job))
    if code != 0:
        raise RuntimeError(f"{job['output']}: the job ended with exit code {code}")
    return time.perf_counter() - start


def summary(job: Job) -> dict[str, Any]:
    """What the finished run says of itself."""
    return open_run(job["output"]).summary
