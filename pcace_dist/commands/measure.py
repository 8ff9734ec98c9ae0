"""What `pcace estimate` measures: the listing, and one unit taken through every stage in this process.

Uses the engine that workers use, on a scratch store; nothing is written to the job's output. Ray is started (or joined)
and left once, for its time alone: no worker of the job is asked for. The arithmetic is in `estimate`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from pcace_dist.artifacts.attempt import Block, BlockPart, blocks_of, read_block, read_checked, read_rows
from pcace_dist.artifacts.plan_metadata import Facts
from pcace_dist.commands.estimate import (
    Estimate,
    Machine,
    Timings,
    Workload,
    memory,
    predict,
    suggest_batch,
    suggest_cpus,
    suggest_workers,
    unit_seconds,
)
from pcace_dist.config.job import Job
from pcace_dist.datasets.columns import filter_scalar, plain_type
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import PILOT_BYTES, PILOT_ROW_GROUPS, spread, takes_all
from pcace_dist.datasets.row_groups import count_kept
from pcace_dist.datasets.units import Piece, Unit, make_units, pieces_of, rows_per_unit
from pcace_dist.errors import DatasetError, JobError
from pcace_dist.executors.ray_session import ray_session
from pcace_dist.ledger.ledger import Receipt
from pcace_dist.models.forward import Forward
from pcace_dist.run.codes_run import prepare_from_codes
from pcace_dist.run.prepare import Preparation, prepare
from pcace_dist.statistics.ace import ace
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.pca import COVARIANCE_BYTES, MIN_ITERATIONS
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.statistics.ranks import rank_channels
from pcace_dist.statistics.score import score_channels
from pcace_dist.statistics.segment import WAITING_SHARE, RowCodes, add_codes, gram_bytes, row_bytes
from pcace_dist.storage.store import LocalStore
from pcace_dist.worker.attempt_buffer import FLUSH_PAUSE, FLUSH_SHARE
from pcace_dist.worker.engine import Engine
from pcace_dist.worker.memory import memory_of
from pcace_dist.worker.pilot_maps import ROWS_AT_ONCE, SHARE_OF_FREE_MEMORY
from pcace_dist.worker.spec import WorkSpec

Tell = Callable[[str], None]
T = TypeVar("T")

SAMPLE_ROWS = 256  # of the unit that is taken through the stages, or one row group if that has more
LEAST_SECONDS = 1.5  # a stage is repeated until this is reached,
MOST_REPEATS = 7  # but not more often than this
PILOT_SECONDS = 3.0  # pilots of growing size are made until one takes so long
RANKED_AT_MOST = 2048  # channels; beyond, the time of ranking grows with their square
BATCHES = {"cpu": (16, 32, 64), "cuda": (64, 128, 256, 512)}
BATCH_SECONDS = 4.0  # for trying one size
ROWS = "rows.arrow"
IMPORTS = """
import time
start = time.perf_counter()
import pcace_dist.worker.engine
print(time.perf_counter() - start)
import pcace_dist.run.rank
"""
COUNTED_ROW_GROUPS = 256  # in which kept rows and groups are counted; more are extrapolated


@dataclass(frozen=True)
class Sample:
    """The unit of the rehearsal and what was counted for the whole data set.

    `kept` share of rows the filter keeps, `groups` values of group_by, `stored` share of the files' bytes in the
    columns that are read.
    """

    listing: Listing
    unit: Unit
    kept: float
    groups: int
    stored: float


def estimate(
    job: Job,
    *,
    workers: Sequence[int] = (1, 8, 64),
    price: float | None = None,
    node_start: float = 0.0,
    tell: Tell = lambda text: None,
) -> Estimate:
    """Rehearse a job on one unit and predict the whole of it. Raises UserError, one line, as `pcace rank` would."""
    if prepare_from_codes(job) is not None:
        raise JobError(
            f"dataset.path {job.dataset.path[0]}: is a run with kept codes; to rank it again takes no model and little "
            "time, so there is no estimate"
        )
    job, notes = _on_this_machine(job)
    tell("listing")
    preparation, preparing = _timed(lambda: prepare(job))
    sample = _sample(preparation, notes)
    tell("start-up")
    python, imports = _import_seconds()
    ray = _ray_seconds()
    with tempfile.TemporaryDirectory(prefix="pcace-estimate-") as scratch:
        rehearsal = _Rehearsal(preparation, sample, scratch, tell)
        took = rehearsal.measure(driver=python + preparing, ray=ray, imports=imports)
    load = rehearsal.workload
    shape = job.workers
    alone = Machine(max(shape.cpus, 1.0), max(1, int(shape.cpus)))
    cores = float(os.cpu_count() or 1)
    fitting = [cores / shape.cpus] + ([torch.cuda.device_count() / shape.gpus] if shape.gpus else [])
    side_by_side = max(1, min(job.workers.max, int(min(fitting))))
    here = replace(alone, cores=cores / side_by_side)
    took_here = took
    if preparation.shared_model is not None:
        notes.append("on this machine the run is done by threads of one process, without Ray")
        took_here = replace(took, ray=0.0, imports=0.0, load=0.0, pilot_batch=took.pilot_batch / side_by_side)
        if takes_all(preparation.listing, job.statistics.pilot):  # then the main pass forwards nothing again
            row = took.tap_row + took.statistics_row
            took_here = replace(took_here, begin=0.0, forward=0.0, decode_row=0.0, read_row=0.0, processor_row=row)
    rate = 1 / max(1e-9, unit_seconds(load.batch, load, took, alone) / load.batch)
    return Estimate(
        load=load,
        took=took,
        memory=memory(load, process=rehearsal.process_bytes, pilot_maps=rehearsal.pilot_maps, rate=rate),
        device=rehearsal.device,
        machine=alone,
        here=predict(load, took_here, side_by_side, here, sharing=side_by_side / cores, price=price),
        predictions=tuple(
            predict(load, took, count, alone, node_start=node_start, price=price) for count in sorted(set(workers))
        ),
        suggested_workers=suggest_workers(load, took, alone),
        suggested_cpus=suggest_cpus(load, took),
        suggested_batch=suggest_batch(rehearsal.batches),
        batches=rehearsal.batches,
        notes=tuple(notes),
    )


def _on_this_machine(job: Job) -> tuple[Job, list[str]]:
    """A job for GPUs is timed on the processor where there is none, and says so."""
    if job.workers.gpus == 0 or torch.cuda.is_available():
        return job, []
    note = (
        "workers.gpus: no GPU here, so the model was timed on the processor; a GPU is many times faster. Run the "
        "estimate on a machine like the workers'"
    )
    workers = job.workers.model_copy(update={"gpus": 0.0})
    decoding = job.model.input.model_copy(update={"decode": "auto"})
    model = job.model.model_copy(update={"input": decoding})
    return job.model_copy(update={"workers": workers, "model": model}), [note]


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _repeated(work: Callable[[], object]) -> float:
    """Median seconds of a piece of work, repeated until there is something to measure."""
    taken: list[float] = []
    while not taken or (sum(taken) < LEAST_SECONDS and len(taken) < MOST_REPEATS):
        taken.append(_timed(work)[1])
    return median(taken)


def _import_seconds() -> tuple[float, float]:
    """Seconds of a new Python with all imports, as the driver has it, and of the imports alone, as a worker does."""
    done, whole = _timed(
        lambda: subprocess.run(
            [sys.executable, "-P", "-c", IMPORTS],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    )
    return whole, float(done.stdout)


def _ray_seconds() -> float:
    def start_and_leave() -> None:
        with ray_session():
            pass

    return _timed(start_and_leave)[1]


# -- the data set


def _sample(preparation: Preparation, notes: list[str]) -> Sample:
    """A unit from the middle of the data set that keeps rows, and what a look at evenly chosen row groups counts."""
    listing, spec = preparation.listing, preparation.spec
    pieces = [piece for file in listing.files for piece in pieces_of(file)]
    looked = _evenly(pieces, COUNTED_ROW_GROUPS)
    kept = count_kept(looked, spec.dataset, spec.storage)
    share = sum(kept) / sum(piece.rows for piece in looked)
    if not share:
        raise DatasetError(f"dataset.filter: {dict(spec.dataset.filter)} keeps no rows")
    full = {piece for piece, rows in zip(looked, kept, strict=True) if rows == max(kept)}
    units = make_units(listing, SAMPLE_ROWS)
    with_rows = [unit for unit in units if full & set(unit.pieces)] or list(units)
    unit = with_rows[len(with_rows) // 2]
    groups = 1
    if spec.dataset.group_by is not None:
        groups = _count_groups(looked, spec)
        if len(looked) < len(pieces):
            notes.append(
                f"group_by: {groups:,} values counted in {len(looked):,} of {len(pieces):,} row groups; more are likely"
            )
    return Sample(_only(listing, unit), unit, share, groups, _stored_share(looked[0], spec))


def _evenly(pieces: Sequence[Piece], most: int) -> list[Piece]:
    count = min(len(pieces), most)
    return [pieces[(2 * i + 1) * len(pieces) // (2 * count)] for i in range(count)]


def _only(listing: Listing, unit: Unit) -> Listing:
    """A listing of nothing but the unit's row groups, for its pilot."""
    chosen = {(piece.key, piece.row_group) for piece in unit.pieces}
    files = (
        replace(
            file,
            row_groups=tuple(rows if (file.key, i) in chosen else 0 for i, rows in enumerate(file.row_groups)),
        )
        for file in listing.files
        if any(file.key == key for key, _ in chosen)
    )
    return Listing(tuple(files), listing.schema)


