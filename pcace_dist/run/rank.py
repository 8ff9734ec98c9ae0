"""Running a job: what `pcace rank` does, around the coordinator.

A finished run gives its recorded code at once; an output that holds another job is refused; SIGTERM and SIGINT become a
flush and exit code 5.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pcace_dist.artifacts.attempt import attempts_with_bad
from pcace_dist.artifacts.checked import Damaged, parsing
from pcace_dist.artifacts.done import recorded_job
from pcace_dist.artifacts.reading.data_reading import IMAGE_LIST
from pcace_dist.artifacts.summary import publish_summary, read_summary
from pcace_dist.config.job import Job, read_job
from pcace_dist.config.lasting import refuse_temporary
from pcace_dist.config.resolve import storage_of
from pcace_dist.datasets.formats import kind_of_name
from pcace_dist.datasets.listing import would_list
from pcace_dist.errors import JobError, OutputError, Stopped, StoreUnavailable, TakenOver, UserError
from pcace_dist.executors.choice import ExecutorKind, wanted_executor
from pcace_dist.executors.ray_session import check_address, ray_session
from pcace_dist.executors.signals import interruptible
from pcace_dist.ledger.lease import Lease, LeaseObserver, ProcessProbe
from pcace_dist.ledger.lease_keeper import LeaseKeeper
from pcace_dist.ledger.ledger import Ledger, RunState
from pcace_dist.progress import logs
from pcace_dist.progress.display import RunDisplay
from pcace_dist.progress.terminal import local_time
from pcace_dist.run.codes_run import CodesPreparation, CodesRun, prepare_from_codes
from pcace_dist.run.coordinator import Coordinator
from pcace_dist.run.republish import write_anew
from pcace_dist.run.run_stats import RunStats
from pcace_dist.storage.store import Store, hasty, open_store, probe

if TYPE_CHECKING:
    from pcace_dist.executors.ray_executor import EarlyWorkers
    from pcace_dist.run.early import Early
    from pcace_dist.run.prepare import Preparation

log = logging.getLogger(__name__)

# what a driver that ended before the run was opened may have left
_LISTED_IMAGES = re.compile(rf"{IMAGE_LIST}(\.tmp-\d+)?")

# may be written differently and mean the same: the fingerprint decides, and the manifest's names of classes
DIGESTED = {"model.weights", "layers", "dataset.classes"}


def run_job(
    job: Job,
    *,
    display: RunDisplay | None = None,
    early: Early | None = None,
    take_over: bool = False,
    retry_bad: str | None = None,
    tell: Callable[[str], None] = log.info,
) -> int:
    """Run or resume a job; the exit code (0 or 4). Raises UserError, Stopped, TakenOver, StoreUnavailable.

    `retry_bad`: a stage of bad_rows.parquet; units that hold such rows are done again, in a finished run too, which is
    then published anew.

    early: workers on Ray that are on their way (run/early.py). tell: called with a line for the user, only if the run
    was finished before.

    Ray is joined (RAY_ADDRESS) or started locally and left again; a small run is done by threads of this process on its
    first start, unless RAY_ADDRESS is set (worker/shared_model.py). PCACE_EXECUTOR chooses otherwise. A run that
    another living driver holds is refused, with `take_over` it is taken from it.
    """
    with display or RunDisplay() as run_display:
        run_display.prepare()
        return _run_job(job, run_display, early, take_over=take_over, retry_bad=retry_bad, tell=tell)


def _run_job(
    job: Job,
    run_display: RunDisplay,
    early: Early | None,
    *,
    take_over: bool,
    retry_bad: str | None,
    tell: Callable[[str], None],
) -> int:
    chosen = wanted_executor(job)
    refuse_temporary(job)
    storage = storage_of(job)
    store = open_store(job.output, storage)
    logs.set_run(store.url)
    ledger = Ledger(store)
    state = ledger.load()
    recorded = _recorded_job(store, state)
    to_redo = () if retry_bad is None else attempts_with_bad(store, state.accepted_receipts(), retry_bad)
    if retry_bad is not None and not to_redo:
        log.info("%s: no attempt has set rows aside at the stage %s: nothing is done again", store.url, retry_bad)
    if state.done is not None and not to_redo and recorded is not None and not _differences(recorded, job):
        _refuse_other_model(store, job, state.manifest)
        return _recorded_outcome(store, state, tell)
    _refuse_foreign(store, job, recorded, state)
    if chosen in (None, ExecutorKind.RAY):
        check_address()
    began = time.monotonic()
    from_codes = prepare_from_codes(job)
    if from_codes is None and state.epoch == 0:
        _refuse_overlap(job)
    preparation = from_codes or _prepare(job, state.manifest)
    before = {"prepare": time.monotonic() - began}
    _refuse_changed(store, preparation, state.manifest)
    if state.done is not None and not to_redo:
        return _recorded_outcome(store, state, tell)
    if not take_over:
        _refuse_held(store, ledger)
    if chosen is None:
        preparation = _here_or_on_ray(preparation, first=state.epoch == 0)
    on_ray = preparation.executor == ExecutorKind.RAY
    session = ray_session() if on_ray else contextlib.nullcontext()
    began = time.monotonic()
    with interruptible() as interrupt, session:
        before |= {"ray": time.monotonic() - began + (early.seconds if early else 0.0)} if on_ray else {}
        probe(store)
        interrupt.install()
        for used_storage in (storage, preparation.spec.storage):
            used_storage.patience.begin(interrupt.event)
        _open(store, ledger, take_over=take_over, to_redo=to_redo)
        store.put("job.yaml", preparation.job.to_yaml().encode())
        stats = RunStats(store, ledger, run_display, preparation.fingerprint, preparation.executor)
        stats.seconds.update(before)
        with LeaseKeeper(Lease(hasty(store), ledger.epoch)) as keeper:
            watch: dict[str, Any] = {"stopping": interrupt.is_set, "check": keeper.check}
            workers = None if early is None else early.workers
            coordinator = _coordinator(preparation, store, ledger, stats, workers, **watch)
            try:
                return coordinator.run()
            except TakenOver:
                raise  # the run is another's now: not one byte more
            except (Stopped, StoreUnavailable):
                interrupt.event.set()  # from here on nothing is waited for
                with contextlib.suppress(StoreUnavailable):  # it may be what has ended the run
                    stats.write("stopped", Stopped.exit_code)
                raise


def look_at_output(job: Job) -> str | None:
    """What the output holds of this job, in words; None where it holds nothing. Raises UserError where `run_job` would
    refuse it. Writes nothing."""
    store = open_store(job.output, storage_of(job))
    state = Ledger(store).load()
    _refuse_foreign(store, job, _recorded_job(store, state), state)
    if state.epoch == 0:
        _refuse_overlap(job)
        return None
    return "a finished run of this job: `pcace rank` has nothing to do" if state.done else "a run that can be resumed"


def _recorded_outcome(store: Store, state: RunState, tell: Callable[[str], None]) -> int:
    """A finished run's exit code. Damaged files are written anew; so is summary.json where the driver died after `done`
    and before it was written."""
    done = state.done or {}
    with parsing(f"{store.url}/ledger"):
        code, anew = int(done["exit_code"]), write_anew(store, state)
    if "files" not in done and done.get("summary") is not None and _old_summary(store) != done["exit_code"]:
        publish_summary(store, done["summary"])
        anew = ["summary.json"]
    doing = f"{', '.join(anew)} written anew from what it recorded" if anew else "nothing to do"
    ended = f" with exit code {code}" if code else ""
    tell(f"already finished on {local_time(state.finished_at or 0.0)}{ended}, {doing}")
    return code


def _old_summary(store: Store) -> object:
    """The exit code that summary.json of a run of version 0.1.0 has; None where it cannot be read."""
    try:
        return read_summary(store).get("exit_code")
    except Damaged:
        return None


def _refuse_overlap(job: Job) -> None:
    """What a run writes must never be taken for data."""
    for path in job.dataset.path:
        if would_list(path, f"{job.output}/bad_rows.parquet"):
            raise OutputError(
                f"output {job.output}: lies inside dataset.path {path}, so that a later run would take its files for "
                "data; use an output elsewhere"
            )
        if would_list(job.output, path if kind_of_name(path) == "parquet" else f"{path.rstrip('/')}/data.parquet"):
            raise OutputError(
                f"output {job.output}: dataset.path {path} lies inside it, among the files of the run; use an output "
                "elsewhere"
            )


def _prepare(job: Job, manifest: Mapping[str, Any] | None) -> Preparation:
    from pcace_dist.run.prepare import prepare  # imports the model's libraries, which kept codes do without

    return prepare(job, manifest)


def _here_or_on_ray(preparation: Preparation | CodesPreparation, *, first: bool) -> Preparation | CodesPreparation:
    """A model run that another driver has begun goes on with Ray: an image may have ended that driver, and on Ray the
    same image ends one worker only."""
    if isinstance(preparation, CodesPreparation) or first:
        return preparation
    return replace(preparation, executor=ExecutorKind.RAY, shared_model=None)


def _coordinator(
    preparation: Preparation | CodesPreparation,
    store: Store,
    ledger: Ledger,
    stats: RunStats,
    early: EarlyWorkers | None,
    *,
    stopping: Callable[[], bool],
    check: Callable[[], None],
) -> Coordinator[Any]:
    """The kind of run that this job is."""
    if isinstance(preparation, CodesPreparation):
        stats.from_codes = preparation.kept_codes.url
        return CodesRun(preparation, store, ledger, stats, stopping=stopping, check=check, early=early)
    from pcace_dist.run.model_run import ModelRun

    stats.files_left_out = preparation.listing.left_out
    stats.layers_left_out = preparation.identity.left_out
    return ModelRun(preparation, store, ledger, stats, stopping=stopping, check=check, early=early)


def _refuse_held(store: Store, ledger: Ledger) -> None:
    """Wait until it is known whether the driver that opened the run last still lives; refuse if it does."""
    lease = LeaseObserver(store, ledger.load()).wait()
    if not lease.may_take:
        raise OutputError(
            f"output {store.url}: is held by {lease.who} since {lease.since}; wait for it, stop it, or take "
            "the run over with --take-over"
        )


def _open(store: Store, ledger: Ledger, *, take_over: bool, to_redo: Sequence[str] = ()) -> None:
    """Take the run and retract the attempts `to_redo`.

    Where another driver was a moment quicker, it holds the run: exit code 2, with its name.
    """
    holder, reason = ProcessProbe().this_process().to_json(), "asked for by --retry-bad"
    try:
        if to_redo and ledger.state.done is not None:
            ledger.reopen(holder, to_redo, reason)
            return
        ledger.open(holder)
        accepted = {receipt.attempt for receipt in ledger.state.accepted_receipts()}
        if retracted := [attempt for attempt in to_redo if attempt in accepted]:
            ledger.append("retract", {"attempts": retracted, "reason": reason})
    except TakenOver:
        if not take_over:
            _refuse_held(store, Ledger(store))
        raise


def _recorded_job(store: Store, state: RunState) -> Job | None:
    """The job that an output holds, from the ledger where that knows it; None where it cannot be read."""
    try:
        text = recorded_job(store, state)
        return None if text is None else read_job(text, name=f"{store.url}/job.yaml")
    except (JobError, Damaged):
        return None


def _differences(recorded: Job, job: Job) -> list[str]:
    """Keys in which a job differs from the recorded one, of those that the result depends on.

    Keys that the model is to say (model.input: auto) are compared later, by the fingerprint.
    """
    leaves, recorded_leaves = (_leaves(one.dependent()).items() for one in (job.filled_from(recorded), recorded))
    return [key for key, _ in sorted(leaves ^ recorded_leaves)]


def _leaves(tree: object, prefix: str = "") -> dict[str, str]:
    if isinstance(tree, dict) and tree:
        merged: dict[str, str] = {}
        for key, value in tree.items():
            merged |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
        return merged
    return {prefix: repr(tree)}


def _refuse_foreign(store: Store, job: Job, recorded: Job | None, state: RunState) -> None:
    """An output belongs to one job, from the moment that the job's manifest is recorded."""
    if state.epoch == 0 and recorded is None and not all(map(_LISTED_IMAGES.fullmatch, store.list(""))):
        raise OutputError(f"output {job.output}: is not empty and holds no run; use another output")
    if state.manifest is None or recorded is None:
        return
    different = [key for key in _differences(recorded, job) if key not in DIGESTED]
    if different:
        raise OutputError(
            f"output {job.output}: holds another job (it differs in {different[0]}); "
            "use another output or go on with that job"
        )


def _refuse_changed(
    store: Store, preparation: Preparation | CodesPreparation, manifest: dict[str, object] | None
) -> None:
    if manifest is None or preparation.is_of(manifest["fingerprint"]):
        return
    changed = "model.weights: the weights have" if manifest["weights"] != preparation.weights else "the job has"
    raise OutputError(f"{changed} changed since the run in {store.url} began; use another output")


def _refuse_other_model(store: Store, job: Job, manifest: dict[str, Any] | None) -> None:
    """Refuse a finished run whose model computes something else today: its ranking is not that of this model.

    Where the model cannot be loaded any more, there is nothing to compare: a warning says so, and the recorded outcome
    stands.
    """
    if manifest is None or prepare_from_codes(job) is not None:
        return
    from pcace_dist.run.prepare import identify

    try:
        today = identify(job)
    except UserError as error:
        log.warning("the model cannot be compared with the run's: %s", error)
        return
    if not today.is_of(manifest["fingerprint"]):
        changed = "model.weights: the weights have" if today.weights != manifest["weights"] else "the model's code has"
        if today.prototypes != manifest.get("prototypes", {}):
            changed = "target cosine: the file of vectors has"
        raise OutputError(f"{changed} changed since the run in {store.url} was made; use another output")
