"""Tables of a page: what stands in their cells. Formats Arrow rows; no HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.analysis.compare import Comparison
from pcace_dist.analysis.history import History
from pcace_dist.artifacts.rankings import SMALL_SUPPORT
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.progress.table import Column, interval, number
from pcace_dist.progress.terminal import when

MOST_TABLES = 12  # rankings that a page shows
MOST_ROWS = 200  # of agreements
Row: TypeAlias = Mapping[str, Any]
Show: TypeAlias = Callable[[Row], str]


@dataclass(frozen=True)
class Table:
    """Rows of cells under a title; notes stand below. Columns that are no names hold numbers."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: tuple[str, ...] = ()


NAME = Column("layer", name=True)
CHANNEL = Column("channel")
RANK = Column("rank")
INTERVAL = Column("95 %", meaning="the interval that holds the value with 95 % confidence")


def rankings(table: pa.Table, names: ClassNames, *, grouped: bool, by: str) -> tuple[list[Table], int]:
    """A table for each of the first targets and groups of rows of rankings.parquet, and how many there are in all.

    table: as `best_of` orders it, so that the rows of a target and group lie together.
    """
    sizes = (
        table.group_by(["target", "group"], use_threads=False).aggregate([([], "count_all")])["count_all"].to_pylist()
    )
    blocks: dict[str, list[Row]] = {}
    for row in table.slice(0, sum(sizes[:MOST_TABLES])).to_pylist():
        blocks.setdefault(names.ranking(row["target"], row["group"], grouped=grouped), []).append(row)
    return [_ranking(title, rows, by) for title, rows in blocks.items()], len(sizes)


def _ranking(title: str, rows: Sequence[Row], by: str) -> Table:
    rank = "rank" if by == "score" else "effect_rank"
    shown: list[tuple[Column, Show]] = [
        (RANK, lambda row: _whole(row[rank])),
        (INTERVAL, lambda row: interval(row[f"{rank}_low"], row[f"{rank}_high"], 0)),
        (NAME, lambda row: str(row["layer"])),
        (CHANNEL, lambda row: str(row["channel"])),
        (Column("score", meaning="what the channel tells about the output, 0 to 1"), _score),
        (INTERVAL, lambda row: interval(row["score_low"], row["score_high"])),
    ]
    if any(row.get("effect") is not None for row in rows):
        meaning = "the signed share of the target's variance that goes through the channel"
        shown += [
            (Column("effect", meaning=meaning), lambda row: number(row["effect"])),
            (INTERVAL, lambda row: interval(row["effect_low"], row["effect_high"], between=" to ")),
        ]
    shown += [
        (Column("images"), lambda row: f"{row['images']:,}"),
        (Column("status", name=True), lambda r: r["status"]),
    ]
    few = any(_rests_on_few(row) for row in rows)
    notes = (f"* rests on less than {SMALL_SUPPORT:.0%} of the images (support)",) if few else ()
    return _table(title, shown, rows, notes)


def _status(row: Row) -> str:
    return str(row["status"])


def _score(row: Row) -> str:
    return number(row["score"]) + "*" * _rests_on_few(row)


def _rests_on_few(row: Row) -> bool:
    support = row.get("support")
    return support is not None and support < SMALL_SUPPORT


def bad_rows(table: pa.Table, most: int) -> Table:
    """The first `most` rows that were set aside."""
    names = ("file", "row", "id", "stage", "reason")
    shown: list[tuple[Column, Show]] = [
        (Column(name, name=name != "row"), lambda row, name=name: _text(row[name]))  # type: ignore[misc]
        for name in names
    ]
    more = (f"{len(table) - most:,} more: see the CSV",) if len(table) > most else ()
    return _table("", shown, table.slice(0, most).to_pylist(), more)


def side_by_side(comparison: Comparison, top: int) -> list[Table]:
    """For each of the first rankings the channels that are among the best `top` of either run, with rank and score in
    both."""
    channels = comparison.channels
    best = pc.or_kleene(pc.less_equal(channels["rank_a"], top), pc.less_equal(channels["rank_b"], top))
    names, blocks = comparison.names, dict[tuple[str, str], list[Row]]()
    for row in channels.filter(best).to_pylist():
        blocks.setdefault((row["target"], names.group(row["group"])), []).append(row)
    tables, grouped = [], comparison.run_b.job.group_by is not None
    for rows in list(blocks.values())[:MOST_TABLES]:
        title = names.ranking(rows[0]["target"], rows[0]["group"], grouped=grouped)
        tables.append(_pair(title, sorted(rows, key=lambda row: (row["rank_b"] is None, row["rank_b"]))))
    return tables


def _pair(title: str, rows: Sequence[Row]) -> Table:
    shown: list[tuple[Column, Show]] = [
        (NAME, lambda row: str(row["layer"])),
        (CHANNEL, lambda row: str(row["channel"])),
        (Column("rank in A"), lambda row: _whole(row["rank_a"])),
        (Column("rank in B"), lambda row: _whole(row["rank_b"])),
        (Column("score in A"), lambda row: number(row["score_a"])),
        (Column("score in B"), lambda row: number(row["score_b"])),
        (Column("change"), lambda row: f"{row['change']:+.3f}"),
        (Column("q", meaning="the false discovery rate at which it moved"), lambda row: number(row["q_value"])),
        (Column("moved", name=True), lambda row: row["movement"] if row["moved"] else ""),
    ]
    return _table(title, shown, rows)


def agreement(comparison: Comparison) -> Table:
    """How far the rankings agree, for each target, group and layer."""
    names = comparison.names
    columns = [
        Column("target", name=True),
        Column("group", name=True),
        NAME,
        *map(Column, ("Kendall", "Spearman", f"top {comparison.settings.top}", "rank-biased overlap")),
    ]
    rows = [
        (
            names.target(row.target),
            "" if row.group is None else names.group(row.group),
            row.layer or "all layers",
            *(number(getattr(row.agreement, name)) for name in ("kendall", "spearman", "overlap", "rbo")),
        )
        for row in comparison.agreement[:MOST_ROWS]
    ]
    more = len(comparison.agreement) - len(rows)
    notes = (f"{more:,} more: see the file of `pcace compare`",) if more else ()
    return Table("Agreement of the rankings", columns, rows, notes)


def history(published: History) -> Table:
    """The runs that a schedule has published, the newest first."""
    columns = [
        Column("published", name=True),
        Column("why", name=True),
        Column("images"),
        Column("verdict", name=True),
        Column("Kendall"),
        Column("overlap"),
        Column("moved"),
        Column("drift", name=True),
        Column("exit code"),
    ]
    rows = [
        (
            when(entry.published),
            entry.why,
            f"{entry.images:,}",
            entry.verdict or "",
            number(entry.kendall),
            number(entry.overlap),
            entry.moved_in_words,
            "; ".join(entry.drift),
            str(entry.exit_code),
        )
        for entry in reversed(published.entries)
    ]
    return Table("", columns, rows)


def _table(title: str, shown: Iterable[tuple[Column, Show]], rows: Iterable[Row], notes: tuple[str, ...] = ()) -> Table:
    shown = list(shown)
    cells = [[cell(row) for _, cell in shown] for row in rows]
    return Table(title, [column for column, _ in shown], cells, notes)


def _whole(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _text(value: object) -> str:
    return "" if value is None else str(value)
