"""A finished run as a table of HTML: for each target, group and layer its best channels. No script; all text escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

import pyarrow as pa

from pcace_dist.artifacts.notebook.pictures import Channel
from pcace_dist.artifacts.reading.class_names import ClassNames

TOP = 3  # channels of a target, group and layer
MOST_ROWS = 24
PICTURE = '<img src="{}" style="display:inline; height:40px; margin:0 1px">'

Row: TypeAlias = Mapping[str, Any]
Column: TypeAlias = tuple[str, Callable[[Row], str]]  # head, and a row's cell in HTML


def best_rows(table: pa.Table) -> list[Row]:
    """The rows of a ranking with `layer_rank` up to TOP, in its order of targets, groups and layers, best first."""
    rows: list[Row] = table.to_pylist()
    places = {key: place for place, key in enumerate(dict.fromkeys(map(_block, rows)))}
    return sorted(rows, key=lambda row: (places[_block(row)], row["layer_rank"]))


def channel_of(row: Row) -> Channel:
    return row["layer"], row["channel"]


def page(
    title: str, rows: Sequence[Row], names: ClassNames, pictures: Mapping[Channel, Sequence[str]], notes: Iterable[str]
) -> str:
    """The title, a table of the rows, and the notes. pictures: URLs by channel."""
    columns = _columns(rows, names, pictures)
    head = "".join(f"<th>{escape(name)}</th>" for name, _ in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell(row)}</td>' for _, cell in columns)}</tr>" for row in rows)
    below = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return f"<div><b>{escape(title)}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"


def _columns(rows: Sequence[Row], names: ClassNames, pictures: Mapping[Channel, Sequence[str]]) -> list[Column]:
    columns: list[Column] = [("target", lambda row: escape(names.target(row["target"])))]
    if any(row["group"] is not None for row in rows):
        columns.append(("group", lambda row: escape(names.group(row["group"]))))
    columns += [
        ("layer", lambda row: escape(row["layer"])),
        ("channel", lambda row: str(row["channel"])),
        ("rank", lambda row: f"{row['rank']} {_interval(row, 'rank', '.0f')}"),
        ("score", lambda row: f"{row['score']:.3f} {_interval(row, 'score', '.3f')}"),
    ]
    if any(row.get("effect") is not None for row in rows):
        columns.append(("effect", _effect))
    if pictures:
        columns.append(
            ("responds most to", lambda row: "".join(map(PICTURE.format, pictures.get(channel_of(row), ()))))
        )
    return columns


def _effect(row: Row) -> str:
    return "" if row["effect"] is None else f"{row['effect']:.3f} {_interval(row, 'effect', '.3f')}"


def _interval(row: Row, name: str, digits: str) -> str:
    """The 95 % interval of a column; empty where there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None or high is None else f"<small>[{low:{digits}}, {high:{digits}}]</small>"


def _block(row: Row) -> tuple[Any, Any, Any]:
    return row["target"], row["group"], row["layer"]
