"""Which runs the list shows, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pcace_dist.serving.rows import RunRow, State

MOST = 300  # rows of a page

ORDERS: dict[str, Callable[[RunRow], Any]] = {
    "newest": lambda row: -(row.when or 0.0),
    "name": lambda row: row.name,
    "state": lambda row: list(State).index(row.state),
    "images": lambda row: -(row.images or 0),
    "best": lambda row: -max((best.score for best in row.best), default=0.0),
}


def select(rows: Sequence[RunRow], query: Mapping[str, str]) -> list[RunRow]:
    """The rows that match `q` (every word in one of name, layers, targets, model, data, state) and `state`, in the
    order `sort`; an order that is not known is the newest first."""
    words = query.get("q", "").lower().split()
    wanted = query.get("state", "")
    chosen = [row for row in rows if wanted in ("", row.state) and _has_all(row, words)]
    order = ORDERS.get(query.get("sort", ""), ORDERS["newest"])
    return sorted(chosen, key=lambda row: (order(row), row.name))


def _has_all(row: RunRow, words: Sequence[str]) -> bool:
    text = "\n".join((row.name, row.state, row.model, row.group_by or "", *row.layers, *row.targets, *row.data)).lower()
    return all(word in text for word in words)
