"""A run on kept codes: it answers another question about images that the model has processed already.

Its units are the codes files. Its one attempt is the selection of rows that the question is about. The rest is as in
any run. Small ones use threads of this process: they end before a cluster would have started.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa
import torch

from pcace_dist.artifacts.attempt import ChannelBlock, attempt_key, blocks_of
from pcace_dist.artifacts.bad_rows import BAD_ROWS, bad_rows_table
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.codes.stored import StoredCodes, open_codes
from pcace_dist.artifacts.encoding import parquet_bytes
from pcace_dist.artifacts.plan_store import FrozenPlan
from pcace_dist.artifacts.reading.data_reading import KEY, DataReading
from pcace_dist.artifacts.run import open_run
from pcace_dist.artifacts.selection import SELECTION_FILE
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import absolute, storage_of
from pcace_dist.datasets.units import RowGroupRef, Unit
from pcace_dist.errors import DatasetError, JobError
from pcace_dist.executors.base import Executor, Task, WorkerShape
from pcace_dist.executors.choice import ExecutorKind, open_executor, wanted_executor
from pcace_dist.executors.ray_session import is_wanted
from pcace_dist.ledger.ledger import FileRef, Receipt
from pcace_dist.progress.logs import LogSettings
from pcace_dist.run.codes_query import CodesQuery, SelectedRows, check_query, chooses_knots, query_plan, with_knots
from pcace_dist.run.coordinator import Coordinator, only_files
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.score import MIN_IMAGES
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import Sink
from pcace_dist.worker.allocator import give_back
from pcace_dist.worker.shared_model import most_threads
from pcace_dist.worker.spec import CodesSpec
from pcace_dist.worker.worker import WorkerBody

FEW_WORKERS = 4  # as threads so many hardly wait for one another, and they take less memory than processes
LOCAL_BYTES = 4 << 30  # of codes files; more are worth processes where there are many workers
LOCAL_SCORES = 1 << 15  # channels x groups x targets; more take longer than starting processes does


@dataclass(frozen=True)
class CodesPreparation:
    """A job that has been checked against kept codes."""

    job: Job
    spec: CodesSpec
    kept_codes: StoredCodes
    query: CodesQuery
    fingerprint: str

    def is_of(self, fingerprint: object) -> bool:
        """Whether a recorded fingerprint is this question's."""
        return bool(fingerprint == self.fingerprint)

    @property
    def weights(self) -> str:
        return self.kept_codes.index.weights

    @property
    def group_type(self) -> pa.DataType:
        return self.query.group_type

    @cached_property
    def executor(self) -> ExecutorKind:
        """As PCACE_EXECUTOR says; else threads, where no cluster is named and workers, or codes and ranks, are few."""
        return wanted_executor() or (ExecutorKind.THREADS if self._stays_here() else ExecutorKind.RAY)

    def _stays_here(self) -> bool:
        """At every start, not only the first (docs/protocol.md, item 8): no image is decoded that could end the
        process."""
        if is_wanted():
            return False
        workers = self.job.workers
        has_room = most_threads(workers.cpus) >= max(1, workers.min)
        if workers.max <= FEW_WORKERS and has_room and not (workers.gpus or workers.resources or workers.memory):
            return True
        if self.kept_codes.index.nbytes > LOCAL_BYTES:
            return False
        channels = sum(self.kept_codes.plan.layer(name).channels for name in self.query.layers)
        return channels * len(self.query.targets) * self._groups() <= LOCAL_SCORES

    def _groups(self) -> int:
        """How many groups can be ranked at most; 1 where that is not known from the kept rows."""
        name = self.job.group_by
        if name is None or name not in self.kept_codes.columns:
            return 1
        column = self.kept_codes.read_rows([f"column:{name}"])[0]
        return max(1, min(len(column.unique()), self.kept_codes.index.rows // MIN_IMAGES))


def prepare_from_codes(job: Job) -> CodesPreparation | None:
    """A job whose dataset.path is a run with kept codes; None for any other. Raises UserError, one line."""
    if len(job.dataset.path) != 1:
        return None
    storage = storage_of(job)
    kept_codes = open_codes(absolute(job.dataset.path[0]), storage)
    if kept_codes is None:
        if _is_run(absolute(job.dataset.path[0]), storage):
            raise JobError(
                f"dataset.path {job.dataset.path[0]}: is a run without kept codes (codes/index.json); rank it with "
                "statistics.keep_codes: true first"
            )
        return None
    if job.model.auto:  # as it was when the codes were kept
        job = job.filled_from(open_run(kept_codes.url, storage=storage).job)
    query = check_query(job, kept_codes)
    spec = CodesSpec(
        codes=kept_codes.url,
        output=absolute(job.output),
        storage=storage,
        statistics=job.statistics,
        threads=max(1, int(job.workers.cpus)),
        log=LogSettings.from_environment(),
    )
    digest = f"codes:{kept_codes.index.fingerprint}:{kept_codes.index.plan}"
    return CodesPreparation(job, spec, kept_codes, query, job.fingerprint(layers=query.layers, weights_digest=digest))


def _is_run(url: str, storage: Storage) -> bool:
    try:
        return storage.stat(f"{url}/ledger/00000001.json") is not None
    except OSError:
        return False


class CodesRun(Coordinator[CodesPreparation]):
    """Selects rows, then reduces the codes as they are."""

    _rows: SelectedRows | None = None
    _selections = 0

    @property
    def _kept_codes(self) -> StoredCodes:
        return self._preparation.kept_codes

    def _executor(self) -> AbstractContextManager[Executor]:
        shape = WorkerShape.of(self._job.workers)
        return open_executor(self._preparation.executor, self._preparation.spec, shape, early=self._early)

    def _planned(self, executor: Executor) -> FrozenPlan:
        manifest = self._ledger.state.manifest
        if manifest is None:
            plan = self._plan(executor)
            frozen = FrozenPlan(plan, plan.to_bytes(), b"")
            self._ledger.append(
                "manifest",
                {
                    "fingerprint": self._preparation.fingerprint,
                    "weights": self._preparation.weights,
                    **frozen.store(self._store),
                    KEY: self._reading().to_json(),
                    "units": [unit.to_json() for unit in self._codes_units()],
                },
            )
        else:
            frozen = FrozenPlan.recorded(self._store, manifest)
            if list(self._units()) != [unit.id for unit in self._codes_units()]:
                raise DatasetError(
                    f"dataset.path: the kept codes of {self._kept_codes.url} have changed since the run began"
                )
        self._stats.planned(frozen.plan, self._units())
        return frozen

    def _reading(self) -> DataReading:
        """The names of classes are those of the run that kept the codes."""
        names = open_run(self._kept_codes.url, storage=self._kept_codes.storage).names.names
        return DataReading(names=names, names_from=self._kept_codes.url if names else "")

    def _plan(self, executor: Executor) -> Plan:
        """The kept plan for this question, with knots from the rows where the job asks for them."""
        rows = self._read_rows()
        plan = query_plan(self._job, self._kept_codes, self._preparation.query, rows.values)
        if not chooses_knots(self._job, self._kept_codes):
            return replace(plan, knots=self._job.statistics.knots)
        selection = self._write_selection(plan, "knots")
        blocks = [block for block in blocks_of(self._kept_codes.plan) if block.layer in self._preparation.query.layers]
        tasks = [Task.of(WorkerBody.count_codes, block, selection) for block in blocks]
        counts: dict[str, list[torch.Tensor]] = {}
        for block, count in zip(blocks, self._map(executor, tasks, "choosing knots"), strict=True):
            counts.setdefault(block.layer, []).append(count)
        by_layer = {layer: torch.cat(parts) for layer, parts in counts.items()}
        return with_knots(plan, self._job.statistics.knots, by_layer)

    def _main_pass(self, executor: Executor, frozen: FrozenPlan) -> None:
        """Write and record the selection. Nothing else is left to do before the reduce."""
        if self._ledger.state.pending_units():
            receipt = self._write_selection(frozen.plan, "rows")
            self._ledger.append("accept", {"receipts": [receipt.to_json()]})
        self._rows = None  # the selection has what is needed of them
        give_back()
        self._tick(executor, "selecting")

    def _reduce_task(self, plan: Plan, block: ChannelBlock, receipts: tuple[Receipt, ...]) -> Task[BlockScores]:
        return Task.of(WorkerBody.reduce_codes, plan.digest, block, only_files(receipts[0], SELECTION_FILE))

    def _merge_examples(self, executor: Executor, plan: Plan) -> list[dict[str, bytes]]:  # noqa: ARG002 (the coordinator's)
        """Nothing: examples are chosen while images are read."""
        return []

    def _publish_more(self, sink: Sink, plan: Plan) -> None:
        """Nothing: the codes stay with the run that kept them."""

    # -- the selection

    def _read_rows(self) -> SelectedRows:
        if self._rows is None:
            with self._stats.stage("read"):
                self._rows = SelectedRows(self._job, self._kept_codes, self._preparation.query)
            if not len(self._rows.selected):
                raise DatasetError(f"dataset.filter: keeps none of the {self._rows.rows:,} rows that have kept codes")
        return self._rows

    def _write_selection(self, plan: Plan, name: str) -> Receipt:
        """The selection as an attempt. Each attempt has its own name, so that a retracted one stays retracted."""
        rows = self._read_rows()
        self._selections += 1
        attempt = f"e{self._ledger.epoch:05d}-{name}-f{self._selections:05d}"
        contents = {SELECTION_FILE: rows.select(plan).to_bytes()}
        if rows.bad:
            contents[BAD_ROWS] = parquet_bytes(bad_rows_table(rows.bad))
        files = {}
        for file, data in contents.items():
            self._store.put(attempt_key(attempt, file), data)
            files[file] = FileRef(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        counts = rows.counts([part.rows for part in self._kept_codes.index.parts])
        return Receipt(
            attempt=attempt,
            epoch=self._ledger.epoch,
            worker="driver",
            plan=plan.digest,
            weights=self._preparation.weights,
            units={unit.id: count for unit, count in zip(self._codes_units(), counts, strict=True)},
            files=files,
        )

    def _codes_units(self) -> list[Unit]:
        """A unit per codes file."""
        return [
            Unit.of([RowGroupRef(f"{self._kept_codes.url}/{part.file}", part.file, part.size, "", 0, 0, part.rows)])
            for part in self._kept_codes.index.parts
        ]
