"""How fast images in folders are packed, against merely reading their files.

    python -m examples.imagenet.pack_rate [FOLDER] [--count 1500]

FOLDER: images in folders; without it crops of two photographs are written first. Packs them into a temporary folder in
one process and on a local Ray with two workers, with and without decoding every image; each time after the files were
read once, so that all come from memory. What Ray takes to start is not counted, but named.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from examples.imagenet.photographs import write_crops
from pcace_dist.datasets.pack import begin, limits_of, run_here
from pcace_dist.service.cluster import ray_session
from pcace_dist.service.pack_run import run_on_ray

WORKERS = 2


def read_all(files: Sequence[Path]) -> int:
    """Read every file; bytes."""
    return sum(len(file.read_bytes()) for file in files)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pack_once(folder: Path, verify: str | bool, workers: int, shards: int, size: int) -> float:
    """Seconds of one pack into a folder of its own, listing the source included."""
    limits = limits_of(max(1, size // shards), None, None)
    with tempfile.TemporaryDirectory(dir=folder.parent) as dest:

        def work() -> None:
            packing = begin(str(folder), f"{dest}/shards", limits=limits, verify=verify)
            if workers == 1:
                run_here(packing)
            else:
                run_on_ray(packing, workers=workers)

        return seconds(work)


def measure(folder: Path) -> None:
    """Print a line for each way."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    size = read_all(files)
    print(f"{len(files):,} images, {size / 1e6:,.0f} MB, {size / len(files) / 1e3:.0f} KB each; files in memory")

    def line(name: str, taken: float) -> None:
        print(
            f"  {name:44} {taken:6.1f} s {len(files) / taken:8,.0f} images/s {size / taken / 1e6:7,.0f} MB/s",
            flush=True,
        )

    line("reading the files, nothing else", seconds(lambda: read_all(files)))
    for verify, words in ((False, "packing"), ("headers", "packing, --verify"), ("decode", "packing, --verify decode")):
        line(f"{words}, one process", pack_once(folder, verify, 1, 8, size))
    before = time.perf_counter()
    with ray_session():
        pack_once(folder, False, WORKERS, 8, size)  # workers start with their first task
        print(f"  Ray's start and a first pack: {time.perf_counter() - before:.1f} s")
        for verify, words in ((False, "packing"), ("decode", "packing, --verify decode")):
            line(f"{words}, {WORKERS} workers of Ray", pack_once(folder, verify, WORKERS, 8, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=1500, help="crops of each of two photographs")
    args = parser.parse_args()
    if args.folder is not None:
        measure(args.folder)
        return
    with tempfile.TemporaryDirectory() as work:
        write_crops(Path(work) / "images", args.count)
        measure(Path(work) / "images")


if __name__ == "__main__":
    main()
