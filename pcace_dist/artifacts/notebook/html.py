"""A finished run as a table of HTML: the best channels of each target, group and layer. No script; all text escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

import pyarrow as pa

from pcace_dist.artifacts.reading.class_names import ClassNames

TOP = 3  # channels of a target, group and layer
MOST_ROWS = 24
DIGITS = 3
PICTURE = '<img src="{}" style="display:inline; height:40px; margin:0 1px">'

Row: TypeAlias = Mapping[str, Any]
Column: TypeAlias = tuple[str, Callable[[Row], str]]  # head, and a row's cell in HTML


def best_rows(table: pa.Table) -> list[Row]:
    """The rows of a ranking with `layer_rank` up to TOP, in its order of targets, groups and layers, best first."""
    rows: list[Row] = table.to_pylist()
    places = {key: place for place, key in enumerate(dict.fromkeys(map(_block, rows)))}
    return sorted(rows, key=lambda row: (places[_block(row)], row["layer_rank"]))


def page(
    title: str, rows: Sequence[Row], names: ClassNames, pictures: Sequence[Sequence[str]], notes: Iterable[str]
) -> str:
    """The title, a table of the rows, and the notes. pictures: URLs by row."""
    columns = _columns(rows, names)
    cells = [[cell(row) for _, cell in columns] for row in rows]
    heads = [name for name, _ in columns]
    if any(pictures):
        heads.append("responds most to")
        cells = [[*of_row, _images(urls)] for of_row, urls in zip(cells, pictures, strict=True)]
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in of_row)}</tr>" for of_row in cells)
    below = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return f"<div><b>{escape(title)}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"


def _columns(rows: Sequence[Row], names: ClassNames) -> list[Column]:
    columns: list[Column] = [("target", lambda row: escape(names.target(row["target"])))]
    if any(row["group"] is not None for row in rows):
        columns.append(("group", lambda row: escape(names.group(row["group"]))))
    columns += [
        ("layer", lambda row: escape(row["layer"])),
        ("channel", lambda row: str(row["channel"])),
        ("rank", lambda row: f"{row['rank']} {_interval(row, 'rank', 0)}"),
        ("score", lambda row: _estimate(row, "score")),
    ]
    if any(row.get("effect") is not None for row in rows):
        columns.append(("effect", lambda row: "" if row["effect"] is None else _estimate(row, "effect")))
    return columns


def _images(urls: Iterable[str]) -> str:
    return "".join(PICTURE.format(escape(url)) for url in urls)


def _estimate(row: Row, name: str) -> str:
    return f"{_number(row[name], DIGITS)} {_interval(row, name, DIGITS)}"


def _interval(row: Row, name: str, digits: int) -> str:
    """The 95 % interval of a column; empty where there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None or high is None else f"<small>[{_number(low, digits)}, {_number(high, digits)}]</small>"


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # -0.0 is 0


def _block(row: Row) -> tuple[Any, Any, Any]:
    return row["target"], row["group"], row["layer"]
