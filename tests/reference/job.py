"""docs/reference/job.md: every key of the job file, from its JSON Schema; and the schema itself."""

from __future__ import annotations

import json
from typing import Any

import yaml

from pcace_dist.config.job import INDEPENDENT
from pcace_dist.config.schema import Node, job_schema, section_of
from tests.reference import HEAD, code, table

INTRO = """\
# The job file

YAML. Keys without a default are required; a key that is not listed here is an error that names the nearest one. Paths
are local, relative to the folder in which the command is started, or `s3://`. `--set statistics.knots=17` replaces a
key for one command.

Runs are the same job, and `pcace rank` goes on with them, where only these keys differ: {free}.

An editor with a YAML language server (VS Code's YAML extension, Neovim, JetBrains) checks a job file and completes its
keys where the file begins with

```yaml
# yaml-language-server: $schema=job.schema.json
```

after `pcace schema > job.schema.json`; [job.schema.json](job.schema.json) is that file.
"""


def schema_text() -> str:
    return json.dumps(job_schema(), indent=2) + "\n"


def page() -> str:
    schema = job_schema()
    sections = [section("", schema, schema)]
    return HEAD + INTRO.format(free=code(*free())) + "".join(sections)


def free() -> list[str]:
    """Keys outside of the fingerprint."""
    return [
        path
        for name, keys in INDEPENDENT.items()
        for path in ([name] if keys is True else (f"{name}.{key}" for key in sorted(keys)))
    ]


def section(path: str, node: Node, schema: Node) -> str:
    """A section with its keys, then the sections in it."""
    keys = node["properties"]
    rows = (
        [
            code(name),
            words(one),
            default(one, name in node.get("required", ())),
            one.get("unit", ""),
            example(name, one),
            meaning(path, name, one, schema),
        ]
        for name, one in keys.items()
    )
    text = table(["key", "is", "default", "unit", "example", "meaning"], rows)
    head = f"\n## {path}\n\n{node['description']}\n\n" if path else "\n"
    inner = ((f"{path}.{name}".lstrip("."), section_of(one, schema)) for name, one in keys.items())
    return head + text + "".join(section(name, below, schema) for name, below in inner if below is not None)


def meaning(path: str, name: str, node: Node, schema: Node) -> str:
    if section_of(node, schema) is None:
        return str(node["description"])
    return f"{node['description']} [Its keys](#{f'{path}.{name}'.lstrip('.').replace('.', '')})."


def default(node: Node, required: bool) -> str:
    if required:
        return "required"
    return f"`{flow(node['default'])}`" if "default" in node else ""


def example(name: str, node: Node) -> str:
    return ", ".join(f"`{name}: {flow(value)}`" for value in node["examples"])


def flow(value: Any) -> str:
    """A value as YAML of one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def words(node: Node) -> str:
    """The type of a key in words."""
    if "$ref" in node:
        return "section"
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(words(choice) for choice in node["anyOf"]))
    if "enum" in node or "const" in node:
        return " or ".join(f"`{flow(value)}`" for value in node.get("enum", [node.get("const")]))
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return " or ".join(word(kind, node) for kind in kinds)


def word(kind: str, node: Node) -> str:
    if kind == "array":
        items = node.get("items") or {}
        of = f"({words(items)})" if "anyOf" in items else words(items) if items else ""
        return f"list of {of}" if items else f"[{', '.join(words(item) for item in node['prefixItems'])}]"
    if kind == "object":
        return "mapping"
    plain = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    return plain.get(kind, kind) + bounds(node)


def bounds(node: Node) -> str:
    """from 1 to 20, above 0, ..."""
    signs = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return "".join(f" {sign} {node[key]:,}" for key, sign in signs.items() if key in node)
