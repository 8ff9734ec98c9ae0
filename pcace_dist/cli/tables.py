"""What the commands print: rankings as tables, packing progress. Formats Arrow tables, computes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import pyarrow as pa
from rich.progress import TimeRemainingColumn

from pcace_dist.artifacts.rankings import SMALL_SUPPORT
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.progress import terminal
from pcace_dist.progress.bar import StageBar
from pcace_dist.progress.table import (
    Column,
    Table,
    interval,
    number,
    print_records,
    print_table,
)
from pcace_dist.progress.terminal import RECORDS, Format

WIDE_ONLY = (
    "layer_rank",
    "support",
    "score_first_component",
    "pearson",
    "mean_activation",
    "weight_norm",
    "clamped",
    "in_top_probability",
    "status",
)

TELLS_AND_DOES = """
tells: the score, what a channel tells about the output (0 to 1)
does:  the effect, what share of the output goes through it; may be negative"""
FEW = f"""
*      rests on less than {SMALL_SUPPORT:.0%} of the images (support)"""

GIVEN_PLAN = """
Intervals of ranks and scores are given the plan:
what another pilot would change was not estimated."""

OF_PILOT = """
Intervals of scores: more than half of their width is the pilot's, whatever the
number of images. Four times as many in statistics.pilot halve that part."""

AT_ONCE = """
With 95 % all scores of a ranking lie in their intervals at once (simultaneous)."""

Row = dict[str, Any]


def print_ranking(
    ranking: pa.Table,
    names: ClassNames,
    *,
    grouped: bool,
    by: str = "score",
    layers: Sequence[str] = (),
    format: Format | None = None,
    most: int | None = None,
    all_columns: str = "--wide",
    below: Mapping[str, str] | None = None,
) -> None:
    """Print ranked rows, one table for each target and group, at most `most` of them.

    names: of the run's classes. by: score or effect, which the rows are in the order of. layers: all of the run.
    all_columns: see `Table`. below: what is said below a table, by its title (`membership_in_words`).
    """
    if format in RECORDS:
        print_records(ranking.to_pylist(), format)
        return
    tables = list(_by_target_and_group(ranking, names, grouped))
    for title, rows in tables[:most]:
        print_table(_ranking_table(title, rows, by, layers, all_columns), format)
        if below and title in below:
            _told_below(below[title], rows)
    if any(_has_effects(rows) for _, rows in tables[:most]):
        terminal.tell(TELLS_AND_DOES)
    if any(_rests_on_few(row) for _, rows in tables[:most] for row in rows):
        terminal.tell(FEW)
    if any("score_low_simultaneous" in rows[0] for _, rows in tables[:most]):
        terminal.tell(AT_ONCE)
    if any(_are_given_plan(rows) for _, rows in tables[:most]):
        terminal.tell(GIVEN_PLAN)
    if any(_are_of_the_pilot(rows) for _, rows in tables[:most]):
        terminal.tell(OF_PILOT)
    if len(tables) > len(tables[:most]):
        terminal.tell(f"\n{len(tables):,} rankings in all; see the others with `pcace show --group NAME`")


def membership_in_words(
    ranking: pa.Table, names: ClassNames, top: int, *, grouped: bool, all_layers: bool
) -> dict[str, str]:
    """How many channels are in the true top, by the title of a ranking; none where every channel is surely. ranking:
    with `in_top`, of all layers or of some."""
    from pcace_dist.statistics.order.membership import InTop

    return {
        title: f"in the true top {top}{'' if all_layers else ' of all layers'}: "
        f"surely {counts[InTop.SURELY]:,}, possibly {counts[InTop.SURELY] + counts[InTop.POSSIBLY]:,} channels"
        for title, rows in _by_target_and_group(ranking.select(["target", "group", "in_top"]), names, grouped)
        if (counts := Counter(row["in_top"] for row in rows))[InTop.NO] or counts[InTop.POSSIBLY]
    }


def _told_below(words: str, rows: Sequence[Row]) -> None:
    """What is known of a ranking's top, and how many of these rows are expected to be in it."""
    expected = sum(row["in_top_probability"] or 0.0 for row in rows)
    terminal.tell(f"{words}; of these {len(rows):,}, {expected:.1f} expected")


