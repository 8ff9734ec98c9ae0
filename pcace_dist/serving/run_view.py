"""What the page of a run shows. A part that cannot be read says why in its place; the others are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from pcace_dist.artifacts.bad_rows import BAD_ROWS
from pcace_dist.artifacts.checked import MALFORMED
from pcace_dist.artifacts.rankings import RANKINGS, best_of, why_unranked
from pcace_dist.artifacts.run import Run
from pcace_dist.errors import PcaceError, UserError
from pcace_dist.progress.display import duration
from pcace_dist.progress.terminal import when
from pcace_dist.serving import tables
from pcace_dist.serving.rows import RunRow
from pcace_dist.serving.tables import Table
from pcace_dist.storage.files import first_line

TOP = 20  # channels of a ranking, where the address does not say
MOST_TOP = 1000
MOST_RECORDS = 200_000  # rows of a table as JSON or CSV
MOST_OFFERS = 500  # names that a form suggests
BAD_SHOWN = 50

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """What of a ranking is asked for, by the address: names or globs, an order, how many channels of each ranking."""

    layer: str = ""
    group: str = ""
    target: str = ""
    by: str = "score"
    top: int = TOP

    @staticmethod
    def of(query: Mapping[str, str]) -> Choice:
        """Raises UserError for an order or a number that does not exist."""
        by, top = query.get("by") or "score", query.get("top") or str(TOP)
        if by not in ("score", "effect"):
            raise UserError(f"by={by}: write score or effect")
        if not top.isascii() or not top.isdecimal() or len(top) > 4 or not 1 <= int(top) <= MOST_TOP:
            raise UserError(f"top={top[:20]}: write a whole number from 1 to {MOST_TOP}")
        layer, group, target = (query.get(name, "").strip() for name in ("layer", "group", "target"))
        return Choice(layer, group, target, by, int(top))

    @property
    def wanted(self) -> dict[str, Any]:
        """As `Run.ranking` takes it."""
        return {"layer": self.layer or None, "group": self.group or None, "target": self.target or None}


@dataclass
class RunView:
    """Facts by name, tables, and what a form may offer. problems: parts that could not be read, and why."""

    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    rankings: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    offers: dict[str, list[str]] = field(default_factory=dict)
    bad_rows: Table | None = None
    job: str = ""
    problems: list[str] = field(default_factory=list)


def view_of(run: Run, row: RunRow, choice: Choice) -> RunView:
    """The page of a run; of one that has not ended, only what its job says."""
    view = RunView()

    def part(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (PcaceError, *MALFORMED) as error:
            if first_line(error) not in view.problems:
                view.problems.append(first_line(error))
            return otherwise

    view.job = part(run.job_text, "")
    if row.is_done:
        view.facts = part(lambda: _facts(run.summary), {})
        view.warnings = part(lambda: _warnings(run.summary), [])
        view.rankings = part(lambda: _rankings(run, choice, view.notes), [])
        view.offers = part(lambda: _offers(run), {})
        view.bad_rows = part(lambda: _bad_rows(run), None)
    return view


def ranking_of(run: Run, choice: Choice, top: int | None) -> pa.Table:
    """The rows of a ranking that are asked for, best first where `top` is given. Raises UserError."""
    if choice.by == "score":
        return run.ranking(top=top, **choice.wanted)
    table = run.ranking(**choice.wanted)
    if "effect_rank" not in table.column_names or table["effect_rank"].null_count == len(table):
        raise UserError(f"{run.path}: has no effects to rank by")
    return best_of(table, top, by="effect_rank")


def records_of(run: Run, choice: Choice, top: int | None) -> list[dict[str, Any]]:
    """The same as records, with all columns of the ranking. Raises UserError where there are too many."""
    return as_records(ranking_of(run, choice, top), f"choose a layer, group or target, or read {RANKINGS}")


def as_records(table: pa.Table, instead: str) -> list[dict[str, Any]]:
    """The rows of a table. Raises UserError where there are too many; instead: what to do then."""
    if len(table) > MOST_RECORDS:
        raise UserError(f"{len(table):,} rows are more than {MOST_RECORDS:,}: {instead}")
    records: list[dict[str, Any]] = table.to_pylist()
    return records


def _facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """What summary.json says, for people; keys that a run of an earlier version does not have are left out."""
    shown: dict[str, Callable[[Any], str]] = {
        "images": "{:,}".format,
        "bad_rows": "{:,}".format,
        "unlabelled": "{:,}".format,
        "time": duration,
        "images_per_second": "{:,.0f}".format,
        "workers": str,
        "attempts": str,
        "precision": str,
        "batch": str,
        "fingerprint": lambda value: str(value)[:12],
        "from_codes": str,
    }
    summary = {**summary, "time": summary.get("seconds")}
    facts = {name: show(summary[name]) for name, show in shown.items() if summary.get(name) not in (None, "")}
    version = (summary.get("versions") or {}).get("pcace-dist")
    return facts | ({"version": str(version)} if version else {})


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    drift = (summary.get("drift") or {}).get("advice")
    return [str(warning["what"]) for warning in summary.get("warnings") or []] + ([str(drift)] if drift else [])


def _rankings(run: Run, choice: Choice, notes: list[str]) -> list[Table]:
    grouped = run.job.group_by is not None
    table = ranking_of(run, choice, choice.top)
    if not len(table):
        notes += why_unranked(run.ranking(**choice.wanted), run.names, run.job.statistics, grouped=grouped)
        return []
    shown, in_all = tables.rankings(table, run.names, grouped=grouped, by=choice.by)
    if in_all > len(shown):
        notes.append(f"{in_all - len(shown):,} more rankings: choose a target or a group above, or take the CSV")
    return shown


def _offers(run: Run) -> dict[str, list[str]]:
    """Names of layers, groups and targets, as a form may suggest them: the first of each."""
    table = run.table(RANKINGS, columns=["target", "group", "layer"], filters=[("layer_rank", "==", 1)])
    names: dict[str, Callable[[Any], str]] = {"target": run.names.target, "group": run.names.group, "layer": str}
    return {
        column: [name(value) for value in table[column].unique()[:MOST_OFFERS].to_pylist()]
        for column, name in names.items()
    }


def _bad_rows(run: Run) -> Table | None:
    if not run.summary.get("bad_rows"):
        return None
    return tables.bad_rows(run.table(BAD_ROWS), BAD_SHOWN)


def differences(rows: Sequence[RunRow]) -> list[tuple[str, str, str]]:
    """What two runs are about, where it differs: name, in the first, in the second."""
    facts: dict[str, Callable[[RunRow], str]] = {
        "ended": lambda row: when(row.when),
        "images": lambda row: "" if row.images is None else f"{row.images:,}",
        "bad rows": lambda row: "" if row.bad_rows is None else f"{row.bad_rows:,}",
        "model": lambda row: row.model,
        "data": lambda row: ", ".join(row.data),
        "layers": lambda row: ", ".join(row.layers),
        "targets": lambda row: ", ".join(row.targets),
        "groups": lambda row: row.group_by or "",
    }
    pairs = [(name, show(rows[0]), show(rows[1])) for name, show in facts.items()]
    return [pair for pair in pairs if pair[1] != pair[2]]
