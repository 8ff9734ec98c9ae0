"""The commented job file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pcace_dist.config.text import flow

SCHEMA = "job.schema.json"
COMMENTS_AT = 34  # columns, where the value is not longer


def line(key: str, value: Any, comment: str = "", *, indent: int = 0) -> str:
    """`key: value   # comment`."""
    written = f"{' ' * indent}{key}: {flow(value)}"
    return f"{written:<{COMMENTS_AT}}  # {_plain(comment)}" if comment else written


def section(key: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{key}:", *lines])


def comment(text: str, *, indent: int = 0) -> str:
    """A line that is a comment alone: a key that may be put in, or a remark."""
    return f"{' ' * indent}# {_plain(text)}"


def head(name: str) -> str:
    return "\n".join(
        [
            f"# yaml-language-server: $schema={SCHEMA}",
            f"# Every key: docs/reference/job.md. What may be wrong with it: pcace check {_plain(name)}",
            "# Paths are relative to the directory in which the command runs.",
        ]
    )


def _plain(text: str) -> str:
    """A text in which nothing ends the line."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"') if not text.isprintable() else text


def joined(parts: Iterable[str]) -> str:
    """Sections with an empty line between them."""
    return "\n\n".join(parts) + "\n"
