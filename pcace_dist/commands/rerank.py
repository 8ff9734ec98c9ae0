"""`pcace rerank`: one tick of a schedule. If anything is new: rank, compare with the last run, publish.

    what is there? -> lock -> run (or go on with it) -> compare -> history -> report -> hooks -> latest.json -> prune

The next tick goes on where a tick died, and latest.json always names a complete run. Only hooks may be called twice.
Joins runs and their schedule (run/, schedule.py) with the comparison (analysis/).
"""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pcace_dist.analysis.compare import Comparison, ComparisonSettings, compare_runs
from pcace_dist.analysis.history import Entry
from pcace_dist.analysis.publish import write_comparison
from pcace_dist.analysis.thresholds import Thresholds, drift
from pcace_dist.artifacts.checked import parsing
from pcace_dist.artifacts.run import Run
from pcace_dist.commands.hooks import ALL_THE_SAME, Hooks, call_hooks
from pcace_dist.commands.schedule import RUNS, Pointer, Schedule, ScheduleLock, lock, pointer_to
from pcace_dist.config.job import Job, read_job
from pcace_dist.config.lasting import refuse_temporary
from pcace_dist.config.resolve import storage_of
from pcace_dist.datasets.units import data_digest, listed_row_groups
from pcace_dist.errors import OutputError, PcaceError
from pcace_dist.progress import logs
from pcace_dist.run.identity import Identity
from pcace_dist.run.prepare import prepare
from pcace_dist.run.rank import run_job
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import Store, open_store

log = logging.getLogger(__name__)

DRIFT = 3


@dataclass(frozen=True)
class Options:
    """Settings of a tick besides its job. keep: published runs whose folders stay; extend: where only data came or
    went, compute only that; report: write report.html."""

    settings: ComparisonSettings = field(default_factory=ComparisonSettings)
    thresholds: Thresholds = field(default_factory=Thresholds)
    hooks: Hooks = field(default_factory=Hooks)
    keep: int = 10
    extend: bool = True
    report: bool = False
    take_over: bool = False


