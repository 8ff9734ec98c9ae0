"""What is wrong with a job, as one line: the key, the value and what would do, from what pydantic found."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from pcace_dist.config.text import flow, short

MAPPINGS = ("dict_type", "model_type", "dataclass_type")  # another value where a section or a mapping is due
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # of a model, of a dataclass


def explain(error: ValidationError, job: type) -> str:
    """One line about the first mistake. `job`: the section that is the whole job file.

    Unknown keys come first: a misspelt key explains why another one is missing.
    """
    return explain_all(error, job)[0][1]


def explain_all(error: ValidationError, job: type) -> list[tuple[tuple[str, ...], str]]:
    """A key, as its parts, and a line for each mistake; of several about one key the first."""
    lines: dict[tuple[str, ...], str] = {}
    for problem in sorted(error.errors(), key=lambda problem: problem["type"] not in UNKNOWN):
        parts = tuple(str(part) for part in problem["loc"] if not _is_union_tag(part))
        lines.setdefault(parts, _line(".".join(parts), problem, job))
    return list(lines.items())


def _line(key: str, problem: Mapping[str, Any], job: type) -> str:
    if problem["type"] in UNKNOWN:
        section = _section_around(problem["loc"], job)
        known_keys = [] if section is None else list(keys_of(section))
        nearest = difflib.get_close_matches(str(problem["loc"][-1]), known_keys, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known_keys)}"
        return f"unknown key {key!r}; {hint}"
    if problem["type"] == "missing":
        return f"{key} is missing; it is required"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in MAPPINGS:
        message = "should be a mapping"
    message = message[0].lower() + message[1:]
    value = problem["input"]
    got = "" if isinstance(value, Mapping | list) else f" (got {short(value)})"
    return f"{key}: {message}{got}{_example(problem, job)}" if key else message


def _example(problem: Mapping[str, Any], job: type) -> str:
    """How a key is written that holds a value of another type, as its declaration has it."""
    *_, name = problem["loc"]
    section = _section_around(problem["loc"], job)
    if not problem["type"].endswith("_type") or section is None or name not in keys_of(section):
        return ""
    return "".join(f"; for example {name}: {flow(example)}" for example in _examples_of(section, name)[:1])


def _examples_of(section: type, name: str) -> list[Any]:
    if issubclass(section, BaseModel):
        return section.model_fields[name].examples or []
    assert is_dataclass(section)
    return next(each.metadata.get("examples", []) for each in fields(section) if each.name == name)


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and part in {
        "int",
        "str",
        "float",
        "bool",
        "tuple[int, int]",
        "literal['auto']",
        "constrained-int",
        "Layer",
        "function-before",
        "list[union[str,int,float,bool]]",
    }


def _section_around(loc: tuple[int | str, ...], job: type) -> type | None:
    """The section that contains a key; None where it is a mapping of other names."""
    section = job
    for part in loc[:-1]:
        if not isinstance(part, str) or part not in keys_of(section):
            continue
        inner = section_of(keys_of(section)[part])
        if inner is None:
            return None
        section = inner
    return section


def keys_of(section: type) -> dict[str, Any]:
    """The keys of a section, with their types."""
    if issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    return get_type_hints(section)


def section_of(annotation: object) -> type | None:
    """The section that a key of this type holds, or one of each of several; None where it holds plain values."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, dict, list):
        for argument in get_args(annotation):
            section = section_of(argument)
            if section is not None:
                return section
    return None
