"""Clusters that lose nodes, keep zombies, take submitted jobs, grow and shrink; each in a namespace of its own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.faults.harness import ROWS, each_unit_was_accepted_once, rankings, slow_job, summary, write_job
from tests.faults.namespace import run_scenario

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("scenario", ["node_loss", "zombie"])
def test_a_node_that_goes_takes_nothing_along_that_counts(
    data: Path, undisturbed: pa.Table, tmp_path: Path, scenario: str
) -> None:
    write_job(tmp_path / "job.json", slow_job(data, tmp_path / "run", seconds=0.3))
    text = run_scenario(scenario, tmp_path, 400)
    if scenario == "zombie":
        assert "the worker lives on: True" in text
    assert "went with its node; no unit is blamed" in text
    assert each_unit_was_accepted_once(tmp_path / "run")
    assert summary(tmp_path / "run")["images"] == ROWS
    assert rankings(tmp_path / "run").equals(undisturbed)


def test_a_submitted_job_reports_its_outcome(data: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    write_job(tmp_path / "job.json", slow_job(data, tmp_path / "run", seconds=0.0))
    write_job(tmp_path / "wrong.json", slow_job(tmp_path / "nowhere", tmp_path / "run-wrong"))
    for name in ("killed", "stopped"):
        write_job(tmp_path / f"{name}.json", slow_job(data, tmp_path / f"run-{name}", seconds=0.6))
    write_job(tmp_path / "scheduled.json", slow_job(data, tmp_path / "run-scheduled", seconds=0.0))
    text = run_scenario("submit", tmp_path, 900)
    assert "nowhere" in text
    assert not (tmp_path / "run-wrong").exists()
    for name in ("run", "run-killed", "run-stopped"):
        assert each_unit_was_accepted_once(tmp_path / name)
        assert rankings(tmp_path / name).equals(undisturbed)


def test_a_drained_node_takes_no_work_along(data: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    write_job(tmp_path / "job.json", slow_job(data, tmp_path / "run", seconds=0.6))
    run_scenario("drained", tmp_path, 400)
    assert summary(tmp_path / "run")["units_redone"] == 0
    assert each_unit_was_accepted_once(tmp_path / "run")
    assert rankings(tmp_path / "run").equals(undisturbed)


def test_a_cluster_that_grows_and_shrinks_counts_every_image_once(
    data: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    workers = {"max": 2, "cpus": 4}  # one for each node that cluster/ray-up/aws.yaml declares
    write_job(tmp_path / "job.json", slow_job(data, tmp_path / "run", seconds=1.0, workers=workers))
    run_scenario("autoscaled", tmp_path, 560)
    assert each_unit_was_accepted_once(tmp_path / "run")
    assert summary(tmp_path / "run")["images"] == ROWS
    assert rankings(tmp_path / "run").equals(undisturbed)