@dataclass(frozen=True)
class RunIdentity:
    """What identifies a run that is made now: job, weights and data. extendable: its data are Parquet files."""

    identity: Identity
    data: str
    extendable: bool

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint

    @property
    def weights(self) -> str:
        return self.identity.weights

    @property
    def key(self) -> str:
        """Name of job, weights and data together."""
        return hashlib.sha256(f"{self.fingerprint} {self.data}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Outcome:
    """What a tick did: the exit code, the published entry (None where nothing was new) and the comparison."""

    exit_code: int
    entry: Entry | None
    comparison: Comparison | None


def rerank(job: Job, options: Options | None = None) -> Outcome:
    """One tick. Raises UserError, Stopped (Busy when another tick is at work), as `run_job` does."""
    options = options or Options()
    refuse_temporary(job)
    storage = storage_of(job)
    store = open_store(job.output, storage)
    _refuse_plain_run(store, job)
    current = _current(job)
    latest = Schedule(store).latest()
    if _is_published(latest, current) and not latest.damaged:
        return Outcome(0, None, None)
    with lock(store, storage, take_over=options.take_over) as tick:
        before = tick.latest()
        if before.damaged:
            log.warning("%s/latest.json: could not be read; it is written anew from the history", store.url)
            tick.publish(before.content or {}, before)
            before = tick.latest()
        if _is_published(before, current):  # another tick was faster
            return Outcome(0, None, None)
        return _work(job, current, before, tick, storage, options)


def _work(
    job: Job, current: RunIdentity, before: Pointer, tick: ScheduleLock, storage: Storage, options: Options
) -> Outcome:
    name = _folder(tick, current)
    run = f"{RUNS}{name}"
    planned = _with_base(job, before, current, storage, options).model_copy(update={"output": f"{job.output}/{run}"})
    begun = _as_begun(tick, name, planned)
    tick.begin(name)
    code = run_job(begun)
    tick.check()
    after = Run(f"{job.output}/{run}", storage)
    compared = _compare(before, after, job.output, storage, options)
    reasons = [] if compared is None else drift(compared, options.thresholds)
    entry = _entry(run, current, before, after, compared, reasons, DRIFT if reasons else code)
    entry = _recorded(tick, entry)
    if options.report:
        _write_report(after)
    if reasons:
        content = asdict(entry) | {"path": after.path, "comparison": f"{after.path}/comparison.json"}
        call_hooks(options.hooks, content)
    tick.publish(pointer_to(asdict(entry)), before)
    _prune(tick, entry, options.keep)
    return Outcome(entry.exit_code, entry, compared)


# -- what is there


def _current(job: Job) -> RunIdentity:
    with tempfile.TemporaryDirectory(prefix="pcace-rerank-") as scratch:
        preparation = prepare(job, place=scratch)
    digest = data_digest(listed_row_groups(preparation.listing))
    return RunIdentity(preparation.identity, digest, preparation.reading.images is None)


def _is_published(latest: Pointer, current: RunIdentity) -> bool:
    return current.identity.is_of(latest["fingerprint"]) and bool(latest["data"] == current.data)


def _refuse_plain_run(store: Store, job: Job) -> None:
    if store.get("job.yaml") is not None:
        raise OutputError(f"output {job.output}: holds a run of `pcace rank`; give the schedule an output of its own")


def _folder(tick: ScheduleLock, current: RunIdentity) -> str:
    """The folder of a run of the same key, finished or not, else a new one that begins with the date."""
    same_key = [name for name in tick.runs() if name.endswith(f"-{current.key}")]
    return same_key[-1] if same_key else f"{datetime.now(UTC):%Y-%m-%d}-{current.key}"


def _with_base(job: Job, before: Pointer, current: RunIdentity, storage: Storage, options: Options) -> Job:
    """The job of the run. Where only data came or went, it extends the last published run: only new files are computed.

    Not where that run said that the data leave its plan's range: then a new plan is made.
    """
    chosen = job.extend is not None or job.statistics.plan is not None or job.stop is not None
    same_job = current.identity.is_of(before["fingerprint"]) and before["weights"] == current.weights
    if not (options.extend and same_job and current.extendable and not chosen):
        return job
    base = f"{job.output}/{before['run']}"
    advice = (Run(base, storage).summary.get("drift") or {}).get("advice")
    if advice is not None:
        log.warning("the last run said: %s", advice)
        return job
    return job.model_copy(update={"extend": base})


def _as_begun(tick: ScheduleLock, name: str, planned: Job) -> Job:
    """The job for a folder that may be there already.

    Data or weights may go back to what they were: a complete run keeps its `extend`. An unfinished run that began with
    another `extend` is removed and starts anew.
    """
    run = f"{RUNS}{name}"
    data = tick.store.get(f"{run}/job.yaml")
    if data is None:
        return planned
    with parsing(f"{tick.store.url}/{run}/job.yaml"):
        begun = read_job(data.decode(), name=f"{run}/job.yaml")
    if tick.finished(name):
        return planned.model_copy(update={"extend": begun.extend})
    if begun.extend != planned.extend and not tick.remove(name):
        raise OutputError(f"output {tick.store.url}/{run}: holds an unfinished run of another extension; move it away")
    return planned


# -- what it says


def _compare(before: Pointer, after: Run, output: str, storage: Storage, options: Options) -> Comparison | None:
    """Compare with the last published run and write the comparison beside the new one; None for the first."""
    if before.content is None:
        return None
    previous = Run(f"{output}/{before['run']}", storage)
    comparison = compare_runs(previous, after, options.settings)
    write_comparison(comparison, after.path, storage)
    return comparison


def _write_report(after: Run) -> None:
    """report.html of the new run, with its schedule. A report that fails is a warning: the ranking is good."""
    from pcace_dist.reporting.build import build_report
    from pcace_dist.reporting.options import ReportOptions

    try:
        build_report(after.path, ReportOptions(synthesis=False))
    except (PcaceError, OSError) as error:
        logs.say(f"report: {error}; {ALL_THE_SAME}", prefix="pcace rerank: ", level=logging.WARNING)


def _entry(
    run: str,
    current: RunIdentity,
    before: Pointer,
    after: Run,
    compared: Comparison | None,
    reasons: list[str],
    code: int,
) -> Entry:
    summary, weights = after.summary, after.manifest()["weights"]
    against_previous: dict[str, Any] = {}
    if compared is not None:
        against_previous = {"previous": before["run"], "verdict": compared.verdict, "drift": tuple(reasons)}
        if compared.verdict != "not comparable":
            overall, counts = compared.overall, compared.counts
            known = {name: overall[name] for name in ("kendall", "overlap") if math.isfinite(overall[name])}
            against_previous |= known  # JSON has no NaN
            against_previous |= {"moved": counts["moved"], "judged": counts["judged"]}
    return Entry(
        n=0,
        run=run,
        published=datetime.now(UTC).isoformat(timespec="seconds"),
        why=_why(before, current),
        # of the job as written, not of the run, which may extend another; unless the weights changed meanwhile
        fingerprint=current.fingerprint if weights == current.weights else summary["fingerprint"],
        weights=weights,
        data=summary["data"],
        images=summary["images"],
        exit_code=code,
        **against_previous,
    )


def _why(before: Pointer, current: RunIdentity) -> str:
    if before.content is None:
        return "first run"
    news = []
    if before["weights"] != current.weights:
        news.append("new weights")
    elif not current.identity.is_of(before["fingerprint"]):
        news.append("another job")
    if before["data"] != current.data:
        news.append("other data")
    return ", ".join(news)


def _recorded(tick: ScheduleLock, entry: Entry) -> Entry:
    """Record the entry, unless a tick that died before it moved the pointer has done so."""
    entries = tick.entries()
    if entries and (entries[-1]["run"], entries[-1]["previous"]) == (entry.run, entry.previous):
        with parsing(f"{tick.store.url}/history"):
            return Entry.from_json(entries[-1])
    number = tick.record(asdict(entry))
    return Entry.from_json(asdict(entry) | {"n": number})


def _prune(tick: ScheduleLock, entry: Entry, keep: int) -> None:
    """Remove the folders of all runs but the last `keep` published ones and this one. Folders that this schedule has
    not made stay."""
    published = list(dict.fromkeys(published_entry["run"] for published_entry in reversed(tick.entries())))
    kept_runs = {entry.run, *published[: max(1, keep)]}
    for name in tick.runs():
        if f"{RUNS}{name}" not in kept_runs and tick.remove(name):
            log.info("%s was removed: the last %d published runs are kept", name, keep)
