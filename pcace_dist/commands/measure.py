"""What `pcace estimate` measures: the job's pilot, one unit and a reduce task, by the engine that workers use.

Nothing is written to the job's output: the engine has a scratch store. Ray is started (or joined) and left once, for
its time alone. The arithmetic is in `estimate`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import TypeVar

import numpy as np
import psutil
import torch

from pcace_dist.artifacts.attempt import blocks_of
from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.commands import estimate as arithmetic
from pcace_dist.commands.estimate import Estimate, Machine, Prediction, Timings, Workload
from pcace_dist.config.job import Job
from pcace_dist.datasets.loader import PILOT_BYTES, PILOT_ROW_GROUPS, spread, takes_all
from pcace_dist.datasets.row_groups import count_kept, kept_counts
from pcace_dist.datasets.units import Unit, make_units, row_groups_of, rows_per_unit
from pcace_dist.errors import DatasetError, JobError
from pcace_dist.executors.choice import ExecutorKind
from pcace_dist.executors.ray_session import ray_session
from pcace_dist.ledger.ledger import Receipt
from pcace_dist.models.forward import Forward
from pcace_dist.run.codes_run import prepare_from_codes
from pcace_dist.run.prepare import Preparation, prepare
from pcace_dist.statistics.group_accumulator import gram_bytes, row_bytes
from pcace_dist.statistics.pca import COVARIANCE_BYTES, MIN_ITERATIONS
from pcace_dist.statistics.ranks import rank_channels
from pcace_dist.statistics.score import OK, required_images
from pcace_dist.storage.store import LocalStore
from pcace_dist.worker.engine import Engine
from pcace_dist.worker.memory import memory_of
from pcace_dist.worker.pilot_maps import ROWS_AT_ONCE, SHARE_OF_FREE_MEMORY

Tell = Callable[[str], None]
T = TypeVar("T")

STAGES = ("tap", "statistics", "decode", "read")  # of a unit, besides the forward pass
COUNTED_ROW_GROUPS = 256  # in which kept rows and groups are counted; more are extrapolated
UNIT_ROWS = 256  # of the unit that is processed, or one row group if that has more
REDUCED_ROWS = 2048  # of the reduce task, at least
RANKED_AT_MOST = 2048  # channels; beyond, the time of ranking grows with their square
PILOT_SECONDS = 15.0  # the job's own pilot is made, or as many batches of it as take about so long
LEAST_SECONDS = 1.5  # anything else is repeated until this is reached,
MOST_REPEATS = 7  # but not more often than this
BATCHES = {"cpu": (16, 32, 64), "cuda": (64, 128, 256, 512)}
BATCH_SECONDS = 4.0  # for trying one size
IMPORTS = """
import time
start = time.perf_counter()
import pcace_dist.worker.engine
print(time.perf_counter() - start)
import pcace_dist.run.rank
"""
NO_GPU = (
    "workers.gpus: no GPU here, so the model was timed on the processor; a GPU is many times faster. Run the estimate "
    "on a machine like the workers'"
)


def estimate(
    job: Job,
    *,
    workers: Sequence[int] = (1, 8, 64),
    price: float | None = None,
    node_start: float = 0.0,
    tell: Tell = lambda stage: None,
) -> Estimate:
    """Measure a job's stages on a little of its data and predict the whole. Raises UserError, as `pcace rank` would."""
    if prepare_from_codes(job) is not None:
        raise JobError(
            f"dataset.path {job.dataset.path[0]}: is a run with kept codes; to rank it again takes no model and little "
            "time, so there is no estimate"
        )
    notes: list[str] = []
    if job.workers.gpus and not torch.cuda.is_available():
        job, notes = _on_processors(job), [NO_GPU]
    tell("listing")
    preparation, preparing = _timed(lambda: prepare(job))
    unit, kept, groups = _sample(preparation, notes)
    tell("start-up")
    python, imports = _import_seconds()
    start = {"driver": python + preparing, "imports": imports, "ray": _timed(_start_ray)[1]}
    with tempfile.TemporaryDirectory(prefix="pcace-estimate-") as scratch:
        trial = _Trial(preparation, unit, kept, LocalStore(scratch))
        took = Timings(**start, **trial.stages(tell))
        tell("batch sizes")
        batches = trial.batches()
    load = trial.workload(groups)
    machine = Machine(max(job.workers.cpus, 1.0), max(1, int(job.workers.cpus)))
    memory = arithmetic.memory(load, took, machine, process=trial.process_bytes, pilot_maps=trial.pilot_maps)
    paid = replace(machine, node_start=node_start, price=price)
    if preparation.executor != ExecutorKind.RAY:
        notes.append("on this machine the run is done by threads of one process, without Ray")
    return Estimate(
        load=load,
        took=took,
        memory=memory,
        device=preparation.spec.device,
        here=_here(preparation, load, took, replace(machine, price=price)),
        predictions=[arithmetic.predict(load, took, count, paid) for count in sorted(set(workers))],
        suggested=arithmetic.suggest(load, took, machine, batches) | {"memory": memory.suggested},
        batches=batches,
        notes=notes,
    )


