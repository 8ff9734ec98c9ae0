"""Prototype vectors from a file, which a target `cosine` compares the model's embedding with. Files are read by a
function `read(path) -> bytes`; nothing in a file is ever run."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pcace_dist.config.targets import LABEL, Prototypes, TargetSpec
from pcace_dist.errors import JobError
from pcace_dist.models.checkpoint import short_line


def with_prototypes(specs: Sequence[TargetSpec], read: Callable[[str], bytes]) -> tuple[TargetSpec, ...]:
    """The targets with the vectors that their files hold. Raises JobError, one line."""
    return tuple(spec if spec.file is None else replace(spec, prototypes=_prototypes(spec, read)) for spec in specs)


def _prototypes(spec: TargetSpec, read: Callable[[str], bytes]) -> Prototypes:
    label = f"target {spec.written}"
    try:
        data = read(str(spec.file))
    except OSError as error:
        reason = (error.strerror or str(error)).removeprefix(f"{spec.file}: ")
        raise JobError(f"{label}: cannot be read: {short_line(reason)}") from None
    try:
        content = np.load(io.BytesIO(data), allow_pickle=False)
        vectors = _named(content, spec, label) if isinstance(content, np.lib.npyio.NpzFile) else content
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise JobError(f"{label}: {spec.file} is no file of numpy.save or numpy.savez with numbers in it") from None
    return Prototypes(_checked(np.atleast_2d(vectors), spec, label), hashlib.sha256(data).hexdigest())


def _named(content: Any, spec: TargetSpec, label: str) -> npt.NDArray[Any]:
    if spec.pick not in content.files:
        raise JobError(f"{label}: {spec.file} has no vector of that name; there are: {', '.join(content.files)}")
    vector: npt.NDArray[Any] = content[spec.pick]
    return vector


def _checked(vectors: npt.NDArray[Any], spec: TargetSpec, label: str) -> npt.NDArray[np.float64]:
    """The vectors (P, E): all of them where the row's label picks, else the one that was picked."""
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise JobError(
            f"{label}: {spec.file} holds {vectors.dtype} of shape {vectors.shape}, not numbers (vectors, values)"
        )
    if isinstance(spec.pick, int):
        if spec.pick >= len(vectors):
            raise JobError(
                f"{label}: {spec.file} has {len(vectors)} vectors; index must be from 0 to {len(vectors) - 1}"
            )
        vectors = vectors[[spec.pick]]
    elif spec.pick != LABEL and len(vectors) != 1:
        raise JobError(f"{label}: {spec.file} has {len(vectors)} vectors under that name, not one")
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise JobError(f"{label}: {spec.file} has a vector without a direction (NaN, infinite or all 0)")
    return vectors.astype(np.float64)
