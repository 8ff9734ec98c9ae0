"""Storage that fails: S3 behind a misbehaving proxy, corrupted and truncated files, a full disk."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from tests.faults.harness import (
    ROW_GROUP,
    ROWS,
    Driver,
    each_unit_was_accepted_once,
    environment,
    kinds,
    ledger,
    rankings,
    run_to_end,
    slow_job,
    summary,
    write_job,
)
from tests.faults.proxy import FAULTS, Mischief, misbehaving
from tests.planted import planted_network
from tests.servers import moto_server, s3_client, s3_environment

pytestmark = pytest.mark.faults


# -- S3


@pytest.fixture(scope="module")
def s3(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """A server with data set and weights on it: its endpoint and a client."""
    weights = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file(planted_network().state_dict(), weights)
    with moto_server() as endpoint:
        client = s3_client(endpoint)
        for bucket in ("images", "runs"):
            client.create_bucket(Bucket=bucket)
        for path in sorted(data.iterdir()):
            client.upload_file(str(path), "images", f"planted/{path.name}")
        client.upload_file(str(weights), "images", "network.safetensors")
        yield endpoint, client


@pytest.mark.parametrize(
    ("name", "mischief"),
    [
        ("failing", Mischief(failing=0.2, seed=1)),
        ("slow", Mischief(delay=0.25)),
        ("cut", Mischief(cut=0.2, seed=2)),
    ],
)
def test_a_misbehaving_s3_changes_nothing(
    s3: tuple[str, Any], undisturbed: pa.Table, tmp_path: Path, name: str, mischief: Mischief
) -> None:
    endpoint, client = s3
    job = slow_job(Path("unused"), f"s3://runs/{name}", seconds=0.0)
    job["dataset"]["path"] = "s3://images/planted"
    job["model"]["weights"] = "s3://images/network.safetensors"
    with misbehaving(endpoint, mischief) as (address, proxy):
        env = environment(**{key: value for key, value in s3_environment(address).items() if key.startswith("AWS_")})
        run_to_end(write_job(tmp_path / "job.json", job), env=env, seconds=400)
    body = client.get_object(Bucket="runs", Key=f"{name}/rankings.parquet")["Body"].read()
    assert pq.read_table(io.BytesIO(body)).equals(undisturbed)
    if mischief.failing:
        assert all(proxy.done[fault] > 0 for fault in FAULTS), proxy.done
    if mischief.cut:
        assert proxy.done["cut"] > 5, proxy.done


# -- data set


def corrupt_row_group(path: Path, row_group: int) -> None:
    """Flip bytes in the middle of every column chunk of a row group; size and time stay as they were."""
    group, before = pq.read_metadata(path).row_group(row_group), path.stat()
    with path.open("r+b") as file:
        for column in range(group.num_columns):
            chunk = group.column(column)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            at = start + chunk.total_compressed_size // 2
            file.seek(at)
            held = file.read(8)
            file.seek(at)
            file.write(bytes(byte ^ 0xFF for byte in held))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_whole(tables: list[pa.Table], path: Path) -> None:
    """One row group per table, with page checksums."""
    with pq.ParquetWriter(path, tables[0].schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table)


def test_a_corrupted_row_group_is_left_out_and_nothing_else(data: Path, tmp_path: Path) -> None:
    whole = pa.concat_tables(pq.read_table(path) for path in sorted(data.iterdir()))
    groups = [whole.slice(start, ROW_GROUP) for start in range(0, ROWS, ROW_GROUP)]
    lost = 7
    for name in ("corrupted", "without"):
        (tmp_path / name).mkdir()
    write_whole(groups, tmp_path / "corrupted" / "part.parquet")
    write_whole(groups[:lost] + groups[lost + 1 :], tmp_path / "without" / "part.parquet")
    corrupt_row_group(tmp_path / "corrupted" / "part.parquet", lost)
    for name in ("corrupted", "without"):
        # a pilot of all rows has the same rows in both, so that the plans are the same
        job = slow_job(tmp_path / name, tmp_path / f"run-{name}", seconds=0.0, max_bad_rows=0.1)
        job["statistics"] = job["statistics"] | {"pilot": 2 * ROWS}
        run_to_end(write_job(tmp_path / f"{name}.json", job))
    bad = pq.read_table(tmp_path / "run-corrupted" / "bad_rows.parquet").to_pylist()
    assert [(row["file"], row["row_group"], row["stage"]) for row in bad] == [("part.parquet", lost, "read")]
    assert summary(tmp_path / "run-corrupted")["bad_rows"] == ROW_GROUP
    assert summary(tmp_path / "run-corrupted")["images"] == ROWS - ROW_GROUP
    assert rankings(tmp_path / "run-corrupted").equals(rankings(tmp_path / "run-without"))


def test_a_file_truncated_in_mid_run_is_a_clear_end(data: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    output, victim = tmp_path / "run", sorted((tmp_path / "data").iterdir())[-1]
    job = write_job(tmp_path / "job.json", slow_job(tmp_path / "data", output, seconds=0.4))
    kept = victim.with_suffix(".kept")
    with Driver(job) as driver:
        assert driver.wait_until(lambda: output.exists() and "manifest" in kinds(output))
        shutil.copy2(victim, tmp_path / kept.name)
        os.truncate(victim, victim.stat().st_size // 2)
        assert driver.finish() == 2, driver.errors
        assert f"dataset.path: {victim.name} has changed since the run began" in driver.errors
        assert "Traceback" not in driver.errors
    with Driver(job) as driver:
        assert driver.finish() == 2, driver.errors
        assert victim.name in driver.errors.splitlines()[-1]
    shutil.copy2(tmp_path / kept.name, victim)
    run_to_end(job)
    assert each_unit_was_accepted_once(output)
    assert rankings(output).equals(undisturbed)


# -- output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system needs root: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        for _ in range(20):
            if subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0:
                break
            time.sleep(0.5)


def fill(folder: Path) -> Path:
    """A file that takes all that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


@pytest.mark.parametrize("when", ["plan", "main pass"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    data: Path, undisturbed: pa.Table, tmp_path: Path, small_disk: Path, when: str
) -> None:
    output = small_disk / "run"
    job = write_job(tmp_path / "job.json", slow_job(data, output))
    wanted = {"plan": "open", "main pass": "accept"}[when]
    with Driver(job, env=environment(PCACE_STORAGE_PATIENCE="5")) as driver:
        assert driver.wait_until(lambda: output.exists() and wanted in kinds(output))
        filler = fill(small_disk)
        assert driver.finish(120) == 5, driver.errors
        lines = [line for line in driver.errors.splitlines() if not line.startswith("pcace: ")]
        assert "Traceback" not in driver.errors
        assert "no space left on device, free some space" in lines[-1]
        assert lines[-1].endswith("; the same command goes on")
    assert "set_aside" not in kinds(output)
    before = accepted(output)
    filler.unlink()
    run_to_end(job)
    assert accepted(output)[: len(before)] == before
    assert each_unit_was_accepted_once(output)
    assert rankings(output).equals(undisturbed)


def accepted(output: Path) -> list[str]:
    return [unit for r in ledger(output) if r["kind"] == "accept" for x in r["body"]["receipts"] for unit in x["units"]]
