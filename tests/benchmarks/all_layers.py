"""All 53 conv layers of ResNet-50, 26,560 channels, once through the whole service with one worker on one core: that it
fits, and where the time goes.

The most memory that driver and workers have had is what the kernel says of each process (VmHWM), looked up until
it ends. Pages that processes share count for each of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from tests.benchmarks.harness import Answer, Settings, Value
from tests.benchmarks.jobs import network, summary, whole
from tests.benchmarks.photos import write_photos
from tests.benchmarks.ray_data import ray_for

TITLE = "all 53 conv layers of ResNet-50 through the service, one worker with one core (s, MiB)"
LOOK = 0.25  # seconds


def ask(settings: Settings) -> Answer:
    """One run; its stages, its peaks of memory and what it wrote."""
    count = settings.pick(64, 300)
    photos = write_photos(settings.scratch / "photos", count, source=settings.photos)
    job = network(settings.scratch / "run", photos, "resnet50", "all", statistics={"pilot": settings.pick(32, 64)})
    with ray_for(1), peaks() as seen:
        seconds = whole(job)
    found = summary(job)
    rankings = pq.read_metadata(settings.scratch / "run" / "rankings.parquet")
    written = sum(file.stat().st_size for file in (settings.scratch / "run" / "attempts").rglob("*") if file.is_file())
    lines: dict[str, dict[str, Value]] = {
        "images": {"value": int(found["images"])},
        "channels ranked": {"value": rankings.num_rows},
        "whole job, s": {"value": seconds},
    }
    lines |= {f"{stage}, s": {"value": float(value)} for stage, value in found["stages"].items()}
    lines |= {f"worker: {stage}, s": {"value": float(value)} for stage, value in found["worker_stages"].items()}
    lines |= {f"most memory of {name}": {"value": most / 2**20} for name, most in sorted(seen.items())}
    lines["written in attempts"] = {"value": written / 2**20}
    return Answer(lines, notes=[str(found["bottleneck"])], details={"summary": found, "peaks": seen})


@contextlib.contextmanager
def peaks() -> Iterator[dict[str, int]]:
    """The most bytes of this process and of the workers of its Ray, by title; complete when the block is left."""
    seen: dict[str, int] = {}
    left = threading.Event()

    def watch() -> None:
        while True:
            last = left.wait(LOOK)
            me = psutil.Process()
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error, OSError):
                    title = "driver" if process.pid == me.pid else " ".join(process.cmdline())
                    name = next((one for one in ("driver", "ray::Worker") if title.startswith(one)), None)
                    if name is not None:
                        seen[name] = max(seen.get(name, 0), _most(process.pid))
            if last:
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        left.set()
        watcher.join()


def _most(pid: int) -> int:
    """The most resident bytes that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
