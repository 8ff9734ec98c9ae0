"""`pcace pack` over Ray with a real driver that is killed: nothing lost, nothing twice, the same bytes.

5,000 images with 20 damaged ones under the marker apps; a small one of the same by default.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pcace_dist.packing.pack import pack
from tests.examples.images import write_folders
from tests.faults.harness import Driver
from tests.faults.namespace import run_scenario
from tests.packing.test_pack import contents

PACK = (sys.executable, "-m", "pcace_dist", "pack")
OPTIONS = ("--verify", "decode")


def records(dest: Path) -> int:
    return len(list((dest / "_pack").glob("*.json"))) if dest.exists() else 0


def has_records(dest: Path, count: int) -> bool:
    return records(dest) >= count


def keys(dest: Path) -> list[str]:
    """Paths of all packed images, in order."""
    return [
        path
        for name in contents(dest)
        for path in pq.read_table(dest / name)["image"].combine_chunks().field("path").to_pylist()
    ]


def killed_and_resumed(tmp_path: Path, images: int, bad: int, shard_rows: int, *, kills: int) -> None:
    source, dest, alone = tmp_path / "train", tmp_path / "shards", tmp_path / "alone"
    names = write_folders(source, images, bad)
    rows = ("--shard-rows", str(shard_rows))
    pack(str(source), str(alone), shard_bytes=256 << 20, shard_rows=shard_rows, verify="decode")  # in this process

    stamps: dict[Path, int] = {}
    arguments = (str(dest), *OPTIONS, *rows, "--workers", "2")
    shards = len(contents(alone))
    for kill in range(1, kills + 1):
        with Driver(source, *arguments, command=PACK) as driver:
            reached = driver.wait_until(partial(has_records, dest, kill * shards // (kills + 2)))
            assert reached, driver.errors
            driver.kill()
        assert 0 < records(dest) < shards, "the kill came too late to tell anything"
        stamps |= {file: file.stat().st_mtime_ns for file in dest.glob("*.parquet") if file not in stamps}
        recorded = {path.stem for path in (dest / "_pack").glob("*.json")}
        stamps = {file: stamp for file, stamp in stamps.items() if file.stem in recorded}
    with Driver(source, *arguments, command=PACK) as driver:
        assert driver.finish() == 0, driver.errors

    assert "parts are there already" in driver.errors and f"{bad} left out in all" in driver.errors
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items()), "a finished shard was written again"
    assert contents(dest) == contents(alone)
    keys_there = keys(dest)
    assert len(keys_there) == len(set(keys_there)) == images
    listed = json.loads((dest / "_bad_files.json").read_text())
    assert sorted(entry["file"] for entry in listed) == names
    assert (alone / "_bad_files.json").read_bytes() == (dest / "_bad_files.json").read_bytes()
    assert not [name for name in os.listdir(dest) if name.startswith(".pack-")]


@pytest.mark.apps
def test_a_small_pack_on_ray_killed_once_and_resumed(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, images=600, bad=8, shard_rows=12, kills=1)


@pytest.mark.apps
def test_5000_images_with_20_damaged_ones_killed_three_times_and_resumed(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, images=5000, bad=20, shard_rows=50, kills=3)


@pytest.mark.apps
def test_a_submitted_pack_writes_the_same_shards_into_a_store_from_a_folder_and_from_a_store(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", 120, 4)
    pack(str(tmp_path / "train"), str(tmp_path / "alone"), shard_rows=12, verify="decode")
    text = run_scenario("submitted", tmp_path, 400, module="tests.examples.submitting")
    assert text.count("120 images in 11 shards") == 2
