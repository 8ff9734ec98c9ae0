"""What the channels are ranked against: a function of the model's outputs, or a column of the data. Values only; no
files, no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.config.targets import LABEL, PREDICTED, TargetSpec
from pcace_dist.errors import ModelError

Floats: TypeAlias = npt.NDArray[np.float64]
Columns: TypeAlias = npt.NDArray[Any]
Labels: TypeAlias = npt.NDArray[np.int64] | Tensor | None


def target_values(
    specs: Sequence[TargetSpec], outputs: Tensor, labels: Labels, columns: Mapping[str, Columns]
) -> tuple[Floats, dict[int, str]]:
    """Values of all targets for one batch, and the reasons for rows to be set aside.

    outputs: (B, O); labels: int64 (B,), -1 where null; columns: by name, numbers float64 (B,), NaN where null,
    or vectors, an array (B,) of float64 (E,), None where null. Returns float64 (B, T), NaN where a target has no value,
    and {row: its first reason} for such rows. Raises ModelError for a target that no row can have.
    """
    logits = outputs.detach().to("cpu", torch.float64)
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


def target_tensor(
    spec: TargetSpec, outputs: Tensor, labels: Labels = None, columns: Mapping[str, Columns] | None = None
) -> Tensor:
    """One target's values float64 (B,), with their graph: each is a function of its own row of the outputs alone.

    outputs: (B, O), on any device; labels: int64 (B,); columns: of vectors (B,), as `target_values` takes them. NaN
    where a row has no class or no vector. Raises ModelError for a target that no row can have, and for a column.
    """
    if not spec.of_outputs:
        raise ModelError(f"target {spec.name}: is no function of the model's outputs")
    logits = outputs.double()
    if spec.kind == "cosine":
        vectors, has_value = _vectors(spec, logits, labels, columns or {})
        values = _cosine(logits, vectors)
    else:
        _check_outputs(spec, logits.shape[1])
        classes, has_value = _classes(spec, logits, labels)
        values = _of_class(spec, logits, classes)
    return torch.where(has_value, values, torch.nan)


def _of_class(spec: TargetSpec, logits: Tensor, classes: Tensor) -> Tensor:
    """The target, given each row's class (B,)."""
    own = logits.gather(1, classes[:, None])[:, 0]
    if spec.kind in ("margin", "loss"):
        everyone = torch.arange(logits.shape[1], device=logits.device)
        others = logits.masked_fill(everyone == classes[:, None], -torch.inf)
        if spec.kind == "margin":
            return own - others.max(dim=1).values
        return _log_one_plus_exp(others.logsumexp(dim=1) - own)
    return own if spec.minus is None else own - logits[:, spec.minus]


