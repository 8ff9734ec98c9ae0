"""Tables that fit a terminal. Numbers are never cut; names are cut in the middle and stay different from each other.

A table that is too wide first loses its least important columns, then the middle of its names; without a terminal
nothing is cut. Cells are text, with escapes for what a terminal would obey. A leaf: no Arrow, no runs.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from rich.cells import cell_len, set_cell_size

from pcace_dist.progress.terminal import Format, tell, terminal_width, visible

GAP = "  "
CUT = "…"
NAME_CELLS = 16  # a name is not cut below this while there are columns that can go
LEAST_CELLS = 8  # nor below this at all: then the lines are longer than the terminal
TAILS = (1 / 2, 2 / 3, 1 / 3, 3 / 4, 1 / 4, 7 / 8, 1 / 8, 1.0, 0.0)  # shares of a name's end in what is left of it
LONGEST_NAME = 512  # cells; longer names are cut in files and pipes too


@dataclass(frozen=True)
class Column:
    """A column of text. `name`: left-aligned and cut in the middle where there is no room.

    drop: 0 stays; of the others the largest goes first where there is no room. wide: shown with Format.WIDE only.
    among: all names that there are, if not all are shown: a cut name stays different from these too. meaning: what the
    heading stands for, where it is no name for itself.
    """

    heading: str
    name: bool = False
    drop: int = 0
    wide: bool = False
    among: Sequence[str] = ()
    meaning: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many in a row as there are columns. `all_columns`: how to see those that had no room."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    all_columns: str = "--wide"


def print_table(table: Table, format: Format | None = None) -> None:
    """Print a table for people on stdout, with a blank line above it."""
    width = None if format == Format.WIDE else terminal_width()
    tell("\n" + "\n".join(lines_of(table, width, wide=format == Format.WIDE)))


def print_records(records: Sequence[Mapping[str, Any]], format: Format) -> None:
    """Print records for programs: a JSON array, or CSV with the first record's keys as its header."""
    text = text_of_records(records, format)
    if format == Format.JSON or sys.stdout.isatty():
        tell(text.rstrip("\n"))
    else:
        sys.stdout.write(text)  # the values as they are


def text_of_records(records: Sequence[Mapping[str, Any]], format: Format, header: Sequence[str] = ()) -> str:
    """Records as programs read them (`print_records`). header: of CSV where there may be no record."""
    if format == Format.JSON:
        return json.dumps(list(records), indent=2, default=str) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def lines_of(table: Table, width: int | None, *, wide: bool = False) -> list[str]:
    """The table's lines, of at most `width` cells where that can be (None: no limit)."""
    shown = [index for index, column in enumerate(table.columns) if wide or not column.wide]
    columns = [table.columns[index] for index in shown]
    cells = [[visible(row[index]) for row in table.rows] for index in shown]
    kept = _columns_that_fit(columns, cells, width)
    dropped = [column.meaning or column.heading for i, column in enumerate(columns) if i not in kept]
    columns, cells = [columns[i] for i in kept], [cells[i] for i in kept]
    cells = _with_names_cut(columns, cells, width)
    lines = [middle_cut(visible(table.title), width or LONGEST_NAME)] if table.title else []
    lines += _drawn(columns, cells)
    return [*lines, f"(no room for: {', '.join(dropped)}; see {table.all_columns})"] if dropped else lines


def _columns_that_fit(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """The columns that stay, by index."""
    kept = list(range(len(columns)))
    if width is None:
        return kept
    least = [_natural(column, texts, NAME_CELLS) for column, texts in zip(columns, cells, strict=True)]
    while _sum(least[i] for i in kept) > width and any(columns[i].drop for i in kept):
        kept.remove(max(kept, key=lambda i: columns[i].drop))
    return kept


def _with_names_cut(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """The cells, with names cut to the room that the other columns leave."""
    widths = [_natural(column, texts, LONGEST_NAME) for column, texts in zip(columns, cells, strict=True)]
    while width is not None and _sum(widths) > width:
        longest = max((i for i, column in enumerate(columns) if column.name), key=lambda i: widths[i], default=None)
        if longest is None or widths[longest] <= LEAST_CELLS:
            break
        widths[longest] -= 1
    return [
        cut_names(texts, limit, column.among) if column.name else list(texts)
        for column, texts, limit in zip(columns, cells, widths, strict=True)
    ]


def _natural(column: Column, texts: Sequence[str], most: int) -> int:
    """Cells that a column takes; a column of names at most `most`."""
    longest = max(map(cell_len, texts), default=0)
    return max(cell_len(column.heading), min(longest, most) if column.name else longest)


def _sum(widths: Iterable[int]) -> int:
    widths = list(widths)
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _drawn(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[str]:
    padded = []
    for column, texts in zip(columns, cells, strict=True):
        texts = [column.heading, *texts]
        width = max(map(cell_len, texts))
        spaces = [" " * (width - cell_len(text)) for text in texts]
        padded.append([text + s if column.name else s + text for text, s in zip(texts, spaces, strict=True)])
    return [GAP.join(line).rstrip() for line in zip(*padded, strict=True)]


# -- names


def middle_cut(text: str, cells: int, tail: float = 0.5, mark: str = CUT) -> str:
    """The text in at most `cells` cells: both ends, with a mark between them. tail: the share of the end in it."""
    if cell_len(text) <= cells:
        return text
    room = max(0, cells - cell_len(mark))
    end = round(tail * room)
    return set_cell_size(text, room - end).rstrip() + mark + set_cell_size(text[::-1], end)[::-1].lstrip()


def cut_names(names: Sequence[str], cells: int, among: Sequence[str] = ()) -> list[str]:
    """The names in at most `cells` cells each; different names, and those `among` which they are, stay different.

    Where both ends do not tell two names apart, more of the end is kept, then more of the beginning, then the part in
    the middle where they differ; at last they get numbers there.
    """
    distinct = list(dict.fromkeys([*map(visible, among), *names]))
    for cut in (*([middle_cut(name, cells, share) for name in distinct] for share in TAILS), _parts(distinct, cells)):
        if len(set(cut)) == len(distinct) and max(map(cell_len, cut), default=0) <= cells:
            break
    else:
        cut = [middle_cut(name, cells, mark=f"{CUT}{number}{CUT}") for number, name in enumerate(distinct, start=1)]
    by_name = dict(zip(distinct, cut, strict=True))
    return [by_name[name] for name in names]


def _parts(names: Sequence[str], cells: int) -> list[str]:
    """The names that are too long as `head…part…tail`, where the part is what differs between them."""
    long_names = [name for name in names if cell_len(name) > cells]
    start = commonprefix(long_names).rfind(".") + 1  # noqa: RUF071 (of characters)
    end = len(commonprefix([name[::-1] for name in long_names]))  # noqa: RUF071
    cut = []
    for name in names:
        part = name[start : len(name) - end]
        room = max(0, cells - cell_len(part) - 2 * cell_len(CUT))
        ends = set_cell_size(name, room // 2).rstrip(), set_cell_size(name[::-1], room - room // 2)[::-1].lstrip()
        cut.append(f"{ends[0]}{CUT}{part}{CUT}{ends[1]}" if name in long_names else name)
    return cut


# -- cells


def number(value: float | None, digits: int = 3) -> str:
    """A cell for a number; empty for None and NaN."""
    return "" if value is None or value != value else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 3, between: str = "-") -> str:
    """A cell for an interval; empty where an end is missing."""
    return "" if low is None or high is None else f"{low:.{digits}f}{between}{high:.{digits}f}"
