"""What `pcace compare`, `evaluate` and `history` print. Formats only, computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from pcace_dist.analysis.compare import AgreementRow, Comparison
from pcace_dist.analysis.curves import BEST, Standing
from pcace_dist.analysis.history import History
from pcace_dist.analysis.matched import Matched
from pcace_dist.artifacts.class_names import ClassNames
from pcace_dist.progress.terminal import console, table, tell

SHOWN = 20


def number(value: float | None, digits: int = 3) -> str:
    return "" if value is None or value != value else f"{value:.{digits}f}"


def print_comparison(found: Comparison) -> None:
    """Verdict, agreement, and the channels that moved."""
    counts, overall = found.counts, found.overall
    tell(f"{found.one.path} -> {found.other.path}: {', '.join(found.notes)}")
    how = "paired by fold" if found.noise.paired else "unpaired"
    tell(
        f"{found.verdict}: {counts['moved']:,} of {counts['judged']:,} channels moved "
        f"({counts['rose']:,} rose, {counts['fell']:,} fell, {counts['appeared']:,} appeared, {counts['died']:,} died; "
        f"{how}, false discovery rate {found.settings.level:g})",
    )
    tell(
        f"Kendall {number(overall['kendall'])}, Spearman {number(overall['spearman'])}, "
        f"top {found.settings.top} overlap {number(overall['overlap'])}, "
        f"rank-biased overlap {number(overall['rbo'])} (p {found.settings.persistence:g})",
    )
    if len(found.agreement) > 1:
        console().print(_agreement_table(found.agreement, found.names))
    if counts["moved"]:
        console().print(_moved_table(found.moved(), found.names))


def print_history(found: History) -> None:
    """The published runs, the first first; what counts now is marked."""
    names = ("", "published", "run", "why", "images", "verdict", "Kendall", "overlap", "moved", "exit", "folder")
    rows = table("", names, left=("", "published", "run", "why", "verdict", "folder"))
    for entry in found.entries:
        rows.add_row(
            "*" if entry.run == found.latest else "",
            entry.published,
            entry.run,
            entry.why,
            f"{entry.images:,}",
            entry.verdict or "",
            number(entry.kendall),
            number(entry.overlap),
            "" if entry.moved is None else f"{entry.moved:,} of {entry.judged:,}",
            str(entry.exit_code),
            "kept" if entry.run in found.kept else "removed",
        )
    console().print(rows)


def print_standings(rows: Sequence[Standing], replacement: str) -> None:
    """Every order against the ranking."""
    names = ("order", "area", "ranking better", "ranking worse", "above random", "curves")
    found = table(f"replaced by {replacement}: area under 1 - r^2 over log k", names, left=("order",))
    for row in rows:
        mine = row.order == BEST
        won, lost = ("", "") if mine else (str(row.won), str(row.lost))
        found.add_row(row.order, number(row.area), won, lost, str(row.beyond_random), str(row.curves))
    console().print(found)


def print_matched(found: Matched) -> None:
    """What the comparison says once every channel is looked for where it is now."""
    counts, after = found.counts, found.comparison
    tell(
        f"\nchannels matched on {found.images:,} images: {counts['found']:,} of {counts['channels']:,} found again, "
        f"{counts['elsewhere']:,} of them in another place{_lost(found)}; where they are now: {after.verdict}, "
        f"{after.counts['moved']:,} of {after.counts['judged']:,} moved, Kendall {number(after.overall['kendall'])}",
    )


def _lost(found: Matched) -> str:
    lost = [f"{layer} {channel}" for layer, channel in found.lost]
    more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
    return f"; not found again: {', '.join(lost[:SHOWN])}{more}" if lost else ""


def _agreement_table(rows: Sequence[AgreementRow], classes: ClassNames) -> Table:
    names = ("target", "group", "layer", "channels", "Kendall", "Spearman", "overlap", "rank-biased")
    more = f" (the first {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    found = table(f"agreement{more}", names, left=("target", "group", "layer"))
    grouped = any(row.group is not None for row in rows)
    for row in rows[:SHOWN]:
        values = row.found
        group = classes.group(row.group) if grouped else ""
        cells = (number(value) for value in (values.kendall, values.spearman, values.overlap, values.rbo))
        found.add_row(classes.target(row.target), group, row.layer or "all", str(values.channels), *cells)
    return found


def _moved_table(rows: Sequence[dict[str, Any]], classes: ClassNames) -> Table:
    names = ("target", "group", "layer", "channel", "movement", "rank", "score", "interval", "q")
    more = f" (the surest {SHOWN} of {len(rows):,})" if len(rows) > SHOWN else ""
    found = table(f"moved{more}", names, left=("target", "group", "layer", "movement"))
    for row in rows[:SHOWN]:
        found.add_row(
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
    return found


def _span(row: dict[str, Any], side: str) -> str:
    low, high = row[f"score_low_{side}"], row[f"score_high_{side}"]
    return "-" if low is None else f"{low:.3f}-{high:.3f}"
