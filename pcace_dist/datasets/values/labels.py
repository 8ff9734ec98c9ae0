"""A column of labels as class indices: numbers of any type, numbers that count from 1, names of classes. Pure; no I/O.

A label that is null, NaN or -1 is no label: its row is unlabelled. Any other value that is no class index has a reason,
and its row is set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Indices: TypeAlias = npt.NDArray[np.int64]

UNLABELLED = -1
LARGEST = 2**63 - 1
NOT_WHOLE = "is not a whole number"
NAMED = 3  # classes that a message names
SHOWN = 40  # characters of a label that a reason repeats


@dataclass(frozen=True)
class LabelRange:
    """The least and the largest number; None where that is not known, or labels are texts. complete: it is known that
    no row is unlabelled."""

    low: float | None
    high: float | None
    complete: bool

    def __or__(self, other: LabelRange) -> LabelRange:
        """The range of both."""
        low = None if self.low is None or other.low is None else min(self.low, other.low)
        high = None if self.high is None or other.high is None else max(self.high, other.high)
        return LabelRange(low, high, self.complete and other.complete)


NO_ROWS = LabelRange(float("inf"), float("-inf"), True)


@dataclass(frozen=True)
class Labelling:
    """How a label is read.

    by_name: the class index of each text, where labels are texts; origin: where these names come from. base: what the
    first class is called, where labels are numbers; None: the job does not say, it counts from 0. needed: a row whose
    label is no class is set aside. leave_out: unlabelled rows are left out before they are decoded; it may be False
    where it is known that there are none. range: what footers say of all labels.
    """

    by_name: Mapping[str, int] | None = None
    base: int | None = None
    origin: str = ""
    needed: bool = False
    leave_out: bool = False
    range: LabelRange | None = None

    def indices(self, labels: pa.ChunkedArray) -> tuple[Indices, dict[int, str]]:
        """Class index of each row, int64 (n,), -1 where it has none; and why, for rows whose label is no class index.

        Indices may be beyond the model's outputs: here nobody knows how many it has.
        """
        if pa.types.is_null(labels.type) or not len(labels):
            return np.full(len(labels), UNLABELLED), {}
        if is_text(labels.type):
            return self._of_texts(labels)
        return self._of_numbers(_numbers(labels))

    def unlabelled(self, labels: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Which rows have no label: null, NaN or -1, bool (n,)."""
        labels = _numbers(labels)
        return _missing(labels, _as_numbers(labels)) if is_number(labels.type) else _nulls(labels)

    @property
    def remedy(self) -> str:
        """What would do where labels are no classes."""
        if not self.by_name:
            return "name the column with the class index in dataset.label"
        names = list(self.by_name)
        more = f", ... ({len(names):,} in all)" if len(names) > NAMED else ""
        return f"the names are {self.origin}'s: {', '.join(names[:NAMED])}{more}; dataset.classes names others"

    def _of_numbers(self, labels: pa.ChunkedArray) -> tuple[Indices, dict[int, str]]:
        values = _as_numbers(labels)
        missing = _missing(labels, values)
        base = self.base or 0
        whole = missing | ((values >= base) & (values <= LARGEST) & (np.floor(values) == values))
        used = whole & ~missing
        indices = np.full(len(values), UNLABELLED)
        indices[used] = values[used].astype(np.int64) - base
        return indices, _reasons(labels, ~whole, self._not_a_number_of_a_class)

    def _not_a_number_of_a_class(self, value: Any) -> str:
        number = f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, float) and not value.is_integer():
            return f"label {number} {NOT_WHOLE}"
        if value > LARGEST:
            return f"label {number} is too large"
        return f"label {number} is {f'below dataset.label_base {self.base}' if self.base else 'negative'}"

    def _of_texts(self, labels: pa.ChunkedArray) -> tuple[Indices, dict[int, str]]:
        known = self.by_name or {}
        names = pa.array(list(known), pa.string())
        places = np.fromiter(known.values(), np.int64, len(known))
        found = pc.index_in(labels.cast(pa.string()), names).to_numpy()
        missing = self.unlabelled(labels)
        has = ~np.isnan(found)
        indices = np.full(len(found), UNLABELLED)
        indices[has] = places[found[has].astype(np.int64)]
        return indices, {} if self.by_name is None else _reasons(labels, ~has & ~missing, _no_name_of_a_class)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether labels of this type are numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _numbers(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values in a type that can be compared."""
    if pa.types.is_boolean(labels.type):
        return labels.cast(pa.uint8())
    return labels.cast(pa.float32()) if pa.types.is_float16(labels.type) else labels


def _as_numbers(labels: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The values without nulls, in the column's own type: float64 would not hold every int64."""
    filled = pc.fill_null(labels, pa.scalar(0, labels.type)) if labels.null_count else labels
    return np.asarray(filled.to_numpy())


def _nulls(labels: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    if not labels.null_count:
        return np.zeros(len(labels), bool)
    return np.asarray(labels.is_null().to_numpy(), bool)


def _missing(labels: pa.ChunkedArray, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which numbers are no label. `values`: those of `labels` without nulls."""
    return np.asarray(_nulls(labels) | (values == UNLABELLED) | np.isnan(values))


def _reasons(labels: pa.ChunkedArray, wrong: npt.NDArray[np.bool_], told: Callable[[Any], str]) -> dict[int, str]:
    return {row: told(labels[row].as_py()) for row in np.flatnonzero(wrong).tolist()}


def _no_name_of_a_class(text: str) -> str:
    return f"label {short(text)} is no name of a class"


def short(text: str) -> str:
    """A label as a message shows it."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
