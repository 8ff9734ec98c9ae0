"""The arithmetic of `pcace estimate`: from what one unit cost (`Timings`) and what there is to do (`Workload`) to time,
traffic, memory and price for any number of workers. Pure: no I/O, no torch, no Ray; `rehearsal` measures.

    total   = start + pilot + main pass + reduce + publish
    start   = driver (python, imports, listing, model) + Ray + worker (imports, model), workers side by side
    pilot   = fixed + batches * seconds a batch; one worker does it, the others wait
    main    = begin + the units, given one by one to the worker that is free first + a flush for every attempt
    a unit  = the largest of  model   ceil(rows / batch) * forward + rows * (tap + statistics)
                              cores   processor seconds of all its threads / cores a worker has
                              decode  rows * decode / decoding threads
    reduce  = blocks of at most 64 channels, given to workers in the same way;
              a block = channels * (groups * solve + code rows * add) + groups * attempts * part
    publish = groups * targets * ranking of all channels, given to workers in batches of about a second's work
    and `ROUND` for each of the five: calls to workers and back, records in the ledger, the driver's clock of 0.2 s

Segments (group x attempt) hold rows as codes while these are smaller than the Gram; codes are added up by the reduce,
beyond that by the workers in the main pass (statistics.group_accumulator). What is not in it: nodes that are still to
be started (`node_start`), faults, bandwidth that many workers share.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

GIB = 2**30
BLOCK_CHANNELS = 64
RANKED_TOGETHER = 1 << 20  # pairs of channels in one batch of rankings (reduce.PAIRS_AT_A_TIME)
EFFICIENT = 2 / 3  # suggested workers: at least this share of what is paid is not spent on waiting
ROUND = 0.25  # seconds of a stage besides its work: the one figure that is not measured in the rehearsal
HEADROOM = 1.25  # of the memory that is suggested over the memory that is expected


@dataclass(frozen=True)
class Workload:
    """What there is to do: counts and bytes, from the listing, the job and the plan's shapes.

    `units` are the kept rows of each unit; `bytes` what the main pass reads; `pilot_rows` and `pilot_bytes` what the
    pilot reads; `row_bytes` and `gram_bytes` all channels of one row as codes and of one group as packed Gram.
    """

    images: int
    bytes: int
    files: int
    units: tuple[int, ...]
    groups: int
    targets: int
    channels: int
    layers: int
    blocks: tuple[int, ...]  # channels of each
    batch: int
    pilot_rows: int
    pilot_bytes: int
    row_bytes: int
    gram_bytes: int
    model_bytes: int
    kept_bytes: int
    most_held: int
    flush_seconds: float
    flush_pause: float
    flush_share: float
    waiting_share: float  # of the Grams' bytes: what waits as codes beside them (statistics.group_accumulator)

    @property
    def images_per_group(self) -> int:
        return max(1, self.images // max(1, self.groups))

    @property
    def statistic_bytes(self) -> int:
        """The whole statistic, all groups, each as codes or as Gram, whichever is smaller."""
        return self.groups * min(self.gram_bytes, self.images_per_group * self.row_bytes)


@dataclass(frozen=True)
class Timings:
    """What the rehearsal measured, in seconds. `forward` is a whole batch's; `_row` an image's; add_row and solve are
    one channel's; `part` is what a reduce task needs for one group of one attempt besides. `processor_row` is processor
    time of all threads, the rest is time on the clock."""

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


@dataclass(frozen=True)
class Machine:
    """What a worker has: cores (its share of them where workers share a machine) and decoding threads."""

    cores: float
    threads: int = 1


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
        """What a worker needs at most: the pilot's maps, the accumulator beside the codes of the unit in hand, and a
        reduce task come one after the other."""
        return self.process + max(self.pilot_maps, self.accumulator + self.unit, self.reduce_task)

    @property
    def suggested(self) -> int:
        """workers.memory, rounded up to half a GiB."""
        return math.ceil(HEADROOM * self.worker / (GIB / 2)) * (GIB // 2)


def unit_seconds(rows: int, load: Workload, took: Timings, machine: Machine, *, folds_codes: bool = False) -> float:
    """One unit in a worker that reads ahead: its slowest part."""
    model = math.ceil(rows / load.batch) * took.forward + rows * (took.tap_row + took.statistics_row)
    model += rows * load.channels * took.add_row if folds_codes else 0.0
    cores = rows * took.processor_row / machine.cores
    decode = rows * max(took.decode_row / machine.threads, took.read_row)
    return max(model, cores, decode)


def makespan(tasks: Sequence[float], workers: int, *, ahead: bool = False) -> float:
    """When the last of `tasks` ends, each given in turn to the worker that is free first.

    `ahead`: a worker that begins a task also reserves the next, to read it ahead; another that would have nothing to
    do takes it away again (service.dispatch).
    """
    waiting, reserved = deque(tasks), dict[int, float]()
    free = [(0.0, worker) for worker in range(max(1, min(workers, len(tasks))))]
    end = 0.0
    while free:
        now, worker = heapq.heappop(free)
        if worker in reserved:
            task = reserved.pop(worker)
        elif waiting:
            task = waiting.popleft()
        elif reserved:
            task = reserved.pop(next(iter(reserved)))
        else:
            continue
        if ahead and waiting:
            reserved[worker] = waiting.popleft()
        end = max(end, now + task)
        heapq.heappush(free, (now + task, worker))
    return end


def flush_every(work: float, load: Workload, workers: int) -> float:
    """Seconds between two flushes of a worker (service.engine): early where an attempt is small against what was
    read."""
    if not work:
        return load.flush_pause
    bytes_read = load.bytes / workers * min(1.0, load.flush_pause / work)
    rows = load.images / workers * min(1.0, load.flush_pause / work)
    held = load.groups * min(load.gram_bytes, rows / load.groups * load.row_bytes)
    return load.flush_pause if held <= load.flush_share * bytes_read else load.flush_seconds


def predict(
    load: Workload,
    took: Timings,
    workers: int,
    machine: Machine,
    *,
    sharing: float = 1.0,
    node_start: float = 0.0,
    price: float | None = None,
) -> Prediction:
    """Time, traffic and price with so many workers.

    `sharing`: workers that start on one core at the same time (1 where each has cores of its own). `price`: of one
    worker for an hour; all are paid from the start to the end, the head and the storage are not in it.
    """
    workers = max(1, workers)
    plain = makespan([unit_seconds(rows, load, took, machine) for rows in load.units], workers, ahead=True)
    between = flush_every(plain, load, workers)
    attempts_each = max(1, math.ceil(plain / between))
    rows_per_segment = load.images / (workers * attempts_each * max(1, load.groups))
    folds = rows_per_segment * load.row_bytes >= load.gram_bytes
    lasting = [unit_seconds(rows, load, took, machine, folds_codes=folds) for rows in load.units]
    units = makespan(lasting, workers, ahead=True)
    attempts = attempts_each * min(workers, len(load.units))
    reduce_rows = 0 if folds else load.images
    parts = load.groups * attempts * took.part
    blocks = [parts + channels * (load.groups * took.solve + reduce_rows * took.add_row) for channels in load.blocks]
    start = took.driver + took.ray + node_start + (took.imports + took.load) * max(1.0, sharing)
    attempt_bytes = int(
        attempts * load.groups * load.gram_bytes
        if folds
        else min(load.images * load.row_bytes, attempts * load.groups * load.gram_bytes)
    )
    prediction = Prediction(
        workers=workers,
        start=ROUND + start,
        pilot=ROUND + took.pilot_fixed + math.ceil(load.pilot_rows / load.batch) * took.pilot_batch,
        main_pass=ROUND + took.begin + units + attempts_each * took.flush,
        reduce=ROUND + makespan(blocks, workers),
        publish=ROUND + ranking_seconds(load, took, workers),
        bytes_read=load.bytes + load.pilot_bytes + (workers + 1) * load.model_bytes + attempt_bytes,
        bytes_written=attempt_bytes + load.kept_bytes,
    )
    if price is None:
        return prediction
    return Prediction(**{**prediction.__dict__, "price": price * workers * prediction.seconds / 3600})


def ranking_seconds(load: Workload, took: Timings, workers: int) -> float:
    """All rankings: a single batch is done by the driver, several are given to the workers."""
    rankings = load.groups * load.targets
    together = max(1, math.ceil(RANKED_TOGETHER / load.channels**2))
    batches = [min(together, rankings - first) * took.ranking for first in range(0, rankings, together)]
    return makespan(batches, workers if len(batches) > 1 else 1)


def suggest_workers(load: Workload, took: Timings, machine: Machine, *, most: int = 1024) -> int:
    """The largest power of two of which at least two thirds are spent on what one worker would have to do as well.

    More would be paid for waiting: for start, pilot and publishing, or for units that are too few to share out.
    """
    alone = predict(load, took, 1, machine)
    best, workers = 1, 2
    while workers <= min(most, len(load.units)):
        if alone.seconds / (workers * predict(load, took, workers, machine).seconds) < EFFICIENT:
            break
        best, workers = workers, 2 * workers
    return best


def suggest_cpus(load: Workload, took: Timings) -> int:
    """Processor cores of a worker with which reading and decoding keep up with the model."""
    model = took.forward / load.batch + took.tap_row + took.statistics_row
    return max(1, math.ceil(took.processor_row / model - 0.05))  # a twentieth more is not worth a core


def suggest_batch(seconds_by_batch: dict[int, float]) -> int:
    """The smallest batch within 3 % of the fastest; {images of a batch: seconds an image}."""
    fastest = min(seconds_by_batch.values())
    return min(batch for batch, seconds in seconds_by_batch.items() if seconds <= 1.03 * fastest)


def memory(load: Workload, *, process: int, pilot_maps: int, rate: float) -> Memory:
    """Bytes a worker needs. `process` is what was seen of it at rest, `rate` images a second of one worker."""
    rows = min(load.images, int(rate * load.flush_seconds) + 1)
    codes = max(1, rows // max(1, load.groups)) * load.row_bytes
    accumulator = load.groups * (codes if codes < load.gram_bytes else (1 + load.waiting_share) * load.gram_bytes)
    share = max(load.blocks, default=0) / max(1, load.channels)
    per_group = share * min(3 * load.gram_bytes, load.gram_bytes + load.images_per_group * load.row_bytes)
    return Memory(
        code_row_per_channel=max(1, load.row_bytes // max(1, load.channels)),
        gram_per_channel=load.gram_bytes // max(1, load.channels),
        statistic=load.statistic_bytes,
        model=load.model_bytes,
        process=process,
        accumulator=min(int(accumulator), load.most_held),
        unit=max(load.units, default=0) * load.row_bytes,
        pilot_maps=pilot_maps,
        reduce_task=min(int(share * load.statistic_bytes + per_group), max(load.most_held, int(per_group))),
    )


@dataclass(frozen=True)
class Estimate:
    """All that `pcace estimate` says. `here` is the command on this machine, `predictions` workers of their own."""

    load: Workload
    took: Timings
    memory: Memory
    device: str
    machine: Machine
    here: Prediction
    predictions: tuple[Prediction, ...]
    suggested_workers: int
    suggested_cpus: int
    suggested_batch: int
    batches: dict[int, float]
    notes: tuple[str, ...] = field(default=())
