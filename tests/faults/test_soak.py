"""One long run over many small images in which a worker or the driver is killed every 20 s or so."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.harness import (
    ROOT,
    Driver,
    Json,
    accepted_units,
    each_unit_was_accepted_once,
    environment,
    kinds,
    ledger,
    rankings,
    run_to_end,
    summary,
    write_job,
)

pytestmark = pytest.mark.soak

IMAGES = int(os.environ.get("PCACE_SOAK_IMAGES", "200000"))
SHARD = 20_000
ROW_GROUP = 1000
KILL_EVERY = (12.0, 28.0)  # seconds
DRIVER_SHARE = 0.3  # of the kills that hit the driver
LONGEST = 1500.0  # seconds for the disturbed run
GROWTH = 200 << 20  # bytes by which a worker's memory may grow once it has warmed up
MNIST = ROOT / "examples" / "mnist"


def write_repeated(folder: Path, images: int) -> None:
    """The embedded digits over and over, each row with an id of its own."""
    digits = pa.concat_tables(pq.read_table(path) for path in sorted((MNIST / "data").glob("*.parquet")))
    digits = digits.select(["image", "label"])
    folder.mkdir()
    for shard, start in enumerate(range(0, images, SHARD)):
        rows = np.arange(start, min(start + SHARD, images))
        table = digits.take(pa.array(rows % len(digits))).append_column("id", pa.array([f"digit-{i}" for i in rows]))
        pq.write_table(table, folder / f"part-{shard:05d}.parquet", row_group_size=ROW_GROUP)


def soak_job(data: Path, output: Path) -> Json:
    return {
        "dataset": {"path": str(data), "label": "label", "id": "id"},
        "model": {
            "factory": "examples.mnist.model:mnist_cnn",
            "weights": str(MNIST / "weights.safetensors"),
            "input": {"mode": "L", "mean": [0.1307], "std": [0.3081]},
        },
        "layers": "all",
        "target": {"logit": "label"},
        "statistics": {"pilot": 1024},
        "compute": {"batch": 64},
        "workers": {"max": 2},
        "output": str(output),
    }


class Memory:
    """Resident bytes of each worker while it has units in hand, as seen from outside, twice a second or so."""

    def __init__(self) -> None:
        self._seen: dict[int, list[int]] = {}

    def look(self, workers: list[psutil.Process]) -> None:
        for worker in workers:
            try:
                self._seen.setdefault(worker.pid, []).append(worker.memory_info().rss)
            except psutil.NoSuchProcess:
                continue

    def growth(self) -> int:
        """The most by which a worker's peak rose from the first half of its working life to the second.

        The first ten looks are its warming up; lives of fewer than forty say nothing.
        """
        lives = [seen[10:] for seen in self._seen.values() if len(seen) >= 40]
        return max((max(seen[len(seen) // 2 :]) - max(seen[: len(seen) // 2]) for seen in lives), default=0)

    def lives(self) -> list[list[int]]:
        """Every fourth look at each worker in MiB, for people."""
        return [[size >> 20 for size in seen[::4]] for seen in self._seen.values()]


def accepted(output: Path) -> list[str]:
    return accepted_units(ledger(output)) if output.exists() else []


@pytest.mark.timeout(3600)
def test_many_images_through_many_kills_give_the_same_rankings(tmp_path: Path) -> None:
    write_repeated(tmp_path / "data", IMAGES)
    run_to_end(write_job(tmp_path / "calm.json", soak_job(tmp_path / "data", tmp_path / "calm")), seconds=LONGEST)

    output = tmp_path / "run"
    job = write_job(tmp_path / "job.json", soak_job(tmp_path / "data", output))
    env = environment(PCACE_FLUSH_SECONDS="5")
    dice, memory, kills = random.Random(7), Memory(), {"driver": 0, "worker": 0}
    began, done, before = time.monotonic(), False, list[str]()
    while not done:
        assert time.monotonic() - began < LONGEST, (kills, len(accepted(output)))
        with Driver(job, env=env) as driver:
            done = disturb(driver, dice, memory, kills)
        after = accepted(output)
        assert after[: len(before)] == before
        before = after
    held = summary(output)
    facts: dict[str, Any] = {"kills": kills, "seconds": time.monotonic() - began, "growth": memory.growth()}
    print(facts, *memory.lives(), sep="\n")
    assert held["images"] == IMAGES and held["units_set_aside"] == 0
    assert each_unit_was_accepted_once(output)
    assert kinds(output).count("open") <= kills["driver"] + 1
    assert kills["worker"] > 0
    assert memory.growth() < GROWTH
    assert rankings(output).equals(rankings(tmp_path / "calm"))


def disturb(driver: Driver, dice: random.Random, memory: Memory, kills: dict[str, int]) -> bool:
    """Watch one driver and kill now and then; True once it has ended well, False once it was killed."""
    next_kill = time.monotonic() + dice.uniform(*KILL_EVERY)
    while not driver.ended:
        busy = driver.working()
        memory.look(busy)
        if time.monotonic() >= next_kill and busy:
            next_kill = time.monotonic() + dice.uniform(*KILL_EVERY)
            if dice.random() < DRIVER_SHARE:
                driver.kill()
                kills["driver"] += 1
                return False
            dice.choice(busy).kill()
            kills["worker"] += 1
        time.sleep(0.5)
    assert driver.finish() == 0, driver.errors
    return True
