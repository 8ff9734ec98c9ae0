"""A whole job on S3: data set, weights and output on a real server process; the same rankings as on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from pcace_dist.config.job import parse_job
from pcace_dist.run.rank import run_job
from tests.faults.proxy import Mischief, Noted, misbehaving
from tests.planted import planted_network, write_planted
from tests.run.test_main_job import ROOT, planted_job
from tests.servers import moto_server, s3_client, s3_environment


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


def pcace(endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pcace_dist", *arguments]
    return subprocess.run(command, cwd=ROOT, env=s3_environment(endpoint), capture_output=True, text=True, timeout=300)


def test_a_job_with_data_weights_and_output_on_s3(local_ray: None, endpoint: str, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 900)
    save_file(planted_network().state_dict(), tmp_path / "network.safetensors")
    client = s3_client(endpoint)
    for bucket in ("images", "models", "runs"):
        client.create_bucket(Bucket=bucket)
    for path in sorted((tmp_path / "data").iterdir()):
        client.upload_file(str(path), "images", f"planted/{path.name}")
    client.upload_file(str(tmp_path / "network.safetensors"), "models", "planted/network.safetensors")
    job = planted_job(Path("unused"), Path("unused"))
    job["dataset"]["path"] = "s3://images/planted"
    job["model"]["weights"] = "s3://models/planted/network.safetensors"
    job["output"] = "s3://runs/planted"
    job["workers"] = {"max": 1}  # of two, one may take at the end what the other has only read ahead, and read it again
    (tmp_path / "job.json").write_text(json.dumps(job))

    with misbehaving(endpoint, Mischief()) as (counted, proxy):
        done = pcace(counted, "rank", str(tmp_path / "job.json"))
    assert done.returncode == 0, done.stderr
    assert_read_once_for_each_stage(proxy.noted, tmp_path / "data")
    client.download_file("runs", "planted/rankings.parquet", str(tmp_path / "s3.parquet"))
    assert run_job(parse_job(planted_job(tmp_path / "data", tmp_path / "run"))) == 0
    assert pq.read_table(tmp_path / "s3.parquet").equals(pq.read_table(tmp_path / "run" / "rankings.parquet"))

    again = pcace(endpoint, "rank", str(tmp_path / "job.json"))
    assert again.returncode == 0, again.stderr
    shown = pcace(endpoint, "show", "s3://runs/planted", "--top", "2", "--target", "column:square")
    assert shown.returncode == 0 and "read" in shown.stdout, shown.stderr
    status = pcace(endpoint, "status", "s3://runs/planted")
    assert status.returncode == 0 and "done (exit code 0)" in status.stdout, status.stderr


def assert_read_once_for_each_stage(noted: list[Noted], data: Path) -> None:
    """The files' ends when they are listed; each row group for the pilot and in the main pass; the weights once for
    each process that has a model."""
    read = [request for request in noted if request.method == "GET" and request.path.startswith("/images/p")]
    ranges = Counter((request.path, request.range) for request in read if request.path.endswith(".parquet"))
    assert ranges and all(range for _, range in ranges), "no file is read whole"
    for file in data.iterdir():
        footer = pq.read_metadata(file)
        of_file = {range: times for (path, range), times in ranges.items() if path.endswith(file.name)}
        assert len(of_file) == 1 + footer.num_row_groups, "its end, and one range for each row group"
        assert all(times <= 2 for range, times in of_file.items() if not range.endswith(f"-{file.stat().st_size - 1}"))
    weights = [request for request in noted if request.method == "GET" and "/models/" in request.path]
    assert len(weights) <= 3, "the driver, and its workers"


@pytest.mark.jobs
def test_a_schedule_with_everything_on_s3(endpoint: str, tmp_path: Path) -> None:
    client = s3_client(endpoint)
    client.create_bucket(Bucket="weekly")
    write_planted(tmp_path / "data", 600, shards=2)
    shards = sorted((tmp_path / "data").iterdir())
    client.upload_file(str(shards[0]), "weekly", "data/a.parquet")
    job = planted_job(Path("unused"), Path("unused"), target={"column": "exponential"})
    job["dataset"]["path"], job["output"] = "s3://weekly/data", "s3://weekly/runs"
    (tmp_path / "job.json").write_text(json.dumps(job))
    first = pcace(endpoint, "rerank", str(tmp_path / "job.json"))
    assert first.returncode == 0 and "first run" in first.stdout, first.stderr
    nothing = pcace(endpoint, "rerank", str(tmp_path / "job.json"))
    assert nothing.returncode == 0 and "nothing new" in nothing.stdout, nothing.stderr
    client.upload_file(str(shards[1]), "weekly", "data/b.parquet")
    grown = pcace(endpoint, "rerank", str(tmp_path / "job.json"))
    assert grown.returncode == 0 and "other data: 1 files added" in grown.stdout, grown.stderr
    history = pcace(endpoint, "history", "s3://weekly/runs")
    assert history.returncode == 0 and history.stdout.count("kept") == 2, history.stderr
    shown = pcace(endpoint, "show", "s3://weekly/runs", "--top", "2")
    assert shown.returncode == 0 and "600" in shown.stdout, "of the run that was published last"
