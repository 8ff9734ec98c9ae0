"""Groups and their names. Pure.

Null is a group of its own; NaN counts as null. No two groups have the same name, and every printed name can be given
to `--group`.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

NULL = "null"


def name_of(group: Any) -> str:
    """The name of a group: its value as text, or `null`. In quotes: a text that is empty, is `null` itself, begins with
    a quote, or has blanks at an end."""
    if group is None:
        return NULL
    text = str(group)
    return f"'{text}'" if text in ("", NULL) or text[0] == "'" or text != text.strip() else text


def group_of(value: Any) -> Any:
    """The group of a row, from its value of group_by. NaN counts as null, because it does not equal itself."""
    return None if isinstance(value, float) and value != value else value


def groups_of(column: pa.Array) -> pa.Array:
    """`group_of` for a column."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def group_order(value: Any) -> tuple[bool, Any]:
    """Sort key: groups in the order of their values, null last."""
    return (value is None, 0 if value is None else value)
