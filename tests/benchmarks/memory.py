"""The memory of a worker at 2,000 and at 20,000 images.

Each figure is the peak of a new process that holds the body of a worker: it takes a plan that was made elsewhere, works
through all units, and flushes when a worker would. Small images, so that it is over soon: what a worker holds depends
on channels, components and images, not on the images' size. A worker's sums hold rows as codes until their Gram is the
smaller (about 11,900 rows), unless it flushes before. So they grow with the first 11,900 rows and level off: `sums, at
most` is where, the Gram's bytes and a quarter more of rows that wait. `as stated` is what 20,000 images should then
take: the peak of 2,000 without the codes of those, and the sums, at most.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from pcace_dist.config.job import parse_job
from pcace_dist.datasets.units import make_units, rows_per_unit
from pcace_dist.run.prepare import prepare
from pcace_dist.statistics.group_accumulator import WAITING_SHARE, gram_bytes, row_bytes
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import LocalStore
from pcace_dist.worker.admission import CheckRows
from pcace_dist.worker.engine import Engine
from tests.benchmarks.harness import Answer, Settings, Value, alone, peak_bytes
from tests.benchmarks.jobs import MEAN, STD, Job, digits, network
from tests.benchmarks.photos import write_photos

TITLE = "peak memory of a worker (MiB), few images and many"
AS_THEY_ARE = {"mean": MEAN, "std": STD}  # no resize, no crop


def ask(settings: Settings) -> Answer:
    """The example network; in full also ResNet-18 on small photographs, one layer and all."""
    lines: dict[str, dict[str, Value]] = {}
    counts = (2_000, 20_000)
    data = {count: copies(settings.scratch / f"digits-{count}", count) for count in counts}
    lines["MNIST CNN, 3 layers"] = _line({count: digits(settings.scratch / "a", data=data[count]) for count in counts})
    if not settings.quick:
        small = {
            count: write_photos(settings.scratch / f"photos-{count}", count, size=(64, 64), file_rows=2000)
            for count in counts
        }
        for name, layers in (("1 layer", None), ("all 20", "all")):
            lines[f"ResNet-18 on 64 x 64, {name}"] = _line(
                {
                    count: network(settings.scratch / "b", small[count], layers=layers, model={"input": AS_THEY_ARE})
                    for count in counts
                }
            )
    return Answer(lines, notes=("one process each, without Ray's own (a Ray worker has about 100 MiB more)",))


def _line(jobs: dict[int, Job]) -> dict[str, Value]:
    """Peaks under one plan, made from the fewest images."""
    first = min(jobs)
    plan, check = alone(make_plan, jobs[first])
    peaks = {count: alone(peak, job, plan, check) for count, job in jobs.items()}
    line: dict[str, Value] = {}
    for count, (at_start, most, seconds) in peaks.items():
        line |= {f"{count:,} images": most / 2**20, f"seconds, {count:,}": seconds}
        line.setdefault("with plan", at_start / 2**20)
    held = Plan.from_bytes(plan)
    sums = gram_bytes(held) * (1 + WAITING_SHARE)
    stated = peaks[first][1] - first * row_bytes(held) + sums
    line |= {"sums, at most": sums / 2**20, "20,000 / 2,000": peaks[20_000][1] / peaks[first][1]}
    return line | {"as stated": stated / 2**20, "20,000 / as stated": peaks[20_000][1] / stated}


def make_plan(job: Job) -> tuple[bytes, bytes]:
    """The plan and its check rows, as bytes."""
    prepared = prepare(parse_job(job))
    plan, check = Engine(prepared.spec, "pilot", LocalStore(prepared.spec.output)).pilot(prepared.listing)
    return plan.to_bytes(), check.to_bytes()


def peak(job: Job, plan: bytes, check: bytes) -> tuple[int, int, float]:
    """Peak bytes of this process when the plan is taken and at the end, and the seconds between."""
    prepared = prepare(parse_job(job))
    engine = Engine(prepared.spec, "bench", LocalStore(prepared.spec.output))
    engine.begin(Plan.from_bytes(plan), CheckRows.from_bytes(check), 1)
    at_start, start = peak_bytes(), time.perf_counter()
    units = make_units(prepared.listing, rows_per_unit(prepared.listing))
    for unit, upcoming in zip(units, [*units[1:], None], strict=True):
        engine.process(unit, upcoming)
        if engine.should_flush:
            engine.flush()
    engine.flush()
    return at_start, peak_bytes(), time.perf_counter() - start


def copies(folder: Path, count: int) -> Path:
    """Copies of the example's files, 1,000 images each."""
    folder.mkdir(parents=True)
    files = sorted(Path(digits(folder)["dataset"]["path"]).glob("*.parquet"))
    for index in range(count // 1000):
        shutil.copyfile(files[index % len(files)], folder / f"part-{index:05d}.parquet")
    return folder
