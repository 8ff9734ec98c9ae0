"""A whole job whose data set and weights lie on a server that checks signatures: `rclone serve s3`, a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from pcace_dist.config.job import parse_job
from pcace_dist.run.rank import run_job
from tests.planted import planted_network, write_planted
from tests.run.test_main_job import ROOT, planted_job
from tests.servers import rclone_server, s3_environment

KEY, SECRET = "reader", "a-long-secret"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the buckets `images` and `models`."""
    folder = tmp_path_factory.mktemp("buckets")
    write_planted(folder / "images" / "planted", 900)
    (folder / "models").mkdir()
    (folder / "runs").mkdir()
    save_file(planted_network().state_dict(), folder / "models" / "network.safetensors")
    return folder


@pytest.fixture(scope="module")
def endpoint(served: Path) -> Iterator[str]:
    with rclone_server(served, KEY, SECRET) as url:
        yield url


def write_job(path: Path, output: str, *, data: str = "s3://images/planted") -> Path:
    job = planted_job(Path("unused"), Path("unused"))
    job["dataset"]["path"] = data
    job["model"]["weights"] = "s3://models/network.safetensors"
    job["output"] = output
    path.write_text(json.dumps(job))
    return path


def rank(job: Path, endpoint: str, *, key: str = KEY, secret: str = SECRET) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pcace_dist", "rank", str(job)]
    env = s3_environment(endpoint, key, secret)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.jobs
def test_a_job_with_data_and_weights_behind_checked_keys(
    local_ray: None, served: Path, endpoint: str, tmp_path: Path
) -> None:
    done = rank(write_job(tmp_path / "job.json", str(tmp_path / "remote")), endpoint)
    assert done.returncode == 0, done.stderr
    local = planted_job(served / "images" / "planted", tmp_path / "local")
    local["model"]["weights"] = str(served / "models" / "network.safetensors")
    assert run_job(parse_job(local)) == 0
    one, two = (pq.read_table(tmp_path / name / "rankings.parquet") for name in ("remote", "local"))
    assert one.equals(two)
    written = [path.read_bytes() for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    assert written and not any(SECRET.encode() in data for data in written)


@pytest.mark.parametrize(
    ("key", "secret"),
    [(KEY, "a-wrong-secret"), pytest.param("stranger", SECRET, marks=pytest.mark.faults)],
    ids=["wrong secret", "unknown key"],
)
def test_wrong_keys_end_with_2_in_one_line_that_says_what_was_refused(
    endpoint: str, tmp_path: Path, key: str, secret: str
) -> None:
    done = rank(write_job(tmp_path / "job.json", str(tmp_path / "run")), endpoint, key=key, secret=secret)
    assert done.returncode == 2, done.stderr
    what = "s3://images/planted: access denied (403); check the AWS credentials"
    assert done.stderr.splitlines() == [f"pcace rank: dataset.path: {what}"]
    assert secret not in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()


def test_wrong_keys_for_the_weights_alone_name_the_weights(served: Path, endpoint: str, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.json", str(tmp_path / "run"), data=str(served / "images" / "planted"))
    done = rank(job, endpoint, secret="a-wrong-secret")
    assert done.returncode == 2, done.stderr
    denied = "access denied (SignatureDoesNotMatch); check the AWS credentials"
    assert done.stderr.splitlines() == [
        f"pcace rank: model.weights s3://models/network.safetensors: cannot be read: {denied}"
    ]


@pytest.mark.faults
def test_a_store_that_ignores_conditions_is_refused_as_output(endpoint: str, tmp_path: Path) -> None:
    done = rank(write_job(tmp_path / "job.json", "s3://runs/planted"), endpoint)
    assert done.returncode == 2, done.stderr
    assert "this storage ignores conditional puts" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
