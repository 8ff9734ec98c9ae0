"""`pcace evaluate` on workers: the tasks of an evaluation, given to the same executor as a run's, with progress.

    ranking without the held folds -> profiles of the channels -> orders (whoever asks makes them) -> ablation

Reads a finished run; writes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pcace_dist.artifacts.attempt import CorruptAttempt, blocks_of
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.plan_store import read_plan
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import absolute, storage_of
from pcace_dist.config.targets import MEAN, Reduction, TargetSpec
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.units import Unit, check_unchanged
from pcace_dist.errors import JobError, OutputError
from pcace_dist.executors.base import Executor, Task, WorkerShape
from pcace_dist.executors.choice import ExecutorKind, check_threads, open_executor, wanted_executor
from pcace_dist.executors.event_loop import LoopControl
from pcace_dist.executors.map_tasks import map_tasks
from pcace_dist.executors.ray_session import ray_session
from pcace_dist.executors.signals import interruptible
from pcace_dist.ledger.ledger import Ledger, Receipt
from pcace_dist.models.ablation.replacement import Effect
from pcace_dist.progress.display import RunDisplay, Tally
from pcace_dist.run.coordinator import patience_of
from pcace_dist.run.prepare import Preparation, prepare
from pcace_dist.run.read_data import given_classes, open_any
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import open_store
from pcace_dist.worker.evaluation.evaluator import AblationTask, Case, EvaluationSpec, Profiled
from pcace_dist.worker.spec import WorkSpec
from pcace_dist.worker.worker import WorkerBody

NO_GRADIENT = "areas have no gradient, which Taylor scores need; watch something else"
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A finished run, checked and ready to be evaluated."""

    preparation: Preparation
    plan: Plan
    receipts: tuple[Receipt, ...]
    evaluation: EvaluationSpec

    @property
    def metadata(self) -> PlanMetadata:
        return PlanMetadata.of(self.plan)


def open_evaluation(
    job: Job, path: str, *, data: str | None, images: int, held_out: tuple[int, ...], watch: TargetSpec | None
) -> Evaluated:
    """Check that the run at `path` can be evaluated with its model, and its data or those of `data`.

    Raises UserError: another model, data that changed, a run on kept codes, a target that is no output.
    """
    storage = storage_of(job)
    store = open_store(path, storage)
    state = Ledger(store).load()
    if state.manifest is None or state.done is None:
        raise OutputError(f"{path}: holds no finished run; see `pcace status {path}`")
    if "check" not in state.manifest or not state.manifest["units"]:
        raise OutputError(f"{path}: is not a run of the model over images; evaluate one that is")
    preparation = prepare(job.model_copy(update={"output": path}), state.manifest)
    if preparation.weights != state.manifest["weights"]:
        raise JobError(f"model.weights {job.model.weights}: changed since {path} was ranked; evaluate a newer run")
    code = state.manifest.get("code")  # None: a library's, a notebook's, or not recorded
    if code is not None and code != preparation.identity.code:
        raise JobError(
            f"model.factory {job.model.factory}: its code changed since {path} was ranked; evaluate a newer run"
        )
    if state.manifest.get("prototypes", {}) != preparation.identity.prototypes:
        raise JobError(f"target cosine: its file of vectors changed since {path} was ranked; evaluate a newer run")
    units = [Unit.from_json(unit) for unit in state.manifest["units"]]
    check_unchanged(units, preparation.listing)
    plan = read_plan(store, state.manifest["plan"])
    spec = replace(preparation.spec, dataset=replace(preparation.spec.dataset, keep=False))
    if watch is not None:
        watch = _checked_watch(watch, spec, PlanMetadata.of(plan).outputs)
        spec = replace(spec, reduction=_reduction(spec.reduction, watch))
    elsewhere = None
    if data is not None:
        read = replace(spec.dataset, path=[absolute(data)], image=job.dataset.image, id=job.dataset.id)
        read = replace(read, images_below=None, partitions=None)
        opened = open_any(read, storage, path, given_classes(job, storage))
        elsewhere = opened.listing
        spec = replace(spec, dataset=replace(opened.dataset, partitions=elsewhere.partitions))
    outputs = PlanMetadata.of(plan).outputs
    for used_storage in (storage, spec.storage):
        used_storage.patience.begin()
    evaluation = EvaluationSpec(
        listing=_of_run(preparation.listing, units),
        elsewhere=elsewhere,
        images=images,
        held_out=() if elsewhere is not None else held_out,
        targets=tuple(_watched(target, watch, outputs) for target in spec.targets),
    )
    return Evaluated(
        replace(preparation, spec=spec, shared_model=None), plan, tuple(state.accepted_receipts()), evaluation
    )


def _of_run(listing: Listing, units: Sequence[Unit]) -> Listing:
    """The files that the run has read, without those that came later."""
    keys = {row_group.key for unit in units for row_group in unit.row_groups}
    return Listing(tuple(file for file in listing.files if file.key in keys), listing.schema)


