"""docs/reference/python.md: what `import pcace_dist` offers: signatures, docstrings, and the objects that come back."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from types import FunctionType

import pcace_dist
from pcace_dist.analysis.compare import Comparison, ComparisonSettings
from pcace_dist.commands.check.check import Checked
from pcace_dist.commands.evaluate import Evaluation, EvaluationSettings
from pcace_dist.commands.select.sets import Selected, SelectSettings
from pcace_dist.models.listing.found import Layers
from pcace_dist.reporting.build import ReportResult
from pcace_dist.reporting.options import ReportOptions
from tests.reference import HEAD, code, table

RETURNED = (Comparison, Evaluation, Selected, Checked, Layers, ReportResult)
"""What functions give back, besides a Run."""
SETTINGS = (ComparisonSettings, EvaluationSettings, SelectSettings, ReportOptions)
"""What `**settings` and `**options` may be."""

PAGE = """\
# Python

[python.md](../python.md) shows how these are used. They print nothing but progress; what is wrong with a job or its
input is a `PcaceError` ([exit codes](exit-codes.md#in-python)).

## Functions

{functions}## Run

{run}

{members}
## What functions return

{returned}## Settings

{settings}"""


def page() -> str:
    names = [name for name in pcace_dist.__all__ if isinstance(getattr(pcace_dist, name), FunctionType)]
    return HEAD + PAGE.format(
        functions="".join(function(name) for name in names),
        run=inspect.getdoc(pcace_dist.Run),
        members=members(pcace_dist.Run),
        returned="".join(f"### {kind.__name__}\n\n{inspect.getdoc(kind)}\n\n{members(kind)}\n" for kind in RETURNED),
        settings="\n".join(settings(kind) for kind in SETTINGS),
    )


def function(name: str) -> str:
    one = getattr(pcace_dist, name)
    return f"### {name}\n\n```python\n{signature(name, one)}\n```\n\n{inspect.getdoc(one)}\n\n"


def signature(name: str, one: object, width: int = 100) -> str:
    """On one line if it fits, else a parameter a line."""
    assert callable(one)
    called = inspect.signature(one)
    own = [parameter for parameter in called.parameters.values() if parameter.name != "self"]
    shown = [written(parameter) for parameter in own]
    kinds = [parameter.kind for parameter in own]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        shown.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    line = f"{name}({', '.join(shown)}) -> {called.return_annotation}"
    if len(line) <= width:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f") -> {called.return_annotation}"


def written(parameter: inspect.Parameter) -> str:
    """As in the source; annotations are text there (`from __future__ import annotations`)."""
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
    default = "" if parameter.default is inspect.Parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}: {parameter.annotation}{default}"


def members(kind: type) -> str:
    """A table of what a reader may use of a class: fields, properties, methods with a docstring."""
    return table(["", "is"], ([code(name), text] for name, text in described(kind)))


def described(kind: type) -> Iterator[tuple[str, str]]:
    seen = set()
    for name, one in vars(kind).items():
        if name.startswith("_") or not (text := first_sentence(one)):
            continue
        seen.add(name)
        yield (signature(name, one, width=1000) if isinstance(one, FunctionType) else name), text
    if is_dataclass(kind):
        yield from ((one.name, str(one.type)) for one in fields(kind) if one.name not in seen)


def first_sentence(one: object) -> str:
    """Of a property's or method's docstring; nothing for what has none."""
    if not isinstance(one, FunctionType | property) and not hasattr(one, "func"):
        return ""
    return " ".join((inspect.getdoc(one) or "").split("\n\n")[0].split())


def settings(kind: type) -> str:
    """A dataclass's fields with types and defaults."""
    assert is_dataclass(kind)
    rows = (
        [code(one.name), code(str(one.type)), "" if one.default is MISSING else code(repr(one.default))]
        for one in fields(kind)
    )
    return f"### {kind.__name__}\n\n{inspect.getdoc(kind)}\n\n{table(['setting', 'type', 'default'], rows)}"
