"""Paths with wildcards: the folder that is looked through, and what matches below it. Pure; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable

_WILD = re.compile(r"[*?\[]")


def pattern_of(
    path: str, exists: Callable[[str], bool]
) -> tuple[str, Callable[[str], bool], Callable[[str], bool]] | None:
    """The folder before the first part that is a pattern; whether a path below it matches, and whether a folder on its
    way does. A part with wildcards that `exists` as it is written is none (`set[12]`); None where all do, or none has.
    """
    parts = path.split("/")
    wild = next(
        (i for i, part in enumerate(parts) if _WILD.search(part) and not exists("/".join(parts[: i + 1]))), None
    )
    if wild is None:
        return None
    root = "/".join(parts[:wild]) or ("/" if path.startswith("/") else ".")
    pattern = _translate("/".join(parts[wild:]).rstrip("/"))

    def matches(key: str) -> bool:
        return pattern.fullmatch(key) is not None

    def lies_in_match(key: str) -> bool:
        return any(pattern.fullmatch(key[:i]) for i, letter in enumerate(key) if letter == "/")

    return root, matches, lies_in_match


def _translate(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: `*` stays inside a folder, `**` crosses folders."""
    parts: list[str] = []
    i = 0
    while i < len(pattern):
        rest = pattern[i:]
        if rest.startswith("**/"):
            parts.append("(?:.*/)?")
            i += 3
        elif rest.startswith("**"):
            parts.append(".*")
            i += 2
        elif rest[0] in "*?":
            parts.append("[^/]*" if rest[0] == "*" else "[^/]")
            i += 1
        elif rest[0] == "[" and (end := rest.find("]", 2)) > 0:
            body = rest[1:end].replace("\\", r"\\")
            parts.append(f"[{'^' + body[1:] if body[0] == '!' else body}]")
            i += end + 1
        else:
            parts.append(re.escape(rest[0]))
            i += 1
    return re.compile("".join(parts))