def _checked_watch(watch: TargetSpec, spec: WorkSpec, outputs: int) -> TargetSpec:
    """What `--watch` names, as the run has it where it is one of its targets. Raises JobError."""
    own = next((target for target in spec.targets if target.name == watch.name), None)
    if own is None and (watch.kind in ("column", "cosine") or watch.largest_index >= outputs):
        raise JobError(f"--watch {watch.name}: is none of the model's {outputs} outputs; for example output:0")
    if not watch.differentiable:
        raise JobError(f"--watch {watch.name}: {NO_GRADIENT}, for example {_of_mean(watch)}")
    if watch.needs_label and spec.dataset.label is None:
        raise JobError(f"--watch {watch.name}: needs the class of each image, and the job names no dataset.label")
    return own or watch


def _watched(target: TargetSpec, watch: TargetSpec | None, outputs: int) -> TargetSpec:
    """The target that is watched. A column of the data never changes, so that an output takes its place."""
    if watch is not None:
        return watch
    if target.differentiable:
        return target
    if target.of_outputs:
        raise JobError(f"target {target.name}: {NO_GRADIENT}, for example --watch {_of_mean(target)}")
    if outputs > 1:
        raise JobError(
            f"target {target.name}: is no output of the model, which has {outputs}; say which to watch, for example "
            "--watch output:0"
        )
    return TargetSpec("output", 0)


def _of_mean(target: TargetSpec) -> str:
    return replace(target, reduction=Reduction(MEAN)).name


def _reduction(of_job: Reduction | None, watch: TargetSpec) -> Reduction | None:
    """How outputs with positions are reduced for what is watched."""
    if watch.reduction is not None:
        return replace(watch.reduction, axis=None if of_job is None else of_job.axis)
    if of_job is not None and of_job.required:
        raise JobError(f"--watch {watch.name}: the model's outputs have positions; write {watch.name}:mean")
    return of_job


class Evaluating:
    """Gives an executor the tasks of one evaluation. Made by `evaluating`."""

    def __init__(
        self, evaluated: Evaluated, executor: Executor, display: RunDisplay, stopping: Callable[[], bool]
    ) -> None:
        self._evaluated = evaluated
        self._executor = executor
        self._display = display
        self._stopping = stopping
        self._digest = evaluated.plan.digest
        self._patience = patience_of(evaluated.preparation.job)

    def ranked(self) -> list[BlockScores]:
        """Scores of all blocks without the held folds."""
        run = self._evaluated
        tasks = [
            Task.of(WorkerBody.rank_without, self._digest, block, run.receipts, run.evaluation.held_out)
            for block in blocks_of(run.plan)
        ]
        try:
            return self._map(tasks, "ranking")
        except CorruptAttempt as corrupt:
            path = run.preparation.job.output
            raise OutputError(f"{path}: attempt {corrupt.attempt}: {corrupt.reason}; rank it anew") from None

    def profiles(self, cases: Sequence[Case]) -> list[Profiled]:
        tasks = [Task.of(WorkerBody.profile, self._digest, self._evaluated.evaluation, case) for case in cases]
        return self._map(tasks, "profiles")

    def untouched(self, cases: Sequence[Case]) -> list[Effect]:
        tasks = [Task.of(WorkerBody.untouched, self._digest, self._evaluated.evaluation, case) for case in cases]
        return self._map(tasks, "untouched")

    def ablated(self, tasks: Sequence[AblationTask], images: int) -> list[list[Effect]]:
        """Effects of every task. `images`: how many all tasks forward, for the progress."""
        evaluation = self._evaluated.evaluation
        ablations = [Task.of(WorkerBody.ablate, self._digest, evaluation, ablation) for ablation in tasks]
        return self._map(ablations, "ablation", images)

    def _map(self, tasks: Sequence[Task[R]], stage: str, images: int = 0) -> list[R]:
        before = sum(self._executor.images_seen_by().values())

        def tick() -> None:
            done = sum(self._executor.images_seen_by().values()) - before
            shown_stage = stage if self._executor.up else "starting workers"
            up = len(self._executor.up)
            waits_for = "" if up else self._patience.waits_for(0, 0, len(self._executor.members))
            self._display.show(Tally(shown_stage, min(done, images), images, up, waits_for=waits_for))

        return map_tasks(self._executor, tasks, LoopControl(self._patience, self._stopping, tick))


@contextlib.contextmanager
def evaluating(evaluated: Evaluated) -> Iterator[Evaluating]:
    """Workers for an evaluation, as the run's job wants them; on Ray, unless PCACE_EXECUTOR says otherwise."""
    spec, job = evaluated.preparation.spec, evaluated.preparation.job
    kind = wanted_executor(job) or ExecutorKind.RAY
    if kind == ExecutorKind.THREADS:
        check_threads(job.workers)
    session = ray_session() if kind == ExecutorKind.RAY else contextlib.nullcontext()
    with interruptible() as interrupt, session, RunDisplay() as display:
        interrupt.install()
        with open_executor(kind, spec, WorkerShape.of(job.workers), prefix="v") as executor:
            yield Evaluating(evaluated, executor, display, interrupt.is_set)
