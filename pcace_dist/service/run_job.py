"""Running a job: what `pcace rank` does, around the coordinator.

A finished run gives its recorded code at once; an output that holds another job is refused; SIGTERM and SIGINT become a
flush and exit code 5.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pcace_dist import logs
from pcace_dist.errors import JobError, OutputError, Stopped, TakenOver
from pcace_dist.job import Job, read_job
from pcace_dist.places import storage_of
from pcace_dist.service.account import Account
from pcace_dist.service.cluster import check_address, ray_session
from pcace_dist.service.codes_run import CodesPreparation, CodesRun, prepare_from_codes
from pcace_dist.service.coordinator import Coordinator
from pcace_dist.service.interrupt import interruptible
from pcace_dist.service.keeper import LeaseKeeper
from pcace_dist.service.lease import Lease, LeaseObserver, ProcessProbe
from pcace_dist.service.ledger import Ledger, RunState
from pcace_dist.service.progress import Display, display_for
from pcace_dist.service.publish import publish_summary, read_summary
from pcace_dist.service.store import Store, open_store, probe

if TYPE_CHECKING:
    from pcace_dist.service.prepare import Preparation

log = logging.getLogger(__name__)

DIGESTED = {"model.weights", "layers"}  # may be written differently and mean the same: the fingerprint decides


def run_job(job: Job, *, display: Display | None = None, take_over: bool = False) -> int:
    """Run or resume a job; the exit code (0 or 4). Raises UserError, Stopped, TakenOver.

    Ray is joined (RAY_ADDRESS) or started locally and left again; a small run is done by threads of this process on its
    first start, unless RAY_ADDRESS is set (together.py). A run that another living driver holds is refused,
    with `take_over` it is taken from it.
    """
    store = open_store(job.output, storage_of(job))
    logs.set_run(store.url)
    ledger = Ledger(store)
    state = ledger.load()
    recorded = _recorded_job(store)
    if state.done is not None and recorded is not None and not _differences(recorded, job):
        return _recorded_outcome(store, state.done)
    _refuse_foreign(store, job, recorded, state)
    check_address()
    began = time.monotonic()
    from_codes = prepare_from_codes(job)
    preparation = from_codes or _prepare(job)
    before = {"prepare": time.monotonic() - began}
    _refuse_changed(store, preparation, state.manifest)
    if state.done is not None:
        return _recorded_outcome(store, state.done)
    if not take_over:
        _refuse_held(store, ledger)
    preparation = _here_or_on_ray(preparation, first=state.epoch == 0)
    local = preparation.local
    session = contextlib.nullcontext() if local else ray_session()
    began = time.monotonic()
    with interruptible() as asked, session, display or display_for() as shown:
        before |= {} if local else {"ray": time.monotonic() - began}
        probe(store)
        asked.install()
        _open(store, ledger, take_over=take_over)
        store.put("job.yaml", job.to_yaml().encode())
        account = Account(store, ledger, shown, preparation.fingerprint, on_ray=not local)
        account.seconds.update(before)
        with LeaseKeeper(Lease(store, ledger.epoch)) as keeper:
            coordinator = _coordinator(preparation, store, ledger, account, stopping=asked.is_set, check=keeper.check)
            try:
                return coordinator.run()
            except TakenOver:
                raise  # the run is another's now: not one byte more
            except Stopped:
                account.write("stopped", Stopped.exit_code)
                raise


def _recorded_outcome(store: Store, done: dict[str, Any]) -> int:
    """A finished run's code. Its driver may have died between `done` and summary.json: then the summary follows now."""
    summary, code = done.get("summary"), int(done["exit_code"])
    if summary is not None and (there := read_summary(store)).get("exit_code") != code:
        log.info("summary.json says %s: written anew from the ledger", there.get("outcome", "nothing"))
        publish_summary(store, summary)
    return code


def _prepare(job: Job) -> Preparation:
    from pcace_dist.service.prepare import prepare  # imports the model's libraries, which kept codes do without

    return prepare(job)


def _here_or_on_ray(preparation: Preparation | CodesPreparation, *, first: bool) -> Preparation | CodesPreparation:
    """A run of the model is for Ray where a driver has begun it already: what ended that one may be a row, and a worker
    that it ends is only one of many."""
    if isinstance(preparation, CodesPreparation) or first:
        return preparation
    return replace(preparation, together=None)


def _coordinator(
    preparation: Preparation | CodesPreparation,
    store: Store,
    ledger: Ledger,
    account: Account,
    *,
    stopping: Callable[[], bool],
    check: Callable[[], None],
) -> Coordinator[Any]:
    """The kind of run that this job is."""
    if isinstance(preparation, CodesPreparation):
        account.from_codes = preparation.kept.url
        return CodesRun(preparation, store, ledger, account, stopping=stopping, check=check)
    from pcace_dist.service.model_run import ModelRun

    return ModelRun(preparation, store, ledger, account, stopping=stopping, check=check)


def _refuse_held(store: Store, ledger: Ledger) -> None:
    """Wait until it is known whether the driver that opened the run last still lives; refuse if it does."""
    verdict = LeaseObserver(store, ledger.load()).wait()
    if not verdict.may_take:
        raise OutputError(
            f"output {store.url}: is held by {verdict.who} since {verdict.since}; wait for it, stop it, or take "
            "the run over with --take-over"
        )


def _open(store: Store, ledger: Ledger, *, take_over: bool) -> None:
    """Take the run. Where another driver was a moment quicker, it is the holder: exit code 2 and its name."""
    try:
        ledger.open(ProcessProbe().this_process().to_json())
    except TakenOver:
        if not take_over:
            _refuse_held(store, Ledger(store))
        raise


def _recorded_job(store: Store) -> Job | None:
    data = store.get("job.yaml")
    try:
        return None if data is None else read_job(data.decode(), name=f"{store.url}/job.yaml")
    except JobError:
        return None


def _differences(one: Job, other: Job) -> list[str]:
    """Keys in which two jobs differ, of those that the result depends on."""
    first, second = (_leaves(job.dependent()).items() for job in (one, other))
    return [key for key, _ in sorted(first ^ second)]


def _leaves(tree: object, prefix: str = "") -> dict[str, str]:
    if isinstance(tree, dict) and tree:
        merged: dict[str, str] = {}
        for key, value in tree.items():
            merged |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
        return merged
    return {prefix: repr(tree)}


def _refuse_foreign(store: Store, job: Job, recorded: Job | None, state: RunState) -> None:
    """An output belongs to one job, from the moment that the job's manifest is recorded."""
    if state.epoch == 0 and recorded is None and store.list(""):
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
    if manifest is None or manifest["fingerprint"] == preparation.fingerprint:
        return
    what = "model.weights: the weights have" if manifest["weights"] != preparation.weights else "the job has"
    raise OutputError(f"{what} changed since the run in {store.url} began; use another output")