def _on_processors(job: Job) -> Job:
    model = job.model.model_copy(update={"input": replace(job.model.input, decode="auto")})
    return job.model_copy(update={"workers": job.workers.model_copy(update={"gpus": 0.0}), "model": model})


def _here(preparation: Preparation, load: Workload, took: Timings, machine: Machine) -> Prediction:
    """The command on this machine: workers share its cores, or are threads of one process, which need no Ray."""
    shape, cores = preparation.job.workers, float(os.cpu_count() or 1)
    fitting = min(cores / shape.cpus, torch.cuda.device_count() / shape.gpus if shape.gpus else cores)
    count = max(1, min(shape.max, int(fitting)))
    if preparation.executor != ExecutorKind.RAY:
        took = replace(took, ray=0.0, imports=0.0, load=0.0, pilot_batch=took.pilot_batch / count)
        if takes_all(preparation.listing, preparation.job.statistics.pilot):  # the main pass forwards nothing again
            took = replace(took, begin=0.0, forward=0.0, decode_row=0.0, read_row=0.0, processor_row=took.model_row)
    return arithmetic.predict(load, took, count, replace(machine, cores=cores / count))


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
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    python = [sys.executable, "-P", "-c", IMPORTS]
    done, whole = _timed(lambda: subprocess.run(python, capture_output=True, text=True, check=True, env=env))
    return whole, float(done.stdout)


def _start_ray() -> None:
    with ray_session():
        pass


