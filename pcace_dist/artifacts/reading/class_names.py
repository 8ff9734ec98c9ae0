"""classes.parquet: names of a run's classes by index, and how its groups, labels and targets are shown with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pcace_dist.artifacts.columns import Column, Table
from pcace_dist.artifacts.encoding import parquet_bytes
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

    def asked_group(self, name: object) -> object:
        """The group that is meant by its value, by the name of its class (`cat`), or by both as shown (`3 (cat)`).

        A value comes before a name.
        """
        if not self.of_groups or not isinstance(name, str) or name in map(str, self._labels()):
            return name
        return next((label for label in self._labels() if name in (self._name(label), self.group(label))), name)

    def asked_target(self, name: str | None) -> str | None:
        """A target by its canonical name, which may have names of classes as `target` shows them."""
        if name is None or not name.startswith(_OF_A_CLASS):
            return name
        for index in self.names:
            name = name.replace(self.output(index), str(index))
        return name

    def _labels(self) -> list[int]:
        return [index + self.base for index in self.names]

    def _name(self, label: int) -> str:
        return self.names[label - self.base]

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