def _count_groups(pieces: Sequence[Piece], spec: WorkSpec) -> int:
    """Values of group_by, null being one, among the rows that the filter keeps; reads no image."""
    column, wanted = str(spec.dataset.group_by), spec.dataset.filter
    seen: set[object] = set()
    for url in dict.fromkeys(piece.url for piece in pieces):
        with spec.storage.open(url) as source:
            indices = [piece.row_group for piece in pieces if piece.url == url]
            table = pq.ParquetFile(source).read_row_groups(indices, columns=list(dict.fromkeys([column, *wanted])))
        for name, value in wanted.items():
            kind = plain_type(table.schema.field(name).type)
            values = [filter_scalar(name, one, kind) for one in (value if isinstance(value, list | tuple) else [value])]
            held = table.column(name).cast(kind)
            table = table.filter(pc.is_in(held, pa.array([one.as_py() for one in values], kind)))
        seen.update(table.column(column).unique().to_pylist())
    return max(1, len(seen))


def _stored_share(piece: Piece, spec: WorkSpec) -> float:
    """Share of a file's bytes that lies in the columns that are read, from one footer."""
    with spec.storage.open(piece.url) as source:
        group = pq.read_metadata(source).row_group(piece.row_group)
    chunks = [group.column(i) for i in range(group.num_columns)]
    needed = {column for _, column in spec.dataset.roles()}
    image = f"{spec.dataset.image}.bytes"
    if any(chunk.path_in_schema == image for chunk in chunks):
        needed = needed - {spec.dataset.image} | {image}
    stored = sum(int(chunk.total_compressed_size) for chunk in chunks if chunk.path_in_schema in needed)
    return stored / max(1, sum(int(chunk.total_compressed_size) for chunk in chunks))


