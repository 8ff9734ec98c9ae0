"""Printing to a terminal: values from the data are printed as text, never as markup or control characters.

`tell` prints to stdout as `logs.say` does to stderr. A leaf: standard library only.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from pcace_dist.errors import JobError


class Format(StrEnum):
    """How a table is written where it is not to fit the terminal. WIDE: all columns and whole names."""

    WIDE = "wide"
    JSON = "json"
    CSV = "csv"


RECORDS = (Format.JSON, Format.CSV)  # for programs; all else is for people


# control, format (direction of text, zero width), surrogate, line and paragraph separator
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # in Persian words and in emoji


def visible(text: object, *, keep: str = "") -> str:
    """The text, with an escape for every character that a terminal would obey or hide: ESC becomes `\\x1b`.

    `keep`: characters that stay, for texts of several lines. Plain text is returned unchanged.
    """
    plain = str(text)
    if plain.isprintable() and plain.isascii():
        return plain
    allowed = keep + _JOINERS
    return "".join(character if character in allowed else _shown(character) for character in plain)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode("ascii")


def tell(text: str) -> None:
    """Print a result on stdout. Line breaks stay; other control characters are printed as escapes."""
    print(visible(text, keep="\n"))


def is_not_utf8(text: str) -> bool:
    """Whether a text has a lone surrogate: from bytes that were not UTF-8, or from half of an escape."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def check_arguments(argv: Sequence[str]) -> None:
    """Raise JobError for an argument that is not UTF-8: neither Arrow nor S3 allows such names."""
    for argument in argv:
        if is_not_utf8(argument):
            raise JobError(f"the argument {visible(argument)} is not UTF-8; rename the file or folder that it names")


def ensure_utf8() -> None:
    """Restart this process in Python's UTF-8 mode where the locale has another encoding.

    Then arguments and names of files are UTF-8, in worker processes too."""
    if sys.getfilesystemencoding() != "utf-8" and sys.flags.utf8_mode == 0:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def ensure_streams() -> None:
    """Open the null device as stdout or stderr where a process was started without one. Characters that the locale's
    encoding does not have are written as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for the life of the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def quiet_libraries() -> None:
    """Without a terminal, the bars of transformers and its hub would be noise in a log: they are turned off, unless
    HF_HUB_DISABLE_PROGRESS_BARS says otherwise. To be called before they are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def local_time(seconds: float) -> str:
    """Seconds since 1970 as a date with its zone, for people here: `2026-01-31 10:30 CET`."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M %Z}"


def when(published: str | float | None) -> str:
    """A time for people: of ISO 8601 or seconds since 1970. What is none stays as it is written; empty for None."""
    if published is None:
        return ""
    try:
        return local_time(datetime.fromisoformat(published).timestamp() if isinstance(published, str) else published)
    except (ValueError, OverflowError, OSError):
        return str(published)


def terminal_width() -> int | None:
    """Cells in a line of the terminal; None where stdout is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
