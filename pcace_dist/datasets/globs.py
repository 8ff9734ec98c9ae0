"""Paths with wildcards: the folder to search, and what matches below it. Pure; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable

_WILD = re.compile(r"[*?\[]")


def pattern_of(
    path: str, exists: Callable[[str], bool]
) -> tuple[str, Callable[[str], bool], Callable[[str], bool]] | None:
    """A glob as (folder, matches, lies_in_match); None for a path that is no glob.

    folder: what stands before the first component that is a pattern. matches(key): whether a path below the folder
    matches. lies_in_match(key): whether a folder that contains it matches. A component that `exists` as it is written
    (`set[12]`) is no pattern.
    """
    parts = path.split("/")
    first_wild = next(
        (i for i, part in enumerate(parts) if _WILD.search(part) and not exists("/".join(parts[: i + 1]))), None
    )
    if first_wild is None:
        return None
    root = "/".join(parts[:first_wild]) or ("/" if path.startswith("/") else ".")
    pattern = _translate("/".join(parts[first_wild:]).rstrip("/"))

    def matches(key: str) -> bool:
        return pattern.fullmatch(key) is not None

    def lies_in_match(key: str) -> bool:
        return any(pattern.fullmatch(key[:i]) for i, letter in enumerate(key) if letter == "/")

    return root, matches, lies_in_match


def _translate(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: `*` stays inside a folder, `**` crosses folders."""
    regex: list[str] = []
    i = 0
    while i < len(pattern):
        remaining = pattern[i:]
        if remaining.startswith("**/"):
            regex.append("(?:.*/)?")
            i += 3
        elif remaining.startswith("**"):
            regex.append(".*")
            i += 2
        elif remaining[0] in "*?":
            regex.append("[^/]*" if remaining[0] == "*" else "[^/]")
            i += 1
        elif remaining[0] == "[" and (end := remaining.find("]", 2)) > 0:
            body = remaining[1:end].replace("\\", r"\\")
            regex.append(f"[{'^' + body[1:] if body[0] == '!' else body}]")
            i += end + 1
        else:
            regex.append(re.escape(remaining[0]))
            i += 1
    return re.compile("".join(regex))
