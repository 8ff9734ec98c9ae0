"""The arithmetic of `pcace estimate`, and its words: from what one unit cost (`Timings`) and what there is to do
(`Workload`) to time, traffic and memory for any number of workers. No I/O; `measure` measures.

docs/estimate.md says what each stage is made of. Not in it: faults, bandwidth that many workers share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pcace_dist.datasets.loader import PILOT_BYTES
from pcace_dist.progress.display import duration
from pcace_dist.progress.table import Column, Table, lines_of
from pcace_dist.statistics.group_accumulator import WAITING_SHARE
from pcace_dist.worker.attempt_buffer import FLUSH_PAUSE, FLUSH_SHARE
from pcace_dist.worker.memory import size_text
from pcace_dist.worker.reduce import PAIRS_AT_A_TIME

EFFICIENT = 2 / 3  # suggested workers: at least this share of what is paid is not spent on waiting
MOST_SUGGESTED = 1024  # workers
STAGES = ("start", "pilot", "main_pass", "reduce", "publish")
ROUND = 0.25  # seconds of a stage besides its work: the one figure that is not measured


@dataclass(frozen=True)
class Cost:
    """Seconds of some work on this machine: on the clock, and of its processors by all threads together."""

    clock: float
    processor: float = 0.0

    def on(self, cores: float) -> float:
        """Seconds for a worker with so many cores."""
        return max(self.clock, self.processor / cores)


@dataclass(frozen=True)
class Workload:
    """What there is to do: counts and bytes, from the listing, the job and the plan's shapes.

    `units` are the kept rows of each unit, `blocks` the channels of each; `bytes` what the main pass reads; `row_bytes`
    and `gram_bytes` all channels of one row as codes and of one group as packed Gram; `most_held` what sums may take.
    """

    bytes: int
    units: tuple[float, ...]
    groups: int
    targets: int
    blocks: tuple[int, ...]
    row_bytes: int
    gram_bytes: int
    model_bytes: int
    kept_bytes: int
    most_held: int
    flush_seconds: float

    @property
    def images(self) -> int:
        return round(sum(self.units))

    @property
    def channels(self) -> int:
        return sum(self.blocks)

    def sum_bytes(self, images: float) -> float:
        """Bytes of the sums of so many images, all groups, each as codes or as Gram, whichever is smaller."""
        return min(images * self.row_bytes, self.groups * self.gram_bytes)


@dataclass(frozen=True)
class Timings:
    """Measured seconds: `driver` until the job is prepared, `worker` until a worker has its model, the job's `pilot`,
    `begin` of a worker with the plan, a `row` of a unit, `stages` of that row by name, a `flush`; of the reduce one
    channel's `add_row` and `solve` (of a group), and `part`, taking in a group of an attempt; one `ranking`."""

    driver: float
    worker: float
    pilot: Cost
    begin: float
    row: Cost
    stages: Mapping[str, float]
    flush: float
    add_row: float
    part: float
    solve: float
    ranking: float

    def of_row(self, *stages: str) -> float:
        """Seconds of some of a row's stages."""
        return sum(self.stages.get(stage, 0.0) for stage in stages)


def in_turns(tasks: Sequence[float], workers: int) -> float:
    """Seconds of tasks that workers take in turns, the long ones first; a turn lasts as long as its longest task."""
    return sum(sorted(tasks, reverse=True)[:: max(1, workers)])


