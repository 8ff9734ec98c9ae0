"""Groups and their names: the name of a value of group_by, and the rows that a name selects. Pure.

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


def rows_of(column: str, name: object, column_type: pa.DataType) -> pc.Expression | None:
    """The rows of the group with this name (or value), as a filter; None where a column of this type has no such
    value."""
    text = str(name)
    if text == NULL:
        return pc.field(column).is_null()
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    try:
        return pc.field(column) == pa.scalar(text).cast(column_type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def group_order(value: Any) -> tuple[bool, Any]:
    """Sort key: groups in the order of their values, null last."""
    return (value is None, 0 if value is None else value)
