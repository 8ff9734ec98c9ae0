"""`pcace status`: what a run's ledger and summary say, from another terminal. Reads only; no Ray."""

from __future__ import annotations

from typing import Any

from pcace_dist.artifacts.checked import MALFORMED, Damaged, parsing
from pcace_dist.artifacts.summary import recorded_summary
from pcace_dist.errors import OutputError
from pcace_dist.ledger.ledger import Ledger, RunState
from pcace_dist.progress.display import Tally, describe
from pcace_dist.run.bottleneck import describe_time
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import open_store


def describe_run(path: str, storage: Storage | None = None) -> str:
    """A few lines about a run: outcome or stage, progress, rate, remaining time, workers, who holds it, last faults."""
    store = open_store(path, storage or Storage({}))
    state = Ledger(store).load()
    if state.epoch == 0:
        raise OutputError(f"{path}: holds no run")
    try:
        return "\n".join(_lines(path, state, recorded_summary(store, state)))
    except (Damaged, *MALFORMED):
        note = "note:     summary.json cannot be read; the ledger alone is shown"
        with parsing(f"{path}/ledger"):
            return "\n".join([*_lines(path, state, {}), note])


def _lines(path: str, state: RunState, summary: dict[str, Any]) -> list[str]:
    lines = [f"run:      {path}", f"state:    {_outcome(state, summary)}", f"progress: {_progress(state, summary)}"]
    if state.done is None and state.holder is not None:
        host, pid = (state.holder.get(name, "?") for name in ("host", "pid"))
        lines.append(f"held by:  {host} (process {pid}), epoch {state.epoch}")
    lines.append(
        f"recorded: {len(state.accepted_receipts())} attempts, {len(state.set_aside)} units set aside, "
        f"{summary.get('bad_rows', 0)} bad rows"
    )
    lines += [f"workers:  {summary['workers_short']}"] if summary.get("workers_short") else []
    lines += [f"time:     {line}" for line in describe_time(summary)]
    lines += [f"fault:    {fault}" for fault in summary.get("last_faults", [])]
    return lines


def _outcome(state: RunState, summary: dict[str, Any]) -> str:
    if state.done is not None:
        return f"{state.done['outcome']} (exit code {state.done['exit_code']})"
    outcome = str(summary.get("outcome", "starting"))
    return f"{outcome}, stage {summary['stage']}" if "stage" in summary else outcome


def _progress(state: RunState, summary: dict[str, Any]) -> str:
    if state.manifest is None:
        return "the plan is not made yet"
    units = state.manifest["units"]
    total = sum(row_group["rows"] for unit in units for row_group in unit["pieces"])
    settled = sum(row_group["rows"] for unit in units if state.is_settled(unit["id"]) for row_group in unit["pieces"])
    waits_for = summary.get("waits_for", "") if state.done is None else ""
    rate = summary.get("images_per_second") if state.done is None else None
    rows = max(settled, int(summary.get("rows_done", 0))) if state.done is None else settled
    tally = Tally("images", rows, total, int(summary.get("workers_now", 0)), 0, rate, waits_for)
    text = describe(tally).removeprefix("images: ")
    return text if state.done is None else text.removesuffix(", 0 workers up")
