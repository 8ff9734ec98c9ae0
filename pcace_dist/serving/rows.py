"""What the list says of a run: its state, what it is about, and its best channels."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import pyarrow.compute as pc

from pcace_dist.artifacts.checked import MALFORMED
from pcace_dist.artifacts.rankings import RANKINGS
from pcace_dist.artifacts.reading.class_names import CLASSES, ClassNames
from pcace_dist.artifacts.run import Run
from pcace_dist.config.job import Job
from pcace_dist.errors import OutputError, PcaceError
from pcace_dist.serving.finding import LEDGER, link_among
from pcace_dist.serving.watch import Watch
from pcace_dist.storage.files import first_line
from pcace_dist.storage.folder import Folder

log = logging.getLogger(__name__)

BEST = 3  # channels of a run's first ranking
LARGEST = 32 << 20  # bytes of a ranking that is read for the list


class State(StrEnum):
    """How a run is, by its ledger, its summary and its lease. UNREADABLE: these say nothing that can be read."""

    RUNNING = "running"
    FINISHED = "finished"
    THIN = "thin"
    STOPPED = "stopped"
    FAILED = "failed"
    UNREADABLE = "unreadable"


MEANINGS = {
    State.RUNNING: "a driver holds it and works",
    State.FINISHED: "done, with exit code 0",
    State.THIN: "done, with exit code 4: too many rows were set aside, or no channel could be ranked",
    State.STOPPED: "stopped in good order; the same command goes on",
    State.FAILED: "its driver is gone without a result; the same command goes on",
    State.UNREADABLE: "half-written or damaged; the reason stands beside it",
}


@dataclass(frozen=True)
class Best:
    """One of a run's best channels."""

    rank: int
    layer: str
    channel: int
    score: float


@dataclass(frozen=True)
class RunRow:
    """A run in the list. name: its path below the folder that is served. reason: why it has no result, or what of it
    cannot be read.

    when: its end, or its last start where it has not ended; seconds since 1970. best: of the ranking `best_of`.
    progress: the share of its rows that is done, of a run that has not ended.
    """

    name: str
    state: State
    reason: str = ""
    when: float | None = None
    images: int | None = None
    bad_rows: int | None = None
    layers: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    group_by: str | None = None
    model: str = ""
    data: tuple[str, ...] = ()
    best: tuple[Best, ...] = ()
    best_of: str = ""
    progress: float | None = None

    @property
    def is_done(self) -> bool:
        return self.state in (State.FINISHED, State.THIN)

    @property
    def has_status(self) -> bool:
        """Whether `pcace status` has more to say of it than this row."""
        return self.state in (State.RUNNING, State.STOPPED, State.FAILED)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_row(name: str, run: Run, folder: Folder, watch: Watch) -> RunRow:
    """The row of a run, whatever state it is in. folder: what lies in it."""
    link = link_among(folder)
    if link is not None:
        return RunRow(name, State.UNREADABLE, f"{link} is a symbolic link; links are not followed")
    try:
        if run.finished_at is None and LEDGER in folder.folders:
            return _unfinished(name, run, folder, watch)
        return _finished(name, run, folder)
    except Exception as error:  # whatever is wrong with one run: the others are shown
        if not isinstance(error, (PcaceError, *MALFORMED)):
            log.exception("%s: cannot be shown", run.path)
        return RunRow(name, State.UNREADABLE, _said(error, run), watch.opened_at)


def _finished(name: str, run: Run, folder: Folder) -> RunRow:
    summary = run.summary
    state = {0: State.FINISHED, 4: State.THIN}.get(summary["exit_code"])
    if state is None:
        raise OutputError(f"{run.path}: has no ledger, and summary.json says {summary['outcome']}")
    reason = str(summary["outcome"]).replace("_", " ") if state == State.THIN else ""
    counts: dict[str, Any] = {"images": int(summary["images"]), "bad_rows": int(summary.get("bad_rows", 0))}
    row = RunRow(name, state, reason, run.finished_at, **counts, **_facts(run.job))
    try:
        return replace(row, **_best(run, folder, grouped=row.group_by is not None))
    except (PcaceError, *MALFORMED) as error:
        return replace(row, state=State.UNREADABLE, reason=_said(error, run))


def _said(error: BaseException, run: Run) -> str:
    """An error in one line; files by their names in the run."""
    return first_line(error).replace(f"{run.path}/", "") or type(error).__name__


def _unfinished(name: str, run: Run, folder: Folder, watch: Watch) -> RunRow:
    status, lease = watch.look()
    if status.exit_code is not None:  # it has ended since
        return _finished(name, Run(run.path, run.storage), folder)
    progress = status.rows / status.rows_in_all if status.rows_in_all else None
    seen: dict[str, Any] = {
        "when": watch.opened_at,
        "bad_rows": status.bad_rows,
        "images": status.rows_in_all,
        "progress": progress,
    }
    if not lease.may_take:
        state, reason = State.RUNNING, status.progress()
    elif status.outcome == "stopped":
        state, reason = State.STOPPED, ""
    else:
        state, reason = State.FAILED, f"{lease.who} is gone"
    return RunRow(name, state, reason, **seen, **_facts(run.job))


def _facts(job: Job) -> dict[str, Any]:
    """What a job is about."""
    return {
        "layers": tuple(job.layer_patterns),
        "targets": tuple(target.name for target in job.targets),
        "group_by": job.group_by,
        "model": job.model.factory,
        "data": tuple(job.dataset.path),
    }


def _best(run: Run, folder: Folder, *, grouped: bool) -> dict[str, Any]:
    """The layers that are ranked, the best channels of the first ranking, and whose ranking that is."""
    if RANKINGS in folder.files and folder.files[RANKINGS].size > LARGEST:
        return {}
    columns = ["target", "group", "layer", "channel", "rank", "score"]
    table = run.table(RANKINGS, columns=columns, filters=[("layer_rank", "<=", BEST)])
    if not len(table):
        return {}
    rows = table.filter(pc.less_equal(table["rank"], BEST)).to_pylist()
    target, group = rows[0]["target"], rows[0]["group"]
    best = [
        Best(r["rank"], r["layer"], r["channel"], r["score"])
        for r in rows
        if (r["target"], r["group"]) == (target, group)
    ]
    names = run.names if CLASSES in folder.files else ClassNames()
    return {
        "layers": tuple(table["layer"].unique().to_pylist()),
        "best": tuple(sorted(best, key=lambda one: one.rank)),
        "best_of": names.ranking(target, group, grouped=grouped),
    }
