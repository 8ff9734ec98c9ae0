"""What `pcace compare`, `evaluate` and `history` print. Formats only, computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pcace_dist.analysis.compare import AgreementRow, Comparison
from pcace_dist.analysis.curves import BEST
from pcace_dist.analysis.history import History
from pcace_dist.analysis.matched import Matched
from pcace_dist.analysis.standings import Standing
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.progress.table import Column, Table, interval, middle_cut, number, print_table
from pcace_dist.progress.terminal import Format, tell, visible, when

SHOWN = 20
NAME_CELLS = 40  # of a layer's name in a line


def print_comparison(comparison: Comparison, format: Format | None = None) -> None:
    """Print verdict, agreement, and the channels that moved."""
    counts, overall = comparison.counts, comparison.overall
    tell(f"{comparison.run_a.path} -> {comparison.run_b.path}: {', '.join(comparison.notes)}")
    pairing = "paired by fold" if comparison.noise.paired else "unpaired"
    tell(
        f"{comparison.verdict}: {counts['moved']:,} of {counts['judged']:,} channels moved "
        f"({counts['rose']:,} rose, {counts['fell']:,} fell, {counts['appeared']:,} appeared, {counts['died']:,} died; "
        f"{pairing}, false discovery rate {comparison.settings.level:g})",
    )
    tell(
        f"Kendall {number(overall['kendall'])}, Spearman {number(overall['spearman'])}, "
        f"top {comparison.settings.top} overlap {number(overall['overlap'])}, "
        f"rank-biased overlap {number(overall['rbo'])} (p {comparison.settings.persistence:g})",
    )
    if counts["effects_judged"]:
        tell(f"effects: {counts['effects_moved']:,} of {counts['effects_judged']:,} moved")
    if len(comparison.agreement) > 1:
        print_table(_agreement_table(comparison.agreement, comparison.names), format)
    if counts["moved"]:
        print_table(_moved_table(comparison.moved(), comparison.names), format)


def print_history(history: History, format: Format | None = None) -> None:
    """Print the published runs, the oldest first; the current one is marked."""
    columns = (
        Column("", name=True),
        Column("published"),
        Column("run", name=True),
        Column("why", name=True),
        Column("images", drop=4),
        Column("verdict", name=True),
        Column("Kendall", drop=2),
        Column("overlap", drop=3),
        Column("moved", drop=1),
        Column("exit"),
        Column("folder", name=True, drop=5),
    )
    rows = [
        (
            "*" if entry.run == history.latest else "",
            when(entry.published),
            entry.run,
            entry.why,
            f"{entry.images:,}",
            entry.verdict or "",
            number(entry.kendall),
            number(entry.overlap),
            entry.moved_in_words,
            str(entry.exit_code),
            "kept" if entry.run in history.kept else "removed",
        )
        for entry in history.entries
    ]
    print_table(Table("", columns, rows), format)


def print_standings(rows: Sequence[Standing], replacement: str, format: Format | None = None) -> None:
    """Print every order against the ranking."""
    columns = (
        Column("order", name=True),
        Column("area"),
        Column("place"),
        Column("Var(change)"),
        Column("place", drop=4, meaning="place by Var(change)"),
        Column("accuracy", drop=3),
        Column("place", drop=5, meaning="place by accuracy"),
        Column("ranking better"),
        Column("ranking worse"),
        Column("above random", drop=2),
        Column("curves", drop=1),
    )
    cells = []
    for row in rows:
        better, worse = ("", "") if row.order == BEST else (str(row.won), str(row.lost))
        lost = (number(row.area), _place(row.rank_low, row.rank_high))
        changed = (number(row.changed), _place(row.changed_rank_low, row.changed_rank_high))
        accuracy = (number(row.accuracy), _place(row.accuracy_rank_low, row.accuracy_rank_high))
        counts = (better, worse, str(row.beyond_random), str(row.curves))
        cells.append((row.order, *lost, *changed, *accuracy, *counts))
    title = f"replaced by {replacement}: areas over log k under 1 - r^2, Var(change) / Var(target) and accuracy"
    print_table(Table(title, columns, cells), format)


def _place(low: int | None, high: int | None) -> str:
    """Of an order among all, with its 95 % interval."""
    return "-" if low is None else str(low) if low == high else f"{low} to {high}"


def print_matched(matched: Matched) -> None:
    """Print the comparison after the channels were matched."""
    counts, comparison = matched.counts, matched.comparison
    moved = f"{comparison.counts['moved']:,} of {comparison.counts['judged']:,} moved"
    tell(
        f"\nchannels matched on {matched.images:,} images: {counts['found']:,} of {counts['channels']:,} found again, "
        f"{counts['elsewhere']:,} of them in another place{_lost(matched)}; where they are now: {comparison.verdict}, "
        f"{moved}, Kendall {number(comparison.overall['kendall'])}",
    )


def _lost(matched: Matched) -> str:
    lost = [f"{middle_cut(visible(layer), NAME_CELLS)} {channel}" for layer, channel in matched.lost[:SHOWN]]
    more = f" and {len(matched.lost) - SHOWN:,} more" if len(matched.lost) > SHOWN else ""
    return f"; not found again: {', '.join(lost)}{more}" if lost else ""


def _agreement_table(rows: Sequence[AgreementRow], classes: ClassNames) -> Table:
    columns = (
        *_OF_A_RANKING,
        Column("layer", name=True),
        Column("channels", drop=2),
        Column("Kendall"),
        Column("Spearman", drop=1),
        Column("overlap"),
        Column("rank-biased", drop=3),
    )
    more = f" (the first {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    grouped = any(row.group is not None for row in rows)
    cells = []
    for row in rows[:SHOWN]:
        found = row.agreement
        values = map(number, (found.kendall, found.spearman, found.overlap, found.rbo))
        group = classes.group(row.group) if grouped else ""
        cells.append([classes.target(row.target), group, row.layer or "all", str(found.channels), *values])
    return _titled(f"agreement{more}", columns, cells)


def _moved_table(rows: Sequence[dict[str, Any]], classes: ClassNames) -> Table:
    columns = (
        *_OF_A_RANKING,
        Column("layer", name=True),
        Column("channel"),
        Column("movement", name=True, drop=1),
        Column("rank"),
        Column("score"),
        Column("95 % intervals", drop=3),
        Column("q", drop=2),
    )
    more = f" (the surest {SHOWN} of {len(rows):,})" if len(rows) > SHOWN else ""
    cells = [
        [
            classes.target(row["target"]),
            "" if row["group"] is None else classes.group(row["group"]),
            row["layer"],
            str(row["channel"]),
            row["movement"],
            f"{row['rank_a'] or '-'} -> {row['rank_b'] or '-'}",
            f"{number(row['score_a']) or '-'} -> {number(row['score_b']) or '-'}",
            f"{_span(row, 'a')} -> {_span(row, 'b')}",
            f"{row['q_value']:.1g}",
        ]
        for row in rows[:SHOWN]
    ]
    return _titled(f"moved{more}", columns, cells)


_OF_A_RANKING = (Column("target", name=True), Column("group", name=True))


def _titled(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first columns are those of a ranking: in the title where all rows are of one target or group."""
    single = [index for index in range(len(_OF_A_RANKING)) if len({row[index] for row in rows}) == 1]
    names = [f"{columns[index].heading} {rows[0][index]}" for index in single if rows[0][index]]
    kept = [index for index in range(len(columns)) if index not in single]
    rows = [[row[index] for index in kept] for row in rows]
    return Table(", ".join([title, *names]), [columns[index] for index in kept], rows)


def _span(row: dict[str, Any], side: str) -> str:
    return interval(row[f"score_low_{side}"], row[f"score_high_{side}"]) or "-"