def predict(load: Workload, took: Timings, workers: int, cores: float) -> dict[str, Any]:
    """With so many workers, each of which has so many cores: seconds by stage (`STAGES`) and from the command to its
    end (`seconds`), `bytes_read`, `bytes_written`, and the bytes that the `sums` take in a worker."""
    busy, row = max(1, min(workers, len(load.units))), took.row.on(cores)
    rows = in_turns(load.units, busy)  # of the worker that has most of them
    for pause in (FLUSH_PAUSE, load.flush_seconds):  # Engine.should_flush
        flushes = max(1, math.ceil(row * rows / pause))
        held = load.sum_bytes(load.images / busy / flushes)
        if held <= FLUSH_SHARE * load.bytes / busy / flushes:
            break
    attempts, written = flushes * busy, int(flushes * busy * held)
    by_workers, by_reduce = (took.add_row, 0.0) if held >= load.groups * load.gram_bytes else (0.0, took.add_row)
    channel = load.groups * took.solve + load.images * by_reduce
    rankings = load.groups * load.targets
    ranked_by = max(1, min(workers, rankings, rankings * load.channels**2 // PAIRS_AT_A_TIME))  # in batches of pairs
    share = max(load.blocks) / load.channels  # of a reduce task; a group takes three times its Gram while it is solved
    reduced = share * 3 * load.gram_bytes + min(share * load.sum_bytes(load.images), load.most_held)
    work = (
        took.driver + took.worker,
        took.pilot.on(cores),
        took.begin + rows * (row + load.channels * by_workers) + flushes * took.flush,
        in_turns([load.groups * attempts * took.part + size * channel for size in load.blocks], workers),
        rankings * took.ranking / ranked_by,
    )
    return {
        "workers": workers,
        "seconds": sum(work) + ROUND * len(work),
        **{stage: ROUND + seconds for stage, seconds in zip(STAGES, work, strict=True)},
        "bytes_read": load.bytes + min(load.bytes, PILOT_BYTES) + (workers + 1) * load.model_bytes + written,
        "bytes_written": written + load.kept_bytes,
        "sums": int(max(min((1 + WAITING_SHARE) * held, load.most_held) + max(load.units) * load.row_bytes, reduced)),
    }


def suggest(load: Workload, took: Timings, cores: float) -> dict[str, int]:
    """Workers, the largest power of two of which two thirds are spent on what one worker would have to do as well (more
    would be paid for waiting); and cpus of each, with which reading and decoding keep up with the model."""
    alone, workers, most = predict(load, took, 1, cores)["seconds"], 1, min(MOST_SUGGESTED, len(load.units))
    while 2 * workers <= most and alone >= EFFICIENT * 2 * workers * predict(load, took, 2 * workers, cores)["seconds"]:
        workers *= 2
    model = took.of_row("forward", "tap", "statistics")
    return {"workers": workers, "cpus": max(1, math.ceil(took.row.processor / model - 0.05))}  # 5 % are no core


def describe(found: Mapping[str, Any], width: int | None = None) -> str:
    """What there is, what a worker needs, what it will take; `found` is what `measure.estimate` returns. width: of the
    terminal, in cells."""
    memory, row, best = found["memory"], found["timings"]["row"], found["suggested"]
    stages = ", ".join(f"{name} {1000 * seconds:.3g}" for name, seconds in found["timings"]["stages"].items())
    lines = [
        f"images:     {_count(found, 'images')} in {_count(found, 'files')}, {size_text(found['bytes'])} to read, "
        f"{_count(found, 'units')} of work",
        f"channels:   {_count(found, 'channels')} in {_count(found, 'layers')}, {_count(found, 'groups')}, "
        f"{_count(found, 'targets')}; all sums {size_text(memory['statistic'])}",
        f"a worker:   {size_text(memory['worker'])} at most; process and model {size_text(memory['process'])}",
        f"timed here: {1000 * row['clock']:.3g} ms an image on {found['device']}, batch {found['batch']} ({stages})",
        "",
        *lines_of(_predictions(found), width),
        "",
        f"suggested:  workers: {{max: {best['workers']}, cpus: {best['cpus']}, memory: {size_text(best['memory'])}}}",
        *(f"note:       {note}" for note in found["notes"]),
    ]
    return "\n".join(lines)


def _predictions(found: Mapping[str, Any]) -> Table:
    """A row for this machine and one for every number of workers."""
    drops = {"read": 4, "written": 5} | {stage.partition("_")[0]: 3 for stage in STAGES}
    headings = ["workers", "time", *(stage.partition("_")[0] for stage in STAGES), "read", "written", "price"]
    rows = [_row(f"{found['here']['workers']} here", found["here"])]
    rows += [_row(f"{prediction['workers']:,}", prediction) for prediction in found["predictions"]]
    return Table("", [Column(heading, drop=drops.get(heading, 0)) for heading in headings], rows, all_columns="--json")


def _row(name: str, one: Mapping[str, Any]) -> list[str]:
    seconds = [one["seconds"], *(one[stage] for stage in STAGES)]
    price = "-" if one["price"] is None else f"{one['price']:,.2f}"
    return [name, *map(duration, seconds), size_text(one["bytes_read"]), size_text(one["bytes_written"]), price]


def _count(found: Mapping[str, Any], things: str) -> str:
    return f"{found[things]:,} {things[: -1 if found[things] == 1 else None]}"
