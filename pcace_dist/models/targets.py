"""What the channels are ranked against: a logit, an output or a column of the data. Values only; no files, no
models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.config.targets import TargetSpec
from pcace_dist.errors import ModelError

Floats: TypeAlias = npt.NDArray[np.float64]


def target_values(
    specs: Sequence[TargetSpec],
    outputs: Tensor,
    labels: npt.NDArray[np.int64] | Tensor | None,
    columns: Mapping[str, Floats],
) -> tuple[Floats, dict[int, str]]:
    """Values of all targets for one batch, and the reasons for rows to be set aside.

    outputs: (B, O); labels: int64 (B,), -1 where null; columns: float64 (B,) by name, NaN where null. Returns float64
    (B, T), NaN where a target has no value, and {row: its first reason} for such rows. Raises ModelError for a target
    that no row can have.
    """
    logits: Floats = outputs.detach().to("cpu", torch.float64).numpy()
    values: Floats = np.full((len(logits), len(specs)), np.nan)
    reasons: dict[int, str] = {}
    for column, spec in zip(values.T, specs, strict=True):
        raw, without_value = _values(spec, logits, labels, columns)
        for row, reason in without_value.items():
            reasons.setdefault(row, reason)
        is_usable = usable(raw)
        column[:] = np.where(is_usable, raw, np.nan)
        for row in np.flatnonzero(~is_usable).tolist():
            reasons.setdefault(row, _unusable(spec, float(raw[row])))
    return values, reasons


def usable(values: Floats) -> npt.NDArray[np.bool_]:
    """Which values can be a target: numbers within the range of float32. A larger value would leave no room for the
    others on the grid of knots, and squares would overflow."""
    return np.asarray(np.abs(values) <= np.finfo(np.float32).max)


def _values(
    spec: TargetSpec, logits: Floats, labels: npt.NDArray[np.int64] | Tensor | None, columns: Mapping[str, Floats]
) -> tuple[Floats, dict[int, str]]:
    """One target's values, unchecked, and {row: reason} for rows whose reason is known here."""
    if spec.kind == "column":
        if spec.value not in columns:
            raise ModelError(f"target {spec.name}: no such column was read; there are {', '.join(columns) or 'none'}")
        return np.asarray(columns[str(spec.value)], dtype=np.float64), {}
    if spec.value == "predicted":
        return logits.max(axis=1), {}
    if spec.value == "label":
        if labels is None:
            raise ModelError(f"target {spec.name}: needs dataset.label, the column with the class index")
        return _of_labels(logits, np.asarray(labels))
    index, count = int(spec.value), logits.shape[1]
    if index >= count:
        raise ModelError(f"target {spec.name}: the model has {count} outputs; the index must be from 0 to {count - 1}")
    return logits[:, index], {}


def _of_labels(logits: Floats, labels: npt.NDArray[np.int64]) -> tuple[Floats, dict[int, str]]:
    rows, count = logits.shape
    has_class = (labels >= 0) & (labels < count)
    values = np.where(has_class, logits[np.arange(rows), np.where(has_class, labels, 0)], np.nan)
    return values, {row: _no_class(int(labels[row]), count) for row in np.flatnonzero(~has_class).tolist()}


def _no_class(label: int, count: int) -> str:
    if label == -1:
        return "label is null or -1"
    return f"label {label} is negative" if label < 0 else f"label {label} is beyond the model's {count} outputs"


def _unusable(spec: TargetSpec, value: float) -> str:
    if np.isnan(value):
        return f"target {spec.name} is null or NaN" if spec.kind == "column" else f"target {spec.name} is NaN"
    return f"target {spec.name} is infinite" if np.isinf(value) else f"target {spec.name} is {value:g}, beyond float32"
