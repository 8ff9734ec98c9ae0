"""The arithmetic of `pcace estimate`: from what one unit cost (`Timings`) and what there is to do (`Workload`) to time,
traffic, memory and price for any number of workers. No I/O; `measure` measures.

docs/operations.md says what each stage is made of. Not in it: faults, bandwidth that many workers share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pcace_dist.statistics.group_accumulator import WAITING_SHARE
from pcace_dist.worker.attempt_buffer import FLUSH_PAUSE, FLUSH_SHARE
from pcace_dist.worker.reduce import PAIRS_AT_A_TIME

EFFICIENT = 2 / 3  # suggested workers: at least this share of what is paid is not spent on waiting
MOST_SUGGESTED = 1024  # workers
ROUND = 0.25  # seconds of a stage besides its work: the one figure that is not measured
HEADROOM = 1.25  # of the memory that is suggested over the memory that is expected
HALF_GIB = 2**29


@dataclass(frozen=True)
class Workload:
    """What there is to do: counts and bytes, from the listing, the job and the plan's shapes.

    `units` are the kept rows of each unit, `blocks` the channels of each; `bytes` what the main pass reads,
    `pilot_rows` and `pilot_bytes` what the pilot reads; `row_bytes` and `gram_bytes` all channels of one row as codes
    and of one group as packed Gram; `most_held` what a worker's accumulator may hold.
    """

    bytes: int
    files: int
    units: tuple[float, ...]
    groups: int
    targets: int
    layers: int
    blocks: tuple[int, ...]
    batch: int
    pilot_rows: int
    pilot_bytes: int
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
    """Measured seconds. `forward` is a whole batch's; `_row` an image's; add_row and solve are one channel's; `part` is
    what a reduce task needs for one group of one attempt besides. `processor_row` is processor time of all threads, the
    rest is time on the clock."""

    driver: float
    ray: float
    imports: float
    load: float
    pilot_fixed: float
    pilot_batch: float
    begin: float
    forward: float
    tap_row: float
    statistics_row: float
    processor_row: float
    decode_row: float
    read_row: float
    flush: float
    add_row: float
    part: float
    solve: float
    ranking: float

    @property
    def model_row(self) -> float:
        """Seconds of an image besides its share of `forward`."""
        return self.tap_row + self.statistics_row

    def image(self, batch: int) -> float:
        """Seconds of the model and the statistic for an image of a full batch."""
        return self.forward / batch + self.model_row


@dataclass(frozen=True)
class Machine:
    """What a worker has: cores (its share of them where workers share a machine) and decoding threads.

    `node_start`: seconds until its node is up; `price`: of an hour, paid from the start of the run to its end.
    """

    cores: float
    threads: int = 1
    node_start: float = 0.0
    price: float | None = None


@dataclass(frozen=True)
class Prediction:
    """One number of workers: seconds by stage, bytes read and written, and the price if one was given."""

    workers: int
    start: float
    pilot: float
    main_pass: float
    reduce: float
    publish: float
    bytes_read: int
    bytes_written: int
    price: float | None = None

    @property
    def seconds(self) -> float:
        """From the command to its end."""
        return self.start + self.pilot + self.main_pass + self.reduce + self.publish


@dataclass(frozen=True)
class Memory:
    """Bytes: of one channel and group as codes (a row) and as Gram, of the whole statistic, of a worker by part."""

    code_row_per_channel: int
    gram_per_channel: int
    statistic: int
    model: int
    process: int
    accumulator: int
    unit: int
    pilot_maps: int
    reduce_task: int

    @property
    def worker(self) -> int:
        """At most: the pilot's maps, the accumulator beside the unit in hand, and a reduce task follow each other."""
        return self.process + max(self.pilot_maps, self.accumulator + self.unit, self.reduce_task)

    @property
    def suggested(self) -> int:
        """workers.memory, rounded up to half a GiB."""
        return math.ceil(HEADROOM * self.worker / HALF_GIB) * HALF_GIB


@dataclass(frozen=True)
class Estimate:
    """All that `pcace estimate` says. `here` is the command on this machine, `predictions` workers of their own."""

    load: Workload
    took: Timings
    memory: Memory
    device: str
    here: Prediction
    predictions: Sequence[Prediction]
    suggested: Mapping[str, int]
    batches: Mapping[int, float]
    notes: Sequence[str]


def in_turns(tasks: Sequence[float], workers: int) -> float:
    """Seconds of tasks that workers take in turns, the long ones first; a turn lasts as long as its longest task."""
    return sum(sorted(tasks, reverse=True)[:: max(1, workers)])


