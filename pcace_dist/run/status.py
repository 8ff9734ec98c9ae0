"""`pcace status`: what a run's ledger and summary say, from another terminal. Reads only; no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pcace_dist.artifacts.checked import MALFORMED, Damaged, parsing
from pcace_dist.artifacts.summary import recorded_summary
from pcace_dist.errors import OutputError
from pcace_dist.ledger.ledger import Ledger, RunState
from pcace_dist.progress.display import Tally, describe
from pcace_dist.run.bottleneck import describe_time
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import Store, open_store


@dataclass(frozen=True)
class RunStatus:
    """What is known of a run at one moment.

    outcome, stage: as in summary.json. exit_code: None before the run has ended. rows: those that are done or in work;
    rows_in_all: before the filter, None before there is a plan. images_per_second, seconds_left: None where nothing
    tells. workers: those that are up. waits_for: what a running run waits for, empty while it works. holder: host, pid
    and epoch of the driver that holds the run. time: where the time went, a sentence each. unreadable: summary.json
    cannot be read, so that the ledger alone has spoken.
    """

    run: str
    outcome: str
    stage: str | None
    exit_code: int | None
    rows: int
    rows_in_all: int | None
    images_per_second: float | None
    seconds_left: float | None
    workers: int
    waits_for: str
    holder: dict[str, Any] | None
    attempts: int
    units_set_aside: int
    bad_rows: int
    workers_short: str | None
    stop: str | None
    time: tuple[str, ...]
    last_faults: tuple[str, ...]
    unreadable: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        outcome = self.outcome if self.stage is None else f"{self.outcome}, stage {self.stage}"
        ended = "" if self.exit_code is None else f" (exit code {self.exit_code})"
        yield f"run:      {self.run}"
        yield f"state:    {outcome}{ended}"
        yield f"progress: {self.progress()}"
        if self.holder is not None:
            yield f"held by:  {self.holder['host']} (process {self.holder['pid']}), epoch {self.holder['epoch']}"
        yield f"recorded: attempts {self.attempts}, units set aside {self.units_set_aside}, bad rows {self.bad_rows}"
        yield from [f"workers:  {self.workers_short}"] if self.workers_short else []
        yield from [f"stop:     {self.stop}"] if self.stop else []
        yield from (f"time:     {line}" for line in self.time)
        yield from (f"fault:    {fault}" for fault in self.last_faults)
        yield from ["note:     summary.json cannot be read; the ledger alone is shown"] if self.unreadable else []

    def progress(self) -> str:
        """How far it is, in words."""
        if self.rows_in_all is None:
            return "the plan is not made yet"
        tally = Tally("images", self.rows, self.rows_in_all, self.workers, 0, self.images_per_second, self.waits_for)
        text = describe(tally).removeprefix("images: ")
        return text if self.exit_code is None else text.removesuffix(", 0 workers up")


def status_of(path: str, storage: Storage | None = None) -> RunStatus:
    """What ledger and summary say of a run, running or ended. Raises OutputError where there is none."""
    store = open_store(path, storage or Storage({}))
    return status_by(path, store, Ledger(store))


def status_by(path: str, store: Store, ledger: Ledger) -> RunStatus:
    """The same by a ledger that is kept: what it has read before is not read again."""
    state = ledger.load()
    if state.epoch == 0:
        raise OutputError(f"{path}: holds no run")
    try:
        return _status(path, state, recorded_summary(store, state))
    except (Damaged, *MALFORMED):
        with parsing(f"{path}/ledger"):
            return _status(path, state, None)


def _status(path: str, state: RunState, recorded: dict[str, Any] | None) -> RunStatus:
    summary, done = recorded or {}, state.done
    now = summary if done is None else {}  # what changes while a run works
    rows, rows_in_all = _rows(state)
    rows = max(rows, int(now.get("rows_done", 0)))
    rate = now.get("images_per_second")
    return RunStatus(
        run=path,
        outcome=str(now.get("outcome", "starting") if done is None else done["outcome"]),
        stage=now.get("stage"),
        exit_code=None if done is None else int(done["exit_code"]),
        rows=rows,
        rows_in_all=rows_in_all,
        images_per_second=rate,
        seconds_left=Tally("", rows, rows_in_all or 0, rate=rate).remaining,
        workers=int(now.get("workers_now", 0)),
        waits_for=now.get("waits_for", ""),
        holder=_holder(state),
        attempts=len(state.accepted_receipts()),
        units_set_aside=len(state.set_aside),
        bad_rows=int(summary.get("bad_rows", 0)),
        workers_short=summary.get("workers_short"),
        stop=last_look(summary),
        time=tuple(describe_time(summary)),
        last_faults=tuple(summary.get("last_faults", ())),
        unreadable=recorded is None,
    )


def _rows(state: RunState) -> tuple[int, int | None]:
    """Rows of settled units, and of all units; None of all where there is no plan."""
    if state.manifest is None:
        return 0, None
    rows = {unit["id"]: sum(piece["rows"] for piece in unit["pieces"]) for unit in state.manifest["units"]}
    return sum(count for unit, count in rows.items() if state.is_settled(unit)), sum(rows.values())


def _holder(state: RunState) -> dict[str, Any] | None:
    if state.done is not None or state.holder is None:
        return None
    return {name: state.holder.get(name, "?") for name in ("host", "pid")} | {"epoch": state.epoch}


def last_look(summary: Mapping[str, Any]) -> str | None:
    """The last check of a run in words; None where there is none, or where an earlier version made it."""
    looks = summary.get("stop", {}).get("looks", ())
    return look_in_words(looks[-1]) if looks and "surely" in looks[-1] else None


def look_in_words(look: Mapping[str, int]) -> str:
    """A check of `stop`, as summary.json has it. Of several rankings: the fewest that are surely in, the most that may
    be."""
    of_several = f" (the least settled of {look['rankings']:,} rankings)" if look["rankings"] > 1 else ""
    return (
        f"look {look['look']}, {look['images']:,} images: in the top {look['top']} surely {look['surely']}, possibly "
        f"{look['possibly']}{of_several}; {look['open_pairs']:,} pairs at its border are unsettled"
    )
