"""Groups and their names: the name of a value of group_by, and the rows that a name selects. Pure.

Null is a group of its own; NaN counts as null. No two groups have the same name, and every name that is shown can be
asked for.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

NULL = "null"


def name_of(group: Any) -> str:
    """The name of a group: its value as text, `null`, and in quotes what would not be seen or is called like that."""
    if group is None:
        return NULL
    text = str(group)
    return f"'{text}'" if text in ("", NULL) or text[0] == "'" or text != text.strip() else text


def group_of(value: Any) -> Any:
    """The group of a row by its value of group_by: a NaN equals nothing, so it counts as null."""
    return None if isinstance(value, float) and value != value else value


def groups_of(column: pa.Array) -> pa.Array:
    """`group_of` for a column."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def rows_of(column: str, name: object, kind: pa.DataType) -> pc.Expression | None:
    """Which rows belong to the group of this name (or value); None where a column of this type has no such value."""
    text = str(name)
    if text == NULL:
        return pc.field(column).is_null()
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    try:
        return pc.field(column) == pa.scalar(text).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def group_order(value: Any) -> tuple[bool, Any]:
    """Groups in the order of their values, null last."""
    return (value is None, 0 if value is None else value)
