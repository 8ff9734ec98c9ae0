"""docs/reference/: pages that are made from the code by `make reference`, and tests that hold them to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

HEAD = "<!-- Made from the code by `make reference`. Change the code, not this page. -->\n\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown. Cells are text of one line; a bar in them is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)


def code(*words: str) -> str:
    """Words as code, by comma."""
    return ", ".join(f"`{word}`" for word in words)
