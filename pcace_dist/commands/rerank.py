"""`pcace rerank`: one tick of a schedule. Nothing new: nothing is done. Else: rank, compare with the last, publish.

    what is there? -> lock -> run (or go on with it) -> compare -> report -> history -> hooks -> latest.json -> prune

A tick that died anywhere is taken up by the next one, and latest.json always names a complete run; hooks alone may be
called twice. Joins runs and their schedule (run/, schedule.py) with the comparison (analysis/).
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pcace_dist.analysis.compare import Comparison, Settings, compare_runs
from pcace_dist.analysis.history import Entry
from pcace_dist.analysis.publish import write_comparison
from pcace_dist.analysis.thresholds import Thresholds, drift
from pcace_dist.artifacts.checked import parsing
from pcace_dist.artifacts.run import Run
from pcace_dist.commands.hooks import ALL_THE_SAME, Hooks, call_hooks
from pcace_dist.commands.schedule import RUNS, Pointer, Schedule, ScheduleLock, lock, pointer_to
from pcace_dist.config.job import Job, read_job
from pcace_dist.config.resolve import storage_of
from pcace_dist.datasets.units import data_digest, row_groups_of
from pcace_dist.errors import OutputError, PcaceError
from pcace_dist.progress import logs
from pcace_dist.run.prepare import Identity, Preparation, prepare
from pcace_dist.run.rank import run_job
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import Store, open_store

log = logging.getLogger(__name__)

DRIFT = 3


@dataclass(frozen=True)
class Options:
    """Settings of a tick besides its job. keep: published runs whose folders stay; extend: where only data came or
    went, compute only that; report: write report.html."""

    settings: Settings = field(default_factory=Settings)
    thresholds: Thresholds = field(default_factory=Thresholds)
    hooks: Hooks = field(default_factory=Hooks)
    keep: int = 10
    extend: bool = True
    report: bool = False
    take_over: bool = False


@dataclass(frozen=True)
class RunIdentity:
    """What identifies a run that is made now: job, weights and data."""

    identity: Identity
    data: str

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
    storage = storage_of(job)
    store = open_store(job.output, storage)
    _refuse_plain_run(store, job)
    now = _now(prepare(job))
    latest = Schedule(store).latest()
    if _is_published(latest, now) and not latest.damaged:
        return Outcome(0, None, None)
    with lock(store, storage, take_over=options.take_over) as tick:
        before = tick.latest()
        if before.damaged:
            log.warning("%s/latest.json: could not be read; it is written anew from the history", store.url)
            tick.publish(before.content or {}, before)
            before = tick.latest()
        if _is_published(before, now):  # another tick was faster
            return Outcome(0, None, None)
        return _work(job, now, before, tick, storage, options)


def _work(
    job: Job, now: RunIdentity, before: Pointer, tick: ScheduleLock, storage: Storage, options: Options
) -> Outcome:
    name = _folder(tick, now)
    run = f"{RUNS}{name}"
    wanted = _with_base(job, before, now, storage, options).model_copy(update={"output": f"{job.output}/{run}"})
    asked = _as_begun(tick, name, wanted)
    tick.begin(name)
    code = run_job(asked)
    tick.check()
    after = Run(f"{job.output}/{run}", storage)
    compared = _compare(before, after, job.output, storage, options)
    if options.report:
        _write_report(after, compared)
    reasons = [] if compared is None else drift(compared, options.thresholds)
    entry = _entry(run, now, before, after, compared, reasons, DRIFT if reasons else code)
    entry = _recorded(tick, entry)
    if reasons:
        content = asdict(entry) | {"path": after.path, "comparison": f"{after.path}/comparison.json"}
        call_hooks(options.hooks, content)
    tick.publish(pointer_to(asdict(entry)), before)
    _prune(tick, entry, options.keep)
    return Outcome(entry.exit_code, entry, compared)


# -- what is there


def _now(preparation: Preparation) -> RunIdentity:
    pieces = (piece for file in preparation.listing.files for piece in row_groups_of(file))
    return RunIdentity(preparation.identity, data_digest(pieces))


def _is_published(latest: Pointer, now: RunIdentity) -> bool:
    return now.identity.is_of(latest["fingerprint"]) and bool(latest["data"] == now.data)


def _refuse_plain_run(store: Store, job: Job) -> None:
    if store.get("job.yaml") is not None:
        raise OutputError(f"output {job.output}: holds a run of `pcace rank`; give the schedule an output of its own")


def _folder(tick: ScheduleLock, now: RunIdentity) -> str:
    """The folder of a run of the same key, finished or not, else a new one that begins with the date."""
    same = [name for name in tick.runs() if name.endswith(f"-{now.key}")]
    return same[-1] if same else f"{datetime.now(UTC):%Y-%m-%d}-{now.key}"


def _with_base(job: Job, before: Pointer, now: RunIdentity, storage: Storage, options: Options) -> Job:
    """The job of the run. Where only data came or went, it extends the last published run: only new files are computed.

    Not where that run said that the data leave its plan's range: then a new plan is due.
    """
    chosen = job.extend is not None or job.statistics.plan is not None or job.stop is not None
    same = now.identity.is_of(before["fingerprint"]) and before["weights"] == now.weights
    if not (options.extend and same and not chosen):
        return job
    base = f"{job.output}/{before['run']}"
    advice = (Run(base, storage).summary.get("drift") or {}).get("advice")
    if advice is not None:
        log.warning("the last run said: %s", advice)
        return job
    return job.model_copy(update={"extend": base})


def _as_begun(tick: ScheduleLock, name: str, wanted: Job) -> Job:
    """The job of a folder that is there already: a complete run stays the extension that it was, when data or weights
    go back to what they were; an unfinished one that began as another extension is removed and starts anew."""
    run = f"{RUNS}{name}"
    data = tick.store.get(f"{run}/job.yaml")
    if data is None:
        return wanted
    with parsing(f"{tick.store.url}/{run}/job.yaml"):
        begun = read_job(data.decode(), name=f"{run}/job.yaml")
    if tick.finished(name):
        return wanted.model_copy(update={"extend": begun.extend})
    if begun.extend != wanted.extend and not tick.remove(name):
        raise OutputError(f"output {tick.store.url}/{run}: holds an unfinished run of another extension; move it away")
    return wanted


# -- what it says


def _compare(before: Pointer, after: Run, output: str, storage: Storage, options: Options) -> Comparison | None:
    """Compare with the last published run and write the comparison beside the new one; None for the first."""
    if before.content is None:
        return None
    previous = Run(f"{output}/{before['run']}", storage)
    found = compare_runs(previous, after, options.settings)
    write_comparison(found, after.path, storage)
    return found


def _write_report(after: Run, compared: Comparison | None) -> None:
    """report.html of the new run, against the last one. A report that fails is a warning: the ranking is good."""
    from pcace_dist.report.build import build_report
    from pcace_dist.report.options import ReportOptions

    against = None if compared is None or compared.verdict == "not comparable" else compared.one.path
    try:
        build_report(after.path, ReportOptions(synthesis=False, against=against))
    except (PcaceError, OSError) as error:
        logs.say(f"report: {error}; {ALL_THE_SAME}", prefix="pcace rerank: ", level=logging.WARNING)


def _entry(
    run: str, now: RunIdentity, before: Pointer, after: Run, compared: Comparison | None, reasons: list[str], code: int
) -> Entry:
    summary, weights = after.summary, after.manifest()["weights"]
    facts: dict[str, Any] = {}
    if compared is not None:
        facts = {"previous": before["run"], "verdict": compared.verdict, "drift": tuple(reasons)}
        if compared.verdict != "not comparable":
            overall, counts = compared.overall, compared.counts
            facts |= {"kendall": overall["kendall"], "overlap": overall["overlap"]}
            facts |= {"moved": counts["moved"], "judged": counts["judged"]}
    return Entry(
        n=0,
        run=run,
        published=datetime.now(UTC).isoformat(timespec="seconds"),
        why=_why(before, now),
        # of the job as written, not of the run, which may extend another; unless the weights changed meanwhile
        fingerprint=now.fingerprint if weights == now.weights else summary["fingerprint"],
        weights=weights,
        data=summary["data"],
        images=summary["images"],
        exit_code=code,
        **facts,
    )


def _why(before: Pointer, now: RunIdentity) -> str:
    if before.content is None:
        return "first run"
    news = []
    if before["weights"] != now.weights:
        news.append("new weights")
    elif not now.identity.is_of(before["fingerprint"]):
        news.append("another job")
    if before["data"] != now.data:
        news.append("other data")
    return ", ".join(news)


def _recorded(tick: ScheduleLock, entry: Entry) -> Entry:
    """Record the entry, unless a tick that died before it moved the pointer has done so."""
    known = tick.entries()
    if known and (known[-1]["run"], known[-1]["previous"]) == (entry.run, entry.previous):
        with parsing(f"{tick.store.url}/history"):
            return Entry.from_json(known[-1])
    number = tick.record(asdict(entry))
    return Entry.from_json(asdict(entry) | {"n": number})


def _prune(tick: ScheduleLock, entry: Entry, keep: int) -> None:
    """Keep the folders of the last `keep` published runs; older ones, and unfinished ones of other keys, go. What this
    schedule has not made is left."""
    published = list(dict.fromkeys(known["run"] for known in reversed(tick.entries())))
    kept = {entry.run, *published[: max(1, keep)]}
    for name in tick.runs():
        if f"{RUNS}{name}" not in kept and tick.remove(name):
            log.info("%s was removed: the last %d published runs are kept", name, keep)
