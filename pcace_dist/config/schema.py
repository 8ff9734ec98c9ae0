"""The job file's JSON Schema, for editors, for the reference and for TAB: from what jobs are read and checked by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pcace_dist.config.job import Job

Node = dict[str, Any]


def job_schema() -> Node:
    """JSON Schema (2020-12) of a job file. `unit` is a keyword of our own: the unit of a key's numbers."""
    schema = _without_titles(Job.model_json_schema())
    schema["$defs"] = {name: _closed(section) for name, section in schema["$defs"].items()}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pcace job file",
        "description": "What `pcace rank` runs. Keys without a default are required.",
    }
    return head | {key: value for key, value in schema.items() if key not in head}


def job_keys(schema: Node) -> Iterator[tuple[str, Node]]:
    """Every key as the job file nests it (`statistics.knots`) with its schema, sections before their keys."""
    yield from _keys(schema, schema, "")


def section_of(node: Node, schema: Node) -> Node | None:
    """The section that a key holds; None where it holds plain values or several sections."""
    for choice in (node, *node.get("anyOf", ())):
        if "$ref" in choice:
            section: Node = schema["$defs"][choice["$ref"].rpartition("/")[2]]
            return section
    return None


def _keys(section: Node, schema: Node, prefix: str) -> Iterator[tuple[str, Node]]:
    for name, node in section["properties"].items():
        yield prefix + name, node
        inner = None if name == "layers" else section_of(node, schema)
        if inner is not None:
            yield from _keys(inner, schema, f"{prefix}{name}.")


def _closed(section: Node) -> Node:
    """A section that refuses unknown keys. Before 2.14 pydantic says so of its models alone, not of dataclasses."""
    return section | {"additionalProperties": False} if "properties" in section else section


def _without_titles(value: Any) -> Any:
    """The schema without the titles that pydantic makes of names, and without sections as defaults of themselves."""
    if isinstance(value, list):
        return [_without_titles(each) for each in value]
    if not isinstance(value, dict):
        return value
    dropped = ("title", "default") if "$ref" in value else ("title",)
    return {key: _without_titles(each) for key, each in value.items() if key not in dropped}
