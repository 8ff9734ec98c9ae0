"""What reaches a terminal: values of the data as text, never as markup and never as control characters.

`tell` prints to stdout as `logs.say` does to stderr; `console` and `table` are rich's with values taken literally. A
leaf: rich is imported by whoever draws a table.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pcace_dist.errors import JobError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 160  # columns of a table that goes into a file or a pipe

# control, format (direction of text, zero width), surrogate, line and paragraph separator
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # of Persian words, of emoji


def visible(text: object, *, keep: str = "") -> str:
    """The text with every character that a terminal would obey or hide written as an escape: ESC becomes `\\x1b`.

    `keep`: characters that stay, for texts of several lines. What is plain text comes back unchanged.
    """
    plain = str(text)
    if plain.isprintable() and plain.isascii():
        return plain
    shown = keep + _JOINERS
    return "".join(one if one in shown else _shown(one) for one in plain)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode("ascii")


def tell(text: str) -> None:
    """Print a result on stdout: lines stay lines, other control characters are shown as such."""
    print(visible(text, keep="\n"))


def is_not_utf8(text: str) -> bool:
    """Whether a text holds half a character: bytes that were no UTF-8, or an escape without its other half."""
    return any("\ud800" <= one <= "\udfff" for one in text)


def check_arguments(argv: Sequence[str]) -> None:
    """Raise JobError for an argument that is not UTF-8: neither Arrow nor S3 has such names."""
    for argument in argv:
        if is_not_utf8(argument):
            raise JobError(f"the argument {visible(argument)} is not UTF-8; rename the file or folder that it names")


def ensure_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode where the locale has another encoding.

    Arguments and names of files are UTF-8 then, for worker processes too."""
    if sys.getfilesystemencoding() != "utf-8" and sys.flags.utf8_mode == 0:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def ensure_streams() -> None:
    """Give a process that was started with stdout or stderr closed one that takes everything; text that the locale's
    encoding does not have is written as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for the life of the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def console() -> Console:
    """rich's console on stdout; text is text, and a reader that has gone is a BrokenPipeError as it is for `print`."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich calls this while it handles the BrokenPipeError

    width = None if sys.stdout.isatty() else WIDE
    return Plain(width=width, markup=False, emoji=False, highlight=False)


def table(title: str, columns: Sequence[str], left: Sequence[str] = ()) -> Table:
    """An empty table, a blank line above its title; columns are right-aligned except those in `left`."""
    from rich.table import Table
    from rich.text import Text

    class Literal(Table):
        def add_row(self, *cells: object, **style: object) -> None:
            super().add_row(*(Text(visible(cell)) for cell in cells), **style)  # type: ignore[arg-type]

    found = Literal(title=Text("\n" + visible(title) if title else ""), title_justify="left", box=None, pad_edge=False)
    for name in columns:
        found.add_column(Text(visible(name)), justify="left" if name in left else "right")
    return found
