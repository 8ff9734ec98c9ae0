"""What the commands print: rankings as tables, packing progress. Formats Arrow tables, computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pyarrow as pa
from rich.progress import TimeRemainingColumn

from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.progress import terminal
from pcace_dist.progress.bar import StageBar

UNRANKED_SHOWN = 10  # so many groups without a ranking are named
RANKING = (
    "rank",
    "95 % of ranks",
    "layer",
    "channel",
    "score",
    "95 % interval",
    "first component",
    "pearson",
    "images",
    "status",
)


def print_ranking(ranking: pa.Table, names: ClassNames, *, grouped: bool) -> None:
    """Print ranked rows, one table for each target and group. names: of the run's classes."""
    console = terminal.console()
    for title, rows in _by_target_and_group(ranking, names, grouped):
        table = terminal.table(title, RANKING, left=("layer", "status"))
        for row in rows:
            table.add_row(*_cells(row))
        console.print(table)


def print_across_groups(table: pa.Table, classes: ClassNames) -> None:
    """Print rows of rankings_across_groups.parquet, one table for each target."""
    console = terminal.console()
    names = [name for name in table.column_names if name != "target"]
    for target in dict.fromkeys(table["target"].to_pylist()):
        title = f"{classes.target(target)}, over all groups"
        across = terminal.table(title, [name.replace("_", " ") for name in names], left=("layer",))
        for row in table.to_pylist():
            if row["target"] == target:
                across.add_row(*(_cell(row[name]) for name in names))
        console.print(across)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_unranked(unranked: pa.Table, names: ClassNames, *, grouped: bool, needed: int, folds: int) -> None:
    """Print the groups in which no channel is ranked, and why. needed, folds: images and folds that a score needs."""
    rows = unranked.to_pylist()
    for target in dict.fromkeys(row["target"] for row in rows):
        of_target = [row for row in rows if row["target"] == target]
        reasons = [_why_unranked(row, names, grouped) for row in of_target[:UNRANKED_SHOWN]]
        more = f" and {len(of_target) - UNRANKED_SHOWN:,} more" if len(of_target) > UNRANKED_SHOWN else ""
        terminal.tell(f"{names.target(target)}: no channel is ranked: {'; '.join(reasons)}{more}")
    if any("too_few_images" in row["statuses"] for row in rows):
        terminal.tell(
            f"a channel is ranked from {needed:,} images on (fewer where it varies in fewer components), in at least "
            f"{folds} folds: use more images, larger groups, or fewer statistics.components or knots"
        )


def _why_unranked(row: dict[str, Any], names: ClassNames, grouped: bool) -> str:
    reason = "too few images" if "too_few_images" in row["statuses"] else "constant"
    return (f"group {names.group(row['group'])} " if grouped else "") + f"({row['images']:,} images, {reason})"


def _by_target_and_group(
    ranking: pa.Table, names: ClassNames, grouped: bool
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    blocks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in ranking.to_pylist():
        blocks.setdefault((names.target(row["target"]), names.group(row["group"])), []).append(row)
    for (target, group), rows in blocks.items():
        yield f"{target}" + (f", group {group}" if grouped else ""), rows


def _cells(row: dict[str, Any]) -> list[str]:
    def number(value: float | None, digits: int = 3) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    span = "" if row["rank_low"] is None else f"{row['rank_low']}-{row['rank_high']}"
    interval = "" if row["score_low"] is None else f"{row['score_low']:.3f}-{row['score_high']:.3f}"
    rank = "" if row["rank"] is None else str(row["rank"])
    return [
        rank,
        span,
        row["layer"],
        str(row["channel"]),
        number(row["score"]),
        interval,
        number(row["score_first_component"]),
        number(row["pearson"]),
        f"{row['images']:,}",
        row["status"],
    ]


class PackProgress:
    """Progress of packing: a bar in a terminal, a line every ten seconds in a log."""

    def __init__(self) -> None:
        self._bar = StageBar("pcace pack: ", TimeRemainingColumn())

    def __enter__(self) -> PackProgress:
        self._bar.__enter__()
        self._bar.begin("packing", None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def show(self, done: int, total: int | None) -> None:
        """`done` of `total` images (None: unknown)."""
        self._bar.show(done, total, f"{done:,}" + (f" of {total:,}" if total else "") + " images", images=done)