def _ranking_table(title: str, rows: Sequence[Row], by: str, layers: Sequence[str], more: str) -> Table:
    """Columns: rank, layer, channel, score and effect, each with its 95 % interval; images where they are not the
    same in all rows. The interval of the value that the rows are not ordered by goes first where there is no room."""
    same_images = len({row["images"] for row in rows}) == 1
    with_effects = _has_effects(rows)
    rank = "rank" if by == "score" else "effect_rank"
    less, least = (2, 4) if by == "score" else (4, 2)
    columns: list[tuple[Column, Callable[[Row], str]]] = [
        (Column("rank"), lambda row: str(row[rank])),
        (Column("95 %", drop=1, meaning="95 % of the rank"), partial(_rank_interval, rank)),
        (Column("layer", name=True, among=layers), lambda row: row["layer"]),
        (Column("channel"), lambda row: str(row["channel"])),
        (Column("tells" if with_effects else "score"), partial(_score, any(map(_rests_on_few, rows)))),
        (Column("95 %", drop=less, meaning="95 % of the score"), _score_interval),
    ]
    if with_effects:
        columns += [
            (Column("does"), lambda row: number(row["effect"])),
            (Column("95 %", drop=least, meaning="95 % of the effect"), _effect_interval),
        ]
    if not same_images:
        columns.append((Column("images", drop=3), lambda row: f"{row['images']:,}"))
    columns += [
        (Column(name.removeprefix("score_").replace("_", " "), wide=True), partial(_cell_of, name))
        for name in WIDE_ONLY
    ]
    title += ", by effect" if by == "effect" else ""
    title += f" ({rows[0]['images']:,} images)" if same_images else ""
    return Table(title, [column for column, _ in columns], [[show(row) for _, show in columns] for row in rows], more)


def _has_effects(rows: Iterable[Row]) -> bool:
    return any(row.get("effect") is not None for row in rows)


def _rests_on_few(row: Row) -> bool:
    support = row.get("support")  # none in older runs
    return support is not None and support < SMALL_SUPPORT


def _score(marked: bool, row: Row) -> str:
    """marked: whether there is a mark in the column, so that figures stay below each other."""
    return number(row["score"]) + ("*" if _rests_on_few(row) else " " * marked)


def _are_given_plan(rows: Sequence[Row]) -> bool:
    """Whether these intervals do not hold what another pilot would change; runs before 0.2 have no others."""
    ends = [(row["score_low"], row.get("score_low_given_plan", row["score_low"])) for row in rows]
    return any(low is not None for low, _ in ends) and all(low == given for low, given in ends)


def _are_of_the_pilot(rows: Sequence[Row]) -> bool:
    """Whether what another pilot would change makes these intervals more than twice as wide, on average."""
    known = [row for row in rows if row.get("score_high_given_plan") is not None]
    widths = [row["score_high"] - row["score_low"] for row in known]
    given_plan = [row["score_high_given_plan"] - row["score_low_given_plan"] for row in known]
    return bool(2 * sum(given_plan) < sum(widths))


def _rank_interval(rank: str, row: Row) -> str:
    return interval(row[f"{rank}_low"], row[f"{rank}_high"], 0)


def _score_interval(row: Row) -> str:
    low, high = (row.get(f"score_{end}_simultaneous", row[f"score_{end}"]) for end in ("low", "high"))
    return interval(low, high)


def _effect_interval(row: Row) -> str:
    return interval(row["effect_low"], row["effect_high"], between=" to ")


def _cell_of(name: str, row: Row) -> str:
    return cell(row.get(name))


def print_across_groups(table: pa.Table, classes: ClassNames, format: Format | None = None) -> None:
    """Print rows of rankings_across_groups.parquet, one table for each target."""
    if format in RECORDS:
        print_records(table.to_pylist(), format)
        return
    names = [name for name in table.column_names if name != "target"]
    for target in dict.fromkeys(table["target"].to_pylist()):
        rows = [[cell(row[name]) for name in names] for row in table.to_pylist() if row["target"] == target]
        columns = [
            Column(name.replace("_", " "), name=name == "layer", drop=0 if place < 4 else place)
            for place, name in enumerate(names)
        ]
        print_table(Table(f"{classes.target(target)}, over all groups", columns, rows), format)


def cell(value: Any) -> str:
    """A value of a table, as text."""
    if isinstance(value, float):
        return number(value)
    return "" if value is None else str(value)


def _by_target_and_group(
    ranking: pa.Table, names: ClassNames, grouped: bool
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    blocks: dict[str, list[dict[str, Any]]] = {}
    for row in ranking.to_pylist():
        blocks.setdefault(names.ranking(row["target"], row["group"], grouped=grouped), []).append(row)
    yield from blocks.items()


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