def unit_seconds(rows: float, load: Workload, took: Timings, machine: Machine, *, add_row: float = 0.0) -> float:
    """One unit in a worker that reads ahead: its slowest part. `add_row`: of a channel, where codes are added up."""
    model = math.ceil(rows / load.batch) * took.forward + rows * (took.model_row + load.channels * add_row)
    decode = rows * max(took.decode_row / machine.threads, took.read_row)
    return max(model, rows * took.processor_row / machine.cores, decode)


def attempts_of(load: Workload, workers: int, seconds: float) -> tuple[int, float]:
    """Attempts of each of the busy workers in so many seconds of units, and bytes of each (Engine.should_flush)."""
    for pause in (FLUSH_PAUSE, load.flush_seconds):
        count = max(1, math.ceil(seconds / pause))
        held = load.sum_bytes(load.images / workers / count)
        if held <= FLUSH_SHARE * load.bytes / workers / count:
            break
    return count, held


def predict(load: Workload, took: Timings, workers: int, machine: Machine) -> Prediction:
    """Time, traffic and price with so many workers; the head and the storage are not in the price."""
    busy = max(1, min(workers, len(load.units)))
    plain = in_turns([unit_seconds(rows, load, took, machine) for rows in load.units], busy)
    flushes, held = attempts_of(load, busy, plain)
    attempts, written = flushes * busy, int(flushes * busy * held)
    by_workers, by_reduce = (took.add_row, 0.0) if held >= load.groups * load.gram_bytes else (0.0, took.add_row)
    units = [unit_seconds(rows, load, took, machine, add_row=by_workers) for rows in load.units]
    channel = load.groups * took.solve + load.images * by_reduce
    rankings = load.groups * load.targets
    ranked_by = max(1, min(workers, rankings, rankings * load.channels**2 // PAIRS_AT_A_TIME))  # in batches of pairs
    made = Prediction(
        workers=workers,
        start=ROUND + took.driver + took.ray + machine.node_start + took.imports + took.load,
        pilot=ROUND + took.pilot_fixed + math.ceil(load.pilot_rows / load.batch) * took.pilot_batch,
        main_pass=ROUND + took.begin + in_turns(units, busy) + flushes * took.flush,
        reduce=ROUND + in_turns([load.groups * attempts * took.part + size * channel for size in load.blocks], workers),
        publish=ROUND + rankings * took.ranking / ranked_by,
        bytes_read=load.bytes + load.pilot_bytes + (workers + 1) * load.model_bytes + written,
        bytes_written=written + load.kept_bytes,
    )
    return replace(made, price=None if machine.price is None else machine.price * workers * made.seconds / 3600)


def suggest(load: Workload, took: Timings, machine: Machine, batches: Mapping[int, float]) -> dict[str, int]:
    """Workers, cpus of each, and batch; `batches`: seconds of an image by batch size.

    workers: the largest power of two of which two thirds are spent on what one worker would have to do as well; more
    would be paid for waiting. cpus: with which reading and decoding keep up with the model. batch: the smallest within
    3 % of the fastest.
    """
    alone, workers, most = predict(load, took, 1, machine).seconds, 1, min(MOST_SUGGESTED, len(load.units))
    while 2 * workers <= most and alone >= EFFICIENT * 2 * workers * predict(load, took, 2 * workers, machine).seconds:
        workers *= 2
    cpus = max(1, math.ceil(took.processor_row / took.image(load.batch) - 0.05))  # a twentieth more is not worth a core
    batch = min(batch for batch, seconds in batches.items() if seconds <= 1.03 * min(batches.values()))
    return {"workers": workers, "cpus": cpus, "batch": batch}


def memory(load: Workload, took: Timings, machine: Machine, *, process: int, pilot_maps: int) -> Memory:
    """Bytes a worker needs; `process` is what was seen of it at rest."""
    flushed = load.flush_seconds * load.batch / max(1e-9, unit_seconds(load.batch, load, took, machine))  # images
    codes, grams = min(load.images, flushed + 1) * load.row_bytes, load.groups * load.gram_bytes
    share, group_images = max(load.blocks) / load.channels, load.images / load.groups
    group = int(share * min(3 * load.gram_bytes, load.gram_bytes + group_images * load.row_bytes))
    statistic = int(load.sum_bytes(load.images))
    return Memory(
        code_row_per_channel=load.row_bytes // load.channels,
        gram_per_channel=load.gram_bytes // load.channels,
        statistic=statistic,
        model=load.model_bytes,
        process=process,
        accumulator=min(int(codes if codes < grams else (1 + WAITING_SHARE) * grams), load.most_held),
        unit=int(max(load.units) * load.row_bytes),
        pilot_maps=pilot_maps,
        reduce_task=min(int(share * statistic) + group, max(load.most_held, group)),
    )