def _log_one_plus_exp(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact at both ends. By functions that torch vectorises whole: logaddexp and softplus compute the
    end of an array with other last bits, so that a row would depend on the length of its batch."""
    negative = x < 0
    return torch.where(negative, 0.0, x) + torch.where(negative, x, -x).exp().log1p()


def _cosine(embedding: Tensor, vectors: Tensor) -> Tensor:
    """Cosine (B,) of the angle between rows of two matrices (B, E); NaN where a row is all 0."""
    lengths = embedding.square().sum(dim=1).sqrt() * vectors.square().sum(dim=1).sqrt()
    return (embedding * vectors).sum(dim=1) / lengths


def _vectors(
    spec: TargetSpec, embedding: Tensor, labels: Labels, columns: Mapping[str, Columns]
) -> tuple[Tensor, Tensor]:
    """The vector of each row (B, E) that its embedding is compared with, and which rows have one; 1 for the others."""
    size, device = embedding.shape[1], embedding.device
    if spec.vectors is not None:
        rows = _column(spec.vectors, spec, columns)
        fits = np.array([row is not None and len(row) == size for row in rows], dtype=bool)
        stacked = np.stack([row if fit else np.ones(size) for row, fit in zip(rows, fits, strict=True)])
        return torch.from_numpy(stacked).to(device), torch.from_numpy(fits).to(device)
    if spec.prototypes is None:
        raise ModelError(f"target {spec.name}: the vectors of {spec.file} were not read")
    prototypes = torch.from_numpy(spec.prototypes.vectors).to(device)
    if prototypes.shape[1] != size:
        raise ModelError(
            f"target {spec.name}: vectors of {prototypes.shape[1]} values, and the model has {size} outputs; choose "
            "the embedding by model.output"
        )
    if spec.needs_label:
        classes, has_class = _own_classes(spec, labels, len(prototypes), device)
        return prototypes[classes], has_class
    return prototypes.expand(len(embedding), size), torch.ones(len(embedding), dtype=torch.bool, device=device)


def _column(name: str, spec: TargetSpec, columns: Mapping[str, Columns]) -> Columns:
    if name not in columns:
        raise ModelError(f"target {spec.name}: no such column was read; there are {', '.join(columns) or 'none'}")
    return columns[name]


def _own_classes(spec: TargetSpec, labels: Labels, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Each row's label, int64 (B,), and which rows have one of `count` classes; 0 for the others."""
    if labels is None:
        raise ModelError(f"target {spec.name}: needs dataset.label, the column with the class index")
    classes = torch.as_tensor(labels, device=device).long()
    has_class = (classes >= 0) & (classes < count)
    return torch.where(has_class, classes, 0), has_class


def _classes(spec: TargetSpec, logits: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """The class of each row, int64 (B,), and which rows have one; 0 for the others."""
    rows, count = logits.shape
    if spec.value == LABEL:
        return _own_classes(spec, labels, count, logits.device)
    every = torch.ones(rows, dtype=torch.bool, device=logits.device)
    if spec.value == PREDICTED:
        return logits.detach().argmax(dim=1), every
    return torch.full((rows,), int(spec.value), device=logits.device), every


def _check_outputs(spec: TargetSpec, count: int) -> None:
    """Raise ModelError where a model of so many outputs has no such target."""
    if spec.largest_index >= count:
        raise ModelError(f"target {spec.name}: the model has {count} outputs; the index must be from 0 to {count - 1}")
    if spec.kind in ("margin", "loss") and count < 2:
        raise ModelError(f"target {spec.name}: needs two outputs or more, and the model has 1; use {{output: 0}}")


def _values(
    spec: TargetSpec, logits: Tensor, labels: Labels, columns: Mapping[str, Columns]
) -> tuple[Floats, dict[int, str]]:
    """One target's values, unchecked, and {row: reason} for rows whose reason is known here."""
    if spec.column is not None:
        return np.asarray(_column(spec.column, spec, columns), dtype=np.float64), {}
    values: Floats = target_tensor(spec, logits, labels, columns).numpy()
    if spec.vectors is not None:
        return values, _without_vector(spec.vectors, columns[spec.vectors], logits.shape[1])
    if not spec.needs_label:
        return values, {}
    return values, _without_class(np.asarray(labels), spec, logits.shape[1])


def _without_vector(name: str, rows: Columns, size: int) -> dict[int, str]:
    lengths = {row: -1 if vector is None else len(vector) for row, vector in enumerate(rows)}
    return {
        row: f"column {name} is null" if length < 0 else f"column {name} has {length} values, the model {size} outputs"
        for row, length in lengths.items()
        if length != size
    }


def _without_class(labels: npt.NDArray[np.int64], spec: TargetSpec, outputs: int) -> dict[int, str]:
    count = outputs if spec.prototypes is None else len(spec.prototypes.vectors)
    of = f"the model's {count} outputs" if spec.prototypes is None else f"the {count} vectors of {spec.file}"
    outside = (labels < 0) | (labels >= count)
    return {row: _no_class(int(labels[row]), of) for row in np.flatnonzero(outside).tolist()}


def _no_class(label: int, of: str) -> str:
    if label == -1:
        return "label is null or -1"
    return f"label {label} is negative" if label < 0 else f"label {label} is beyond {of}"


def _unusable(spec: TargetSpec, value: float) -> str:
    if np.isnan(value):
        return f"target {spec.name} is null or NaN" if spec.kind == "column" else f"target {spec.name} is NaN"
    return f"target {spec.name} is infinite" if np.isinf(value) else f"target {spec.name} is {value:g}, beyond float32"
