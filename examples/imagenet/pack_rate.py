"""How fast images in folders are packed, compared with only reading their files.

    python -m examples.imagenet.pack_rate [FOLDER] [--count 1500]

FOLDER: images in folders; without it, crops of two photographs are written first. They are packed into a temporary
folder, in one process and on a local Ray with two workers, with and without decoding every image. The times are medians
of three, with files in memory and libraries loaded. The time to start Ray is printed separately.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from examples.imagenet.photographs import write_crops
from pcace_dist.executors.ray_packing import run_on_ray
from pcace_dist.executors.ray_session import ray_session
from pcace_dist.packing.pack import begin, limits_of, run_here

WORKERS, SHARDS, REPEATS = 2, 8, 3
WAYS: tuple[tuple[str | bool, str], ...] = (
    (False, "packing"),
    ("headers", "packing, --verify"),
    ("decode", "packing, --verify decode"),
)


def read_all(files: Sequence[Path]) -> int:
    """Read every file; the number of bytes."""
    return sum(len(file.read_bytes()) for file in files)


def copy_all(files: Sequence[Path], dest: Path, shards: int) -> None:
    """Copy all files into so many larger ones, each flushed to the disk like a shard."""
    files_per_shard = -(-len(files) // shards)
    for start in range(0, len(files), files_per_shard):
        with (dest / f"{start}.bin").open("wb") as sink:
            sink.writelines(file.read_bytes() for file in files[start : start + files_per_shard])
            os.fsync(sink.fileno())


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(work: Callable[[], float]) -> float:
    return statistics.median(work() for _ in range(REPEATS))


def copy_once(folder: Path, files: Sequence[Path]) -> float:
    with tempfile.TemporaryDirectory(dir=folder.parent) as dest:
        return seconds(lambda: copy_all(files, Path(dest), SHARDS))


def pack_once(folder: Path, verify: str | bool, workers: int, size: int) -> float:
    """Seconds of one pack into a new folder, including the listing of the source."""
    limits = limits_of(max(1, size // SHARDS), None, None)
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

    def line(name: str, duration: float) -> None:
        print(
            f"  {name:44} {duration:6.1f} s {len(files) / duration:8,.0f} images/s {size / duration / 1e6:7,.0f} MB/s",
            flush=True,
        )

    pack_once(folder, "decode", 1, size)  # loads what is needed
    line("reading the files, nothing else", median(lambda: seconds(lambda: read_all(files))))
    line(f"copying them into {SHARDS} files", median(partial(copy_once, folder, files)))
    for verify, words in WAYS:
        line(f"{words}, one process", median(partial(pack_once, folder, verify, 1, size)))
    before = time.perf_counter()
    with ray_session():
        pack_once(folder, "decode", WORKERS, size)  # workers start, and load, with their first task
        print(f"  Ray's start and a first pack that decodes: {time.perf_counter() - before:.1f} s")
        for verify, words in WAYS:
            duration = median(partial(pack_once, folder, verify, WORKERS, size))
            line(f"{words}, {WORKERS} workers of Ray", duration)


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
