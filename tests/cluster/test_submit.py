"""The README's `ray job submit` line, with a job file and nothing else beside it, on a real Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcace_dist.artifacts.run import open_run
from tests.faults.namespace import run_scenario
from tests.planted import write_planted

pytestmark = pytest.mark.cluster

LIES = "lies in the copy of the working directory that `ray job submit` makes and Ray removes; write a path from /"


def job(data: str, output: str) -> dict[str, Any]:
    return {
        "dataset": {"path": data, "label": "label"},
        "model": {
            "factory": "torchvision:resnet18",
            "kwargs": {"num_classes": 2},
            "weights": "random",
            "input": {"resize": [32, 32]},
        },
        "layers": ["layer1.0.conv1"],
        "target": {"margin": "label"},
        "statistics": {"components": 1, "pilot": 256},
        "compute": {"batch": 32},
        "workers": {"max": 2},
        "output": output,
    }


def test_a_job_file_alone_is_enough_where_its_paths_last(tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 600)
    (tmp_path / "alone").mkdir()
    data, output = str(tmp_path / "data"), str(tmp_path / "run")
    jobs = {"a-0": job(data, output), "b-2": job(data, "runs/mine"), "c-2": job("shards", output + "-2")}
    for name, content in jobs.items():
        (tmp_path / "alone" / f"{name}.yaml").write_text(json.dumps(content))
    text = run_scenario("submitted", tmp_path, 900, module="tests.cluster.submitting")
    assert f"output runs/mine: {LIES} that all nodes share, or s3://BUCKET/mine" in text
    assert f"dataset.path shards: {LIES}" in text
    assert not (tmp_path / "run-2").exists()
    run = open_run(output)
    assert run.summary["outcome"] == "done" and run.summary["images"] == 600
    assert run.ranking(top=1)["target"].to_pylist() == ["margin:label"]
