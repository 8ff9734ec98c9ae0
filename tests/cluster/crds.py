"""Strict checks against CustomResourceDefinitions, as an API server with strict field validation makes them.

A structural schema (Kubernetes' dialect of OpenAPI 3) becomes a JSON schema: fields that it does not name are refused
unless it preserves unknown ones, `int-or-string` and `nullable` are spelled out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

Json = dict[str, Any]


def schemas(folder: Path) -> dict[tuple[str, str], Json]:
    """JSON schemas of all served versions in a folder of CRD files, by (apiVersion, kind)."""
    by_kind: dict[tuple[str, str], Json] = {}
    for path in sorted(folder.glob("*.yaml")):
        spec = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        for version in spec["versions"]:
            if version["served"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                by_kind[key] = strict(version["schema"]["openAPIV3Schema"])
                by_kind[key]["properties"]["metadata"] = {"type": "object"}  # every kind's own, not the CRD's business
    return by_kind


def strict(schema: Any) -> Any:
    """One structural schema as a JSON schema that refuses unknown fields."""
    if isinstance(schema, bool):
        return schema
    made: Json = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        made = {**made, "type": ["integer", "string"]}
    if made.pop("nullable", False) and "type" in made:
        kind = made["type"]
        made["type"] = [*kind, "null"] if isinstance(kind, list) else [kind, "null"]
    if "properties" in made:
        made["properties"] = {name: strict(one) for name, one in made["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if key in made:
            made[key] = strict(made[key])
    return made  # allOf, anyOf, oneOf, not: conditions on fields that are named elsewhere, taken as they are


def problems(value: Json, schemas_known: dict[tuple[str, str], Json]) -> Iterator[str]:
    """What is wrong with one object, a line each; nothing is said of kinds that are not known."""
    schema = schemas_known.get((value["apiVersion"], value["kind"]))
    if schema is None:
        return
    for error in Draft202012Validator(schema).iter_errors(value):
        yield f"{value['kind']} {'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
