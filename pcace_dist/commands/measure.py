"""What `pcace estimate` measures: the job's pilot, a unit and a reduce task, by the engine that workers use.

Nothing is written to the job's output: the engine has a scratch store. Ray is started (or joined) and left once, for
its time alone. The arithmetic is in `estimate`.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np
import psutil
import torch

from pcace_dist.artifacts.attempt import blocks_of
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.effects import effects_line
from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.commands.estimate import Cost, Timings, Workload, predict, suggest
from pcace_dist.config.job import Job
from pcace_dist.datasets.loader import spread, takes_all
from pcace_dist.datasets.row_groups import count_kept, kept_counts
from pcace_dist.datasets.units import listed_row_groups, make_units, rows_per_unit
from pcace_dist.errors import DatasetError, JobError
from pcace_dist.executors.choice import ExecutorKind
from pcace_dist.executors.ray_session import ray_session
from pcace_dist.run.codes_run import prepare_from_codes
from pcace_dist.run.prepare import Preparation, prepare
from pcace_dist.statistics.group_accumulator import gram_bytes, row_bytes
from pcace_dist.statistics.order.ranks import rank_channels
from pcace_dist.statistics.score import OK, required_images
from pcace_dist.storage.store import LocalStore
from pcace_dist.worker.engine import Engine
from pcace_dist.worker.memory import memory_of
from pcace_dist.worker.shared_model import model_bytes

Tell = Callable[[str], None]
T = TypeVar("T")

FORMAT_VERSION = 2
COUNTED_ROW_GROUPS = 256  # in which kept rows and groups are counted; more are extrapolated
REDUCED_ROWS = 4096  # of the reduce task, at least; with more than twice as many it would hold sums in place of codes
REDUCED_TIMES = 3
RANKED_AT_MOST = 2048  # channels; beyond, the time of ranking grows with their square
HEADROOM = 1.25  # of the memory that is suggested over the memory that is expected
HALF_GIB = 2**29


def estimate(
    job: Job,
    *,
    workers: Sequence[int] = (1, 8, 64),
    price: float | None = None,
    node_start: float = 0.0,
    imports: float = 0.0,
    tell: Tell = lambda stage: None,
) -> dict[str, Any]:
    """Measure a job's stages on a little of its data and predict the whole, in plain numbers: bytes, seconds, counts.

    imports: seconds that this process took to import everything, as driver and workers will. price: of a worker's hour,
    paid from the start of the run to its end. node_start: seconds until nodes are up. Raises UserError, as a run would.
    """
    if prepare_from_codes(job) is not None:
        raise JobError(f"dataset.path {job.dataset.path[0]}: ranking a run's kept codes takes no model and little time")
    if job.workers.gpus and not torch.cuda.is_available():
        raise JobError("workers.gpus: no GPU here; estimate on a machine like the workers', or with workers.gpus: 0")
    tell("listing")
    with tempfile.TemporaryDirectory(prefix="pcace-estimate-") as scratch:
        preparation, preparing = _timed(lambda: prepare(job, place=scratch))
        tell("start-up")
        worker = imports + sum(_timed(start)[1].clock for start in (_start_ray, preparation.spec.load_model))
        trial = _Trial(preparation, LocalStore(scratch))
        took = Timings(driver=imports + preparing.clock, worker=worker, **trial.stages(tell))
    load = trial.workload()
    cores = max(job.workers.cpus, 1.0)
    on_nodes = replace(took, worker=took.worker + node_start)
    here = _here(preparation, load, took)
    predictions = [predict(load, on_nodes, count, cores) for count in sorted(set(workers))]
    for one in (here, *predictions):
        one["price"] = None if price is None else price * one["workers"] * one["seconds"] / 3600
    memory = max(trial.peak_bytes, trial.process_bytes + predict(load, took, 1, cores)["sums"])
    return {
        "format_version": FORMAT_VERSION,
        **{name: getattr(load, name) for name in ("images", "bytes", "channels", "groups", "targets")},
        "files": len(preparation.listing.files),
        "units": len(load.units),
        "layers": len(trial.plan.layers),
        "batch": PlanMetadata.of(trial.plan).batch,
        "device": preparation.spec.device,
        "memory": {
            "code_row_per_channel": load.row_bytes // load.channels,
            "gram_per_channel": load.gram_bytes // load.channels,
            "statistic": int(load.sum_bytes(load.images)),
            "model": load.model_bytes,
            "process": trial.process_bytes,
            "worker": memory,
        },
        "suggested": suggest(load, took, cores) | {"memory": math.ceil(HEADROOM * memory / HALF_GIB) * HALF_GIB},
        "timings": asdict(took),
        "here": here,
        "predictions": predictions,
        "notes": [*trial.notes, effects_line(trial.plan.effects)],
    }


def _here(preparation: Preparation, load: Workload, took: Timings) -> dict[str, Any]:
    """The command on this machine: workers share its cores, or are threads of one process, which need no Ray."""
    shape, cores = preparation.job.workers, float(os.cpu_count() or 1)
    fitting = min(cores / shape.cpus, torch.cuda.device_count() / shape.gpus if shape.gpus else cores)
    count = max(1, min(shape.max, int(fitting)))
    if preparation.executor != ExecutorKind.RAY:  # the threads have made the pilot together
        took = replace(took, worker=0.0, pilot=Cost(took.pilot.clock))
        if takes_all(preparation.listing, preparation.job.statistics.pilot):  # which has forwarded every image
            took = replace(took, begin=0.0, row=Cost(took.of_row("tap", "statistics")))
    return predict(load, took, count, cores / count)


def _timed(work: Callable[[], T]) -> tuple[T, Cost]:
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, Cost(time.perf_counter() - clock, time.process_time() - processor)


def _start_ray() -> None:
    with ray_session():
        pass


class _Trial:
    """A worker of the job in this process, and the only place that drives its engine."""

    def __init__(self, preparation: Preparation, store: LocalStore) -> None:
        self._spec, self._listing = preparation.spec, preparation.listing
        self._units = make_units(self._listing, rows_per_unit(self._listing))
        self._engine = Engine(self._spec, "estimate", store, preparation.shared_model)
        self._workers = 1 if preparation.shared_model is None else preparation.shared_model.workers

    def stages(self, tell: Tell) -> dict[str, Any]:
        """The costs of all stages in the order of a run, by their names in `Timings`."""
        tell("pilot")
        (self.plan, check), pilot = _timed(lambda: self._engine.pilot(self._listing, self._workers))
        self._engine.pilot_cache.clear()  # the main pass is to be timed
        tell("main pass")
        self._sample()
        begin = _timed(lambda: self._engine.begin(self.plan, check, 1))[1].clock
        unit = min((self._process() for _ in range(2)), key=lambda costs: costs["row"].clock)
        self.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self.process_bytes = psutil.Process().memory_info().rss
        tell("reduce and ranking")
        return {"pilot": pilot, "begin": begin, **unit, **self._reduce(), "ranking": self._ranking()}

    def _sample(self) -> None:
        """A unit from the middle of the data set; share of rows that the filter keeps; values of group_by. The last two
        are counted in evenly chosen row groups."""
        dataset, storage = self._spec.dataset, self._spec.storage
        refs = listed_row_groups(self._listing)
        chosen = [refs[i] for i in spread([ref.rows for ref in refs], COUNTED_ROW_GROUPS, COUNTED_ROW_GROUPS)]
        kept = count_kept(chosen, dataset, storage)
        fullest = [ref for ref, rows in zip(chosen, kept, strict=True) if rows == max(kept)]
        self._unit = next(unit for unit in self._units if fullest[len(fullest) // 2] in unit.row_groups)
        self._kept, column = sum(kept) / sum(ref.rows for ref in chosen), dataset.group_by
        self._groups = 1 if column is None else max(1, len(kept_counts(column, chosen, dataset, storage)))
        seen = f"group_by: {self._groups:,} values in {len(chosen):,} of {len(refs):,} row groups; more are likely"
        self.notes = [seen] if column is not None and len(chosen) < len(refs) else []

    def _process(self) -> dict[str, Any]:
        """The costs of a row of the unit and of a flush, by their names in `Timings`."""
        report, cost = _timed(lambda: self._engine.process(self._unit))
        receipt, flush = _timed(self._engine.flush)
        rows = report.count.rows
        if not rows or receipt is None:
            raise DatasetError("dataset: no row of the unit that was looked at can be used; see dataset and model")
        self._receipt, self._rows, self._row_stored = receipt, rows, report.bytes_read / self._unit.rows
        stages = {name: seconds / rows for name, seconds in report.seconds.items()}
        return {"row": Cost(cost.clock / rows, cost.processor / rows), "stages": stages, "flush": flush.clock}

    def _reduce(self) -> dict[str, float]:
        """Seconds to add a row of a channel, to take in a group of an attempt, and to solve a channel.

        From reduce tasks over copies of one attempt: as many as its groups take to be ranked, and twice as many.
        """
        plan, block = self.plan, max(blocks_of(self.plan), key=lambda block: block.stop - block.start)
        least = max(REDUCED_ROWS, 2 * min(self._groups, self._rows) * required_images(plan.components, plan.knots))
        attempts = [self._receipt] * -(-least // self._rows)

        def least_of(copies: int) -> tuple[BlockScores, float]:
            """Of three tasks, the first of which imports what they need: scores and the least seconds of scoring."""
            tasks = [_timed(lambda: self._engine.reduce(plan, block, copies * attempts)) for _ in range(REDUCED_TIMES)]
            return tasks[-1][0], min(cost.clock - scores.seconds["sums"] for scores, cost in tasks)

        once, scoring = least_of(1)
        adding = max(0.0, least_of(2)[1] - scoring)
        ranked = max(1, sum(bool((scores[0].status == OK).any()) for scores in once.scores.values()))
        channels = block.stop - block.start
        return {
            "add_row": adding / (len(attempts) * self._rows * channels),
            "part": once.seconds["sums"] / (len(attempts) * len(once.scores)),
            "solve": max(0.0, scoring - adding) / (channels * ranked),
        }

    def _ranking(self) -> float:
        """Seconds of ranking all channels once: the intervals of the ranks compare every channel with every other."""
        channels = sum(layer.channels for layer in self.plan.layers)
        count = min(channels, RANKED_AT_MOST)
        values = np.random.default_rng(0).random((count, self.plan.folds))
        cost = _timed(lambda: rank_channels(values[:, 0], values, np.ones(count, dtype=bool)))[1]
        return cost.clock * (channels / count) ** 2

    def workload(self) -> Workload:
        """What there is to do, by the listing and the plan; bytes of a row are those of the unit."""
        plan, size = self.plan, int(self._row_stored * self._listing.rows)
        units = tuple(unit.rows * self._kept for unit in self._units)
        return Workload(
            bytes=size,
            units=units,
            groups=self._groups,
            targets=len(plan.targets),
            blocks=tuple(block.stop - block.start for block in blocks_of(plan)),
            row_bytes=row_bytes(plan),
            gram_bytes=gram_bytes(plan),
            model_bytes=model_bytes(self._engine.model),
            kept_bytes=int(sum(units) * row_bytes(plan)) if self._spec.kept is not None else 0,
            most_held=memory_of(self._spec),
            flush_seconds=self._spec.flush_seconds,
        )
