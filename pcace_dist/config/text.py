"""The text of a job file as plain values: YAML, overrides, sizes. Knows no key.

Every mistake is a one-line `JobError` with the file, the line and what would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from pcace_dist.datasets.sections import AUTO, FROM_MODEL
from pcace_dist.errors import JobError
from pcace_dist.progress.terminal import is_not_utf8

LONGEST_VALUE = 100  # characters of a value that an error repeats
MOST_VALUES = 100_000  # in a job file
UNITS = {"": 1, "b": 1} | {
    f"{prefix}{ending}": base**power
    for ending, base in (("b", 10**3), ("ib", 2**10))
    for power, prefix in enumerate("kmgt", start=1)
}
SIZE = r"^[0-9.]+ *([kKmMgGtT]?[iI]?[bB])?$"  # a size as text, for a JSON schema


def load_yaml(text: str, name: str) -> Any:
    """The value of a YAML text. Raises JobError for invalid YAML and for values that `_refuse_unwritable` refuses."""
    try:
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" line {error.problem_mark.line + 1}"
        raise JobError(f"{name}:{line} is not valid YAML: {error.problem or error.context}") from None
    except RecursionError:
        raise JobError(f"{name}: is not valid YAML: nested too deeply") from None
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # its constructors raise these
        reason = str(error).partition("\n")[0]
        raise JobError(f"{name}: is not valid YAML: {reason}") from None
    _refuse_unwritable(data, name)
    return data


def _refuse_unwritable(data: object, name: str) -> None:
    """Refuse values that would fail later: characters that no file name, column or URL can have, and values that
    contain themselves."""
    for count, node in enumerate(_nodes(data, name)):
        if count > MOST_VALUES:
            raise JobError(f"{name}: more than {MOST_VALUES:,} values; is an alias repeated within itself?")
        if isinstance(node, str) and ("\0" in node or is_not_utf8(node)):
            raise JobError(f"{name}: {short(node)} holds a null character or half a character; write plain text")


def _nodes(data: object, name: str, within: tuple[int, ...] = ()) -> Iterator[object]:
    """A value, and all keys and values inside it. Raises JobError where a value contains itself."""
    if id(data) in within:
        raise JobError(f"{name}: a value holds itself; write it without the alias")
    yield data
    children = (*data.keys(), *data.values()) if isinstance(data, Mapping) else data if isinstance(data, list) else ()
    for child in children:
        yield from _nodes(child, name, (*within, id(data)))


def apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise JobError(f"--set {override!r}: write key=value, for example --set workers.max=4")
    value = load_yaml(text, f"--set {short(override)}")
    *parents, last_key = key.strip().split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if child == AUTO and parents == ["model", "input"]:
            child = node[parent] = dict.fromkeys(FROM_MODEL, AUTO)
        if not isinstance(child, dict):
            raise JobError(f"--set {override!r}: {parent} is not a mapping")
        node = child
    node[last_key] = value


def parse_bytes(value: object) -> object:
    """'4GiB', '500 MB' or a number of bytes as an integer; anything else is left for the type check."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    number = text.rstrip("bikmgt ")
    unit = text[len(number) :].strip()
    try:
        return int(float(number) * UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"{short(value)} is not a size; for example 4GiB") from None


def flow(value: Any) -> str:
    """A value on one line, as YAML reads it back."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
