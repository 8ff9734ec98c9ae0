"""What `pcace compare`, `evaluate` and `history` print. Formats only, computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from pcace_dist.analysis.compare import AgreementRow, Comparison
from pcace_dist.analysis.curves import BEST, Standing
from pcace_dist.analysis.history import History
from pcace_dist.analysis.matched import Matched
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.progress.terminal import console, table, tell

SHOWN = 20


def number(value: float | None, digits: int = 3) -> str:
    return "" if value is None or value != value else f"{value:.{digits}f}"


def print_comparison(comparison: Comparison) -> None:
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
    if len(comparison.agreement) > 1:
        console().print(_agreement_table(comparison.agreement, comparison.names))
    if counts["moved"]:
        console().print(_moved_table(comparison.moved(), comparison.names))


def print_history(history: History) -> None:
    """Print the published runs, the oldest first; the current one is marked."""
    names = ("", "published", "run", "why", "images", "verdict", "Kendall", "overlap", "moved", "exit", "folder")
    rows = table("", names, left=("", "published", "run", "why", "verdict", "folder"))
    for entry in history.entries:
        rows.add_row(
            "*" if entry.run == history.latest else "",
            entry.published,
            entry.run,
            entry.why,
            f"{entry.images:,}",
            entry.verdict or "",
            number(entry.kendall),
            number(entry.overlap),
            "" if entry.moved is None else f"{entry.moved:,} of {entry.judged:,}",
            str(entry.exit_code),
            "kept" if entry.run in history.kept else "removed",
        )
    console().print(rows)


def print_standings(rows: Sequence[Standing], replacement: str) -> None:
    """Print every order in comparison with the ranking."""
    names = ("order", "area", "ranking better", "ranking worse", "above random", "curves")
    across = table(f"replaced by {replacement}: area under 1 - r^2 over log k", names, left=("order",))
    for row in rows:
        is_ranking = row.order == BEST
        won, lost = ("", "") if is_ranking else (str(row.won), str(row.lost))
        across.add_row(row.order, number(row.area), won, lost, str(row.beyond_random), str(row.curves))
    console().print(across)


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
    lost = [f"{layer} {channel}" for layer, channel in matched.lost]
    more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
    return f"; not found again: {', '.join(lost[:SHOWN])}{more}" if lost else ""


def _agreement_table(rows: Sequence[AgreementRow], classes: ClassNames) -> Table:
    names = ("target", "group", "layer", "channels", "Kendall", "Spearman", "overlap", "rank-biased")
    more = f" (the first {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    printed = table(f"agreement{more}", names, left=("target", "group", "layer"))
    grouped = any(row.group is not None for row in rows)
    for row in rows[:SHOWN]:
        agreed = row.agreement
        group = classes.group(row.group) if grouped else ""
        cells = (number(value) for value in (agreed.kendall, agreed.spearman, agreed.overlap, agreed.rbo))
        printed.add_row(classes.target(row.target), group, row.layer or "all", str(agreed.channels), *cells)
    return printed


def _moved_table(rows: Sequence[dict[str, Any]], classes: ClassNames) -> Table:
    names = ("target", "group", "layer", "channel", "movement", "rank", "score", "interval", "q")
    more = f" (the surest {SHOWN} of {len(rows):,})" if len(rows) > SHOWN else ""
    printed = table(f"moved{more}", names, left=("target", "group", "layer", "movement"))
    for row in rows[:SHOWN]:
        printed.add_row(
            classes.target(row["target"]),
            "" if row["group"] is None else classes.group(row["group"]),
            row["layer"],
            str(row["channel"]),
            row["movement"],
            f"{row['rank_a'] or '-'} -> {row['rank_b'] or '-'}",
            f"{number(row['score_a']) or '-'} -> {number(row['score_b']) or '-'}",
            f"{_span(row, 'a')} -> {_span(row, 'b')}",
            f"{row['q_value']:.1g}",
        )
    return printed


def _span(row: dict[str, Any], side: str) -> str:
    low, high = row[f"score_low_{side}"], row[f"score_high_{side}"]
    return "-" if low is None else f"{low:.3f}-{high:.3f}"
