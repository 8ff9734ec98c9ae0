"""A real S3 server (SeaweedFS) that goes away while a run works.

The same bytes, or exit 5 and then the same bytes; never a row less, never a bad row.
"""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from tests.faults.harness import ROWS, Driver, Json, slow_job, write_job
from tests.faults.seaweed import Seaweed
from tests.planted import planted_network

pytestmark = pytest.mark.outages

SLOW = 0.05  # seconds more per batch: the main pass of two threads takes 2 s


@pytest.fixture(scope="module")
def server(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A server with data set and weights on it."""
    folder = tmp_path_factory.mktemp("weed")
    weights = folder / "network.safetensors"
    save_file(planted_network().state_dict(), weights)
    with Seaweed(folder / "server") as weed:
        client = weed.client()
        for bucket in ("images", "runs"):
            client.create_bucket(Bucket=bucket)
        for path in sorted(data.iterdir()):
            client.upload_file(str(path), "images", f"planted/{path.name}")
        client.upload_file(str(weights), "images", "network.safetensors")
        yield weed


def job_on(server: Seaweed, folder: Path, name: str) -> Path:
    job = slow_job(Path("unused"), f"s3://runs/{name}", seconds=SLOW)
    job["dataset"]["path"] = "s3://images/planted"
    job["model"]["weights"] = "s3://images/network.safetensors"
    job["storage"] = {"s3://": {"endpoint": server.endpoint}}
    return write_job(folder / "job.json", job)


def driver_on(server: Seaweed, job: Path, patience: float = 900) -> Driver:
    """A driver whose small run is done by threads; flushes every second."""
    more = {"PCACE_STORAGE_PATIENCE": f"{patience:g}", "PCACE_FLUSH_SECONDS": "1", "OMP_NUM_THREADS": "1"}
    held = {name: value for name, value in server.environment.items() if not name.startswith("RAY_")}
    return Driver(job, env=held | more)


def read(server: Seaweed, key: str) -> bytes:
    data: bytes = server.client().get_object(Bucket="runs", Key=key)["Body"].read()
    return data


def is_whole(server: Seaweed, name: str, undisturbed: pa.Table) -> None:
    """The run has every row, no bad one, and the rankings of an undisturbed run."""
    summary: Json = json.loads(read(server, f"{name}/summary.json"))
    assert (summary["images"], summary["bad_rows"], summary["exit_code"]) == (ROWS, 0, 0)
    assert pq.read_table(io.BytesIO(read(server, f"{name}/rankings.parquet"))).equals(undisturbed)


MOMENTS: dict[str, Callable[[Driver], bool]] = {
    "pilot": lambda driver: "pilot" in driver.errors,
    "main pass": lambda driver: "ranking: " in driver.errors,
    "reduce": lambda driver: "reducing" in driver.errors,
}


def killed(server: Seaweed, seconds: float) -> None:
    server.kill()
    time.sleep(seconds)
    server.start()


def frozen(server: Seaweed, seconds: float) -> None:
    server.freeze()
    time.sleep(seconds)
    server.thaw()


def refusing(server: Seaweed, seconds: float) -> None:
    """Its key has no rights for a while, as when a policy is changed by mistake."""
    server.kill()
    server.start(rights=("List:elsewhere",))
    time.sleep(seconds)
    server.kill()
    server.start()


def rotated(server: Seaweed, seconds: float) -> None:
    """The secret is another one for a while."""
    server.kill()
    server.start(secret="another")
    time.sleep(seconds)
    server.kill()
    server.start()


OUTAGES: dict[str, Callable[[Seaweed, float], None]] = {
    "killed": killed,
    "frozen": frozen,
    "refusing": refusing,
    "rotated": rotated,
}


def disturbed(server: Seaweed, folder: Path, name: str, moment: str, outage: str, seconds: float) -> int:
    """One run with one outage; the exit code."""
    with driver_on(server, job_on(server, folder, name)) as driver:
        reached = driver.wait_until(lambda: MOMENTS[moment](driver))
        if moment == "main pass":
            time.sleep(0.7)
        if reached:
            OUTAGES[outage](server, seconds)
        code = driver.finish(300)
        assert "Traceback" not in driver.errors, driver.errors
        return code


@pytest.mark.parametrize(
    ("moment", "outage", "seconds"),
    [
        ("main pass", "killed", 2.0),
        ("main pass", "killed", 11.0),
        ("main pass", "killed", 60.0),
        ("main pass", "frozen", 60.0),
        ("main pass", "refusing", 5.0),
        ("main pass", "rotated", 5.0),
        ("pilot", "killed", 5.0),
        ("reduce", "killed", 5.0),
        ("reduce", "frozen", 5.0),
        ("reduce", "refusing", 2.0),
    ],
)
def test_an_outage_changes_nothing(
    server: Seaweed, undisturbed: pa.Table, tmp_path: Path, moment: str, outage: str, seconds: float
) -> None:
    name = f"{moment}-{outage}-{seconds:g}".replace(" ", "-")
    assert disturbed(server, tmp_path, name, moment, outage, seconds) == 0
    is_whole(server, name, undisturbed)


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_an_outage_beyond_the_patience_ends_with_5_and_the_same_command_goes_on(
    server: Seaweed, undisturbed: pa.Table, tmp_path: Path, moment: str
) -> None:
    name = f"patience-{moment}".replace(" ", "-")
    job = job_on(server, tmp_path, name)
    with driver_on(server, job, patience=3) as driver:
        driver.wait_until(lambda: MOMENTS[moment](driver))
        time.sleep(0.7 if moment == "main pass" else 0)
        server.kill()
        code = driver.finish(120)
        said = driver.errors
    server.start()
    assert "Traceback" not in said, said
    assert code == 5, said
    with driver_on(server, job) as driver:
        assert driver.finish(300) == 0, driver.errors
    is_whole(server, name, undisturbed)


@pytest.mark.parametrize("seed", range(20))
def test_any_outage_at_any_moment_loses_nothing(
    server: Seaweed, undisturbed: pa.Table, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    job = job_on(server, tmp_path, f"random-{seed}")
    outage: Callable[[Seaweed, float], Any] = OUTAGES[draw.choice(["killed", "killed", "frozen", "rotated"])]
    with driver_on(server, job, patience=draw.choice([2.0, 900.0])) as driver:
        driver.wait_until(lambda: "worker" in driver.errors)
        time.sleep(draw.uniform(0, 4))
        if not driver.ended:
            outage(server, draw.uniform(0.5, 6))
        code = driver.finish(300)
        assert code in (0, 5), driver.errors
    if code == 5:
        with driver_on(server, job) as driver:
            assert driver.finish(300) == 0, driver.errors
    is_whole(server, f"random-{seed}", undisturbed)
