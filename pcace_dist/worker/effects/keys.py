"""What the axes of effects go by: labels, groups and folds of rows, and how many rows each key has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.datasets.groups import name_of
from pcace_dist.datasets.loader import Batch

Integers: TypeAlias = npt.NDArray[np.int64]
Key: TypeAlias = int | str


@dataclass(frozen=True, eq=False)
class RowKeys:
    """Of n rows: labels (n,), -1 where null, or None; names of their groups, or None; folds (n,)."""

    labels: Integers | None
    groups: Sequence[str] | None
    folds: Integers

    @classmethod
    def of(cls, batch: Batch, rows: Integers, folds: int) -> RowKeys:
        """Of some rows of a batch."""
        return cls(
            None if batch.labels is None else batch.labels[rows],
            None if batch.groups is None else [name_of(batch.groups[row]) for row in rows],
            (batch.fold_keys[rows] % np.uint64(folds)).astype(np.int64),
        )

    def take(self, rows: slice) -> RowKeys:
        """Some of the rows."""
        return RowKeys(
            None if self.labels is None else self.labels[rows],
            None if self.groups is None else self.groups[rows],
            self.folds[rows],
        )

    @staticmethod
    def cat(parts: Sequence[RowKeys]) -> RowKeys:
        """Rows of several parts, one after the other."""
        labels = [part.labels for part in parts if part.labels is not None]
        groups = [part.groups for part in parts if part.groups is not None]
        return RowKeys(
            np.concatenate(labels) if labels else None,
            [name for part in groups for name in part] if groups else None,
            np.concatenate([part.folds for part in parts]),
        )

    def number(self, kind: str, keys: Sequence[Key]) -> Integers:
        """The number of each row's key among `keys`, int64 (n,); -1 where it is none of them."""
        if kind == "one":
            return np.zeros(len(self.folds), np.int64)
        values: Sequence[Key] = self.groups or () if kind == "group" else _listed(self.labels)
        place = {key: index for index, key in enumerate(keys)}
        return np.array([place.get(value, -1) for value in values], np.int64)

    def count(self, kind: str, keys: Sequence[Key]) -> Integers:
        """Rows of each key, int64 (keys,)."""
        numbers = self.number(kind, keys)
        return np.bincount(numbers[numbers >= 0], minlength=len(keys))


def _listed(labels: Integers | None) -> Sequence[Key]:
    values: list[Key] = [] if labels is None else labels.tolist()
    return values