def _sample(preparation: Preparation, notes: list[str]) -> tuple[Unit, float, int]:
    """A unit from the middle of the data set; share of rows that the filter keeps; values of group_by.

    The counts are those of evenly chosen row groups.
    """
    dataset, storage, listing = preparation.spec.dataset, preparation.spec.storage, preparation.listing
    pieces = [piece for file in listing.files for piece in row_groups_of(file)]
    looked = [pieces[i] for i in spread([piece.rows for piece in pieces], COUNTED_ROW_GROUPS, COUNTED_ROW_GROUPS)]
    kept = count_kept(looked, dataset, storage)
    if not any(kept):
        raise DatasetError(f"dataset.filter: {dict(dataset.filter)} keeps no rows")
    full = [piece for piece, rows in zip(looked, kept, strict=True) if rows == max(kept)]
    unit = next(unit for unit in make_units(listing, UNIT_ROWS) if full[len(full) // 2] in unit.row_groups)
    groups = 1 if dataset.group_by is None else len(kept_counts(dataset.group_by, looked, dataset, storage))
    if dataset.group_by is not None and len(looked) < len(pieces):
        seen = f"{groups:,} values counted in {len(looked):,} of {len(pieces):,} row groups"
        notes.append(f"group_by: {seen}; more are likely")
    return unit, sum(kept) / sum(piece.rows for piece in looked), max(1, groups)


class _Trial:
    """A worker of the job in this process, and the only place that drives its engine."""

    def __init__(self, preparation: Preparation, unit: Unit, kept: float, store: LocalStore) -> None:
        self._spec, self._listing, self._unit, self._kept = preparation.spec, preparation.listing, unit, kept
        self._pilot_rows = min(self._spec.statistics.pilot, round(kept * self._listing.rows))
        self._engine, self._load = _timed(lambda: Engine(self._spec, "estimate", store))

    def stages(self, tell: Tell) -> dict[str, float]:
        """Seconds of all stages in the order of a run, by their names in `Timings`."""
        tell("pilot")
        first_use, fixed, batch = self._pilot()
        begin = first_use + _repeated(lambda: self._engine.begin(self._plan, self._check, 1))
        tell("main pass")
        unit, receipt = self._main_pass()
        self.process_bytes = psutil.Process().memory_info().rss
        start = {"load": self._load, "begin": begin}
        pilot = {"pilot_fixed": first_use + fixed, "pilot_batch": batch + self._passes_again * unit["forward"]}
        tell("reduce and ranking")
        return start | pilot | unit | self._reduce(receipt) | {"ranking": self._ranking()}

    def _pilot(self) -> tuple[float, float, float]:
        """Seconds of the first use of everything, of any pilot, and of a batch of it.

        From pilots of one batch and of all batches, or of as many as do not take too long.
        """
        cold = self._timed_pilot(self._spec.compute.fixed_batch or ROWS_AT_ONCE)
        batch = PlanMetadata.of(self._plan).batch
        one = cold if cold > PILOT_SECONDS else self._timed_pilot(batch)
        count = min(-(-self._pilot_rows // batch), max(2, int(PILOT_SECONDS / one)))
        whole = self._timed_pilot(count * batch) if count > 1 else one
        each = max(0.0, whole - one) / (count - 1) if count > 1 else one
        self.pilot_maps, again = self._maps_of_pilot()
        self._passes_again = again if count * batch < self._pilot_rows else 0
        return max(0.0, cold - one), whole - count * each, each

    def _timed_pilot(self, rows: int) -> float:
        statistics = self._spec.statistics
        self._engine.spec = replace(
            self._spec, statistics=statistics.model_copy(update={"pilot": min(rows, statistics.pilot)})
        )
        (self._plan, self._check), seconds = _timed(lambda: self._engine.pilot(self._listing))
        self._engine.pilot_cache.clear()  # the main pass is to be timed
        return seconds

    def _maps_of_pilot(self) -> tuple[int, int]:
        """Bytes of the maps that the job's pilot keeps; where they do not fit, how often it forwards a batch again."""
        layers = self._plan.layers
        maps = 4 * sum(layer.channels * layer.pixels for layer in layers) * self._pilot_rows
        if maps <= SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available:
            return maps, 0
        iterates = any(4 * layer.channels * layer.pixels**2 > COVARIANCE_BYTES for layer in layers)
        return 0, MIN_ITERATIONS + 2 if iterates else 2

    def _main_pass(self) -> tuple[dict[str, float], Receipt]:
        """Median seconds of a unit's stages and of a flush, by their names in `Timings`; and the attempt."""
        seen: list[dict[str, float]] = []
        began = time.perf_counter()
        while len(seen) < 3 or (time.perf_counter() - began < 2 * LEAST_SECONDS and len(seen) < MOST_REPEATS):
            processor = time.process_time()
            report = self._engine.process(self._unit)
            processor = time.process_time() - processor
            receipt, flush = _timed(self._engine.flush)
            rows, seconds = report.count.rows, report.seconds
            if not rows:
                raise DatasetError("dataset: no row of the unit that was looked at can be used; see dataset and model")
            of_row = {f"{stage}_row": seconds.get(stage, 0.0) / rows for stage in STAGES}
            forward = seconds["forward"] / -(-rows // PlanMetadata.of(self._plan).batch)
            seen.append(of_row | {"processor_row": processor / rows, "forward": forward, "flush": flush})
        assert receipt is not None
        self._row_stored = report.bytes_read / self._unit.rows
        return {name: median(one[name] for one in seen[1:]) for name in seen[0]}, receipt  # without the first use

    def _reduce(self, receipt: Receipt) -> dict[str, float]:
        """Seconds to add a row of a channel, to take in a group of an attempt, and to solve a channel.

        From reduce tasks over copies of one attempt: as many as its groups take to be ranked, and twice as many.
        """
        plan, block = self._plan, max(blocks_of(self._plan), key=lambda block: block.stop - block.start)
        rows, channels = sum(count.rows for count in receipt.units.values()), block.stop - block.start
        groups = len(self._engine.reduce(plan, block, [receipt]).scores)
        least = max(REDUCED_ROWS, 2 * groups * required_images(plan.components, plan.knots))
        attempts = [receipt] * -(-least // rows)
        once, clock = _timed(lambda: self._engine.reduce(plan, block, attempts))
        if self._spec.statistics.estimator == "ace":
            adding = clock - sum(once.seconds.values())
        else:
            adding = self._engine.reduce(plan, block, 2 * attempts).seconds["solve"] - once.seconds["solve"]
        adding, solving = max(0.0, adding), max(0.0, once.seconds["solve"] - max(0.0, adding))
        ranked = max(1, sum(bool((scores[0].status == OK).any()) for scores in once.scores.values()))
        return {
            "add_row": adding / (len(attempts) * rows * channels),
            "part": once.seconds["sums"] / (len(attempts) * groups),
            "solve": solving / (channels * ranked),
        }

    def _ranking(self) -> float:
        """Seconds of ranking all channels once: the intervals of the ranks compare every channel with every other."""
        channels = sum(layer.channels for layer in self._plan.layers)
        count = min(channels, RANKED_AT_MOST)
        random = np.random.default_rng(0)
        scores, noise = random.random(count), random.standard_normal((count, self._plan.folds))
        ok = np.ones(count, dtype=bool)
        seconds = _repeated(lambda: rank_channels(scores, scores[:, None] + 0.1 * noise, ok))
        return seconds * (channels / count) ** 2

    def batches(self) -> dict[int, float]:
        """Seconds an image by batch size, model and tap; sizes that do not fit or take too long are left out."""
        found: dict[int, float] = {}
        for batch in sorted({*BATCHES[torch.device(self._spec.device).type], PlanMetadata.of(self._plan).batch}):
            if found and batch * min(found.values()) > BATCH_SECONDS:
                break
            try:
                found[batch] = self._batch_seconds(batch) / batch
            except (torch.OutOfMemoryError, MemoryError):
                break
        return found

    def _batch_seconds(self, batch: int) -> float:
        facts, spec, given = PlanMetadata.of(self._plan), self._spec, self._spec.model.input
        images = torch.zeros((batch, self._check.images.shape[1], *facts.image_shape), dtype=torch.uint8)
        forward = Forward(self._engine.model, spec.device, batch, given.mean, given.std, spec.layers, facts.numerics)

        def once() -> None:
            forward(images, lambda name, maps, shape: None).cpu()  # waits for a GPU

        once()
        return _repeated(once)

    def workload(self, groups: int) -> Workload:
        """What there is to do, by the listing and the plan; bytes of a row are those of the unit."""
        listing, plan, spec, model = self._listing, self._plan, self._spec, self._engine.model
        size, row_groups = self._row_stored * listing.rows, sum(len([*row_groups_of(file)]) for file in listing.files)
        pilot_groups = min(self._pilot_rows, PILOT_ROW_GROUPS, max(32, int(PILOT_BYTES * row_groups / size)))
        units = tuple(unit.rows * self._kept for unit in make_units(listing, rows_per_unit(listing)))
        return Workload(
            bytes=int(size),
            files=len(listing.files),
            units=units,
            groups=groups,
            targets=len(plan.targets),
            layers=len(plan.layers),
            blocks=tuple(block.stop - block.start for block in blocks_of(plan)),
            batch=PlanMetadata.of(plan).batch,
            pilot_rows=self._pilot_rows,
            pilot_bytes=int(size * min(1.0, pilot_groups / row_groups)),
            row_bytes=row_bytes(plan),
            gram_bytes=gram_bytes(plan),
            model_bytes=sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())),
            kept_bytes=int(sum(units) * row_bytes(plan)) if spec.kept is not None else 0,
            most_held=memory_of(spec),
            flush_seconds=spec.flush_seconds,
        )