def _pilot_row_groups(listing: Listing, rows: int) -> int:
    """Row groups that the pilot reads, chosen as `datasets.batches.pilot_rows` does."""
    counts = [piece.rows for file in listing.files for piece in pieces_of(file)]
    per_group = sum(file.size for file in listing.files) / len(counts)
    return len(spread(counts, rows, min(PILOT_ROW_GROUPS, max(32, int(PILOT_BYTES / per_group)))))


# -- the stages


class _Rehearsal:
    """One unit through every stage. `measure` once; what it found besides the timings is in the attributes."""

    def __init__(self, preparation: Preparation, sample: Sample, scratch: str, tell: Tell) -> None:
        self._spec, self._listing, self._sample, self._tell = preparation.spec, preparation.listing, sample, tell
        self._store = LocalStore(scratch)
        self._engine, self._load = _timed(lambda: Engine(self._spec, "estimate", self._store))
        self.device = self._spec.device
        self.batches: dict[int, float] = {}
        self.pilot_maps = 0
        self.process_bytes = 0

    def measure(self, *, driver: float, ray: float, imports: float) -> Timings:
        """All stages in the order of a run."""
        self._tell("pilot")
        first_use, fixed, batch = self._pilot()
        begin = _repeated(lambda: self._engine.begin(self._plan, self._check, 1))
        self._tell("main pass")
        unit = self._main_pass()
        rows, batches = unit["rows"], unit["batches"]
        self.workload = self._workload()
        self.process_bytes = psutil.Process().memory_info().rss
        self._tell("reduce and ranking")
        add, part, solve = self._reduce()
        per_byte = unit["read"] / max(1.0, unit["bytes"])
        timings = Timings(
            driver=driver,
            ray=ray,
            imports=imports,
            load=self._load,
            pilot_fixed=first_use + fixed + per_byte * max(0.0, self.workload.pilot_bytes - unit["bytes"]),
            pilot_batch=batch + self._repeated_forward(unit["forward"] / batches),
            begin=first_use + begin,
            forward=unit["forward"] / batches,
            tap_row=unit["tap"] / rows,
            statistics_row=unit["statistics"] / rows,
            processor_row=unit["processor"] / rows,
            decode_row=unit["decode"] / rows,
            read_row=unit["read"] / rows,
            flush=unit["flush"],
            add_row=add,
            part=part,
            solve=solve,
            ranking=self._ranking(),
        )
        self._tell("batch sizes")
        self._try_batches()
        return timings

    def _pilot(self) -> tuple[float, float, float]:
        """Seconds of the first use of everything, of any pilot, and of a batch of it: from pilots of growing size."""
        first = self._timed_plan(self._spec.batch or ROWS_AT_ONCE)
        forwarded = Facts.of(self._plan).batch
        batch = max(self._spec.batch or ROWS_AT_ONCE, forwarded)
        most = max(1, int(self._sample.unit.rows * self._sample.kept) // batch)
        most = min(most, -(-self._spec.statistics.pilot // batch))
        long = first >= 10 * PILOT_SECONDS  # with many layers the axes take so long, whatever the rows: once is enough
        taken = [first if long else self._timed_plan(batch)]
        count, step = 1, 4 if taken[0] >= PILOT_SECONDS else 2
        while count < most and (count == 1 or taken[-1] < PILOT_SECONDS):  # one size would call all of it a batch's
            count = min(most, step * count)
            taken.append(self._timed_plan(count * batch))
        one = max(0.0, taken[-1] - taken[0]) / (count - 1) if count > 1 else taken[0]
        return max(0.0, first - taken[0]), max(0.0, taken[-1] - count * one), one * forwarded / batch

    def _timed_plan(self, rows: int) -> float:
        return _timed(lambda: self._make_plan(rows))[1]

    def _make_plan(self, rows: int) -> None:
        self._engine.spec = replace(self._spec, statistics=replace(self._spec.statistics, pilot=rows))
        try:
            self._plan, self._check = self._engine.pilot(self._sample.listing)
            self._engine.pilot_cache.clear()  # the main pass is to be timed
        finally:
            self._engine.spec = self._spec

    def _repeated_forward(self, forward: float) -> float:
        """Seconds of a pilot's batch for forwarding it again in every pass, where the pilot's maps do not fit."""
        rows = self.workload.pilot_rows
        maps = 4 * sum(layer.channels * layer.pixels for layer in self._plan.layers) * rows
        fits = maps <= SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available
        self.pilot_maps = maps if fits else 0
        if fits:
            return 0.0
        iterates = any(4 * y.channels * y.pixels**2 > COVARIANCE_BYTES for y in self._plan.layers)
        return (MIN_ITERATIONS + 2 if iterates else 2) * forward

    def _main_pass(self) -> dict[str, float]:
        """Medians over repeats of one unit: seconds by stage, processor seconds, rows, batches, bytes, flush."""
        seen: list[dict[str, float]] = []
        self._receipts: list[Receipt] = []
        began = time.perf_counter()
        while len(seen) < 2 or (time.perf_counter() - began < 2 * LEAST_SECONDS and len(seen) < MOST_REPEATS):
            processor = time.process_time()
            report = self._engine.process(self._sample.unit)
            processor = time.process_time() - processor
            receipt, flush = _timed(self._engine.flush)
            if receipt is not None:
                self._receipts.append(receipt)
            rows = max(1, report.count.rows)
            batches = max(1, -(-rows // Facts.of(self._plan).batch))
            seen.append(
                {name: report.seconds.get(name, 0.0) for name in ("forward", "tap", "statistics", "decode", "read")}
                | {"processor": processor, "flush": flush, "rows": rows, "batches": batches}
                | {"bytes": float(report.bytes_read)}
            )
        if not any(receipt.files for receipt in self._receipts):
            raise DatasetError("dataset: no row of the unit that was looked at can be used; see dataset and model")
        warm = seen[1:]
        return {name: median(one[name] for one in warm) for name in warm[0]}

    def _workload(self) -> Workload:
        listing, sample, plan, spec = self._listing, self._sample, self._plan, self._spec
        size = sum(file.size for file in listing.files) * sample.stored
        images = round(listing.rows * sample.kept)
        pilot_rows = min(spec.statistics.pilot, images)
        row_groups = sum(1 for file in listing.files for _ in pieces_of(file))
        model = self._engine.model
        tensors = [*model.parameters(), *model.buffers()]
        return Workload(
            images=images,
            bytes=int(size),
            files=len(listing.files),
            units=tuple(round(unit.rows * sample.kept) for unit in make_units(listing, rows_per_unit(listing))),
            groups=sample.groups,
            targets=len(plan.targets),
            channels=sum(layer.channels for layer in plan.layers),
            layers=len(plan.layers),
            blocks=tuple(block.stop - block.start for block in blocks_of(plan)),
            batch=Facts.of(plan).batch,
            pilot_rows=pilot_rows,
            pilot_bytes=int(size * _pilot_row_groups(listing, pilot_rows) / row_groups),
            row_bytes=row_bytes(plan),
            gram_bytes=gram_bytes(plan),
            model_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            kept_bytes=images * row_bytes(plan) if spec.kept is not None else 0,
            most_held=memory_of(spec),
            flush_seconds=spec.flush_seconds,
            flush_pause=FLUSH_PAUSE,
            flush_share=FLUSH_SHARE,
            waiting_share=WAITING_SHARE,
        )

    def _reduce(self) -> tuple[float, float, float]:
        """Seconds to add a row of a channel held as codes, to take in a group of an attempt, to solve a channel."""
        plan = self._plan
        block = max(blocks_of(plan), key=lambda block: block.stop - block.start)
        channels = block.stop - block.start
        receipts = [receipt for receipt in self._receipts if block.file in receipt.files]
        parts = [part for receipt in receipts for part in _parts(self._store, plan, block, receipt)]
        codes = LayerCodes.cat(part.codes for part in parts if part.codes is not None)
        rows = RowCodes.cat([part.rows for part in parts])
        gram = add_codes(_empty(plan, block), codes, rows)
        together = _repeated(lambda: add_codes(_empty(plan, block), codes, rows))

        def one_by_one() -> None:
            total = _empty(plan, block)
            for receipt in receipts:
                for part in _parts(self._store, plan, block, receipt):
                    add_codes(total, part.codes or codes, part.rows)

        part_seconds = max(0.0, _repeated(one_by_one) - together) / len(parts)
        row_seconds = together / (rows.rows * channels)
        if self._spec.statistics.estimator == "ace":
            return row_seconds + self._ace_row(), part_seconds, 0.0
        layer, penalty = plan.layer(block.layer).block(block.channels), self._spec.statistics.penalty
        solving = _repeated(lambda: score_channels(gram, layer, plan.targets, penalty=penalty, min_images=1))
        return row_seconds, part_seconds, solving / channels

    def _ace_row(self) -> float:
        """Seconds of sample-level ACE for one channel and row, all targets."""
        random = np.random.default_rng(0)
        rows, channels = 1000, 4
        x = random.standard_normal((rows, channels, self._plan.components)).astype(np.float32)
        y = random.standard_normal(rows)
        return float(len(self._plan.targets) * _repeated(lambda: ace(x, y)) / (rows * channels))

    def _ranking(self) -> float:
        """Seconds of ranking all channels once: the intervals of the ranks compare every channel with every other."""
        count = min(self.workload.channels, RANKED_AT_MOST)
        random = np.random.default_rng(0)
        scores = random.random(count)
        pseudo = scores[:, None] + 0.1 * random.standard_normal((count, self._plan.folds))
        seconds = _repeated(lambda: rank_channels(scores, pseudo, np.ones(count, dtype=bool)))
        return float(seconds * (self.workload.channels / count) ** 2)

    def _try_batches(self) -> None:
        """Seconds an image by batch size, model and tap; sizes that do not fit or take too long are left out."""
        facts, spec = Facts.of(self._plan), self._spec
        channels = self._check.images.shape[1]
        per_image = 0.0
        for batch in sorted({*BATCHES[torch.device(self.device).type], facts.batch}):
            if per_image * batch > BATCH_SECONDS and self.batches:
                break
            images = torch.zeros((batch, channels, *facts.image_shape), dtype=torch.uint8)
            try:
                forward = Forward(
                    self._engine.model, self.device, batch, spec.mean, spec.std, spec.layers, facts.numerics
                )

                def once(forward: Forward = forward, images: torch.Tensor = images) -> None:
                    forward(images, lambda name, maps, shape: None)
                    if self.device == "cuda":
                        torch.cuda.synchronize()

                once()
                per_image = _repeated(once) / batch
            except (torch.OutOfMemoryError, MemoryError):
                break
            self.batches[batch] = per_image


def _empty(plan: Plan, block: Block) -> Gram:
    return Gram(block.stop - block.start, plan.components, len(plan.targets), plan.knots, plan.folds)


def _parts(store: LocalStore, plan: Plan, block: Block, receipt: Receipt) -> list[BlockPart]:
    """One block of an attempt, a part per group: so few rows are held as codes."""
    held, rows = (read_checked(store, receipt.attempt, name, receipt.files[name]) for name in (block.file, ROWS))
    return list(read_block(block, plan.components, held, *read_rows(rows)))
