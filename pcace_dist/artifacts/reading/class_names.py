"""classes.parquet: names of a run's classes by index, and how its groups, labels and targets are shown with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pcace_dist.artifacts.columns import Column, Table
from pcace_dist.artifacts.encoding import parquet_bytes
from pcace_dist.config.choice import group_names, layer_names
from pcace_dist.datasets.groups import name_of

if TYPE_CHECKING:
    from pcace_dist.storage.store import Sink

CLASSES = "classes.parquet"
TABLE = Table(
    CLASSES,
    "A row per class that has a name, by index. Only where the job, the data or the model name the classes.",
    (Column("index", "int64", "output of the model, from 0"), Column("name", "string", "its class")),
)
_OF_A_CLASS = ("logit:", "margin:", "loss:")  # targets that name outputs, each the class of that number
_OUTPUT = re.compile(r"(?<=[:-])\d+")  # of such a target's canonical name


@dataclass(frozen=True)
class ClassNames:
    """Names of classes by index, an output of the model. base: the label of the first class; 0, or 1 where labels count
    from 1. of_groups: whether the groups of the run are labels."""

    names: Mapping[int, str] = field(default_factory=dict)
    base: int = 0
    of_groups: bool = False

    def output(self, index: int) -> str:
        """An output of the model: `3 (cat)`, or `3` where it has no name of its own."""
        return self._named(str(index), index)

    def label(self, index: int) -> str:
        """The label of the class with this index, as the data have it: `4 (cat)` where labels count from 1."""
        return self._named(str(index + self.base), index)

    def group(self, value: Any) -> str:
        """A value of group_by: `3 (cat)` where groups are labels."""
        number = self.of_groups and isinstance(value, int | float) and not isinstance(value, bool)
        return self._named(name_of(value), value - self.base) if number else name_of(value)

    def target(self, name: str) -> str:
        """A target by its canonical name: `logit:3 (cat)`."""
        if not name.startswith(_OF_A_CLASS):
            return name
        return _OUTPUT.sub(lambda found: self.output(int(found[0])), name)

    def ranking(self, target: str, group: Any, *, grouped: bool) -> str:
        """A ranking, by the canonical name of its target: `logit:label`, `logit:label, group 3 (cat)`."""
        return self.target(target) + (f", group {self.group(group)}" if grouped else "")

    def of_column(self, column: str) -> Callable[[Any], Iterable[str]]:
        """What the values of a ranking's column may be called, as they are shown first."""
        return {"group": self.group_names, "target": self.target_names}.get(column, layer_names)

    def group_names(self, value: Any) -> Iterable[str]:
        """What a group may be called: `3 (cat)`, `3`, `cat`."""
        shown, plain = self.group(value), name_of(value)
        yield shown
        yield from group_names(value)
        if shown != plain:
            yield shown.removeprefix(f"{plain} (").removesuffix(")")

    def target_names(self, name: str) -> Iterable[str]:
        """What a target may be called: `logit:3 (cat)`, `logit:3`."""
        return self.target(name), name

    def _named(self, text: str, index: Any) -> str:
        name = self.names.get(index, text)
        return text if name == text else f"{text} ({name})"


def publish_class_names(sink: Sink, names: Mapping[int, str]) -> None:
    """A row per class: index (int64), name (string)."""
    sink.put(CLASSES, parquet_bytes(class_names_table(names)))


def class_names_table(names: Mapping[int, str]) -> pa.Table:
    ordered = sorted(names.items())
    return pa.table(
        {
            "index": pa.array([index for index, _ in ordered], pa.int64()),
            "name": pa.array([name for _, name in ordered], pa.string()),
        }
    )


def names_of_table(table: pa.Table) -> dict[int, str]:
    """What `class_names_table` has made a table of."""
    return dict(zip(table["index"].to_pylist(), table["name"].to_pylist(), strict=True))
