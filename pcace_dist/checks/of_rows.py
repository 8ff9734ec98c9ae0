"""The cheap checks that `pcace rank` makes by itself, on the rows that its pilot has read anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pcace_dist.checks import accuracy, near_duplicates, values
from pcace_dist.checks.finding import WARNING, Finding


def warnings_of(
    images: Tensor,
    predicted: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64] | None,
    *,
    outputs: int,
    names: Mapping[int, str],
    mean: Sequence[float],
    std: Sequence[float],
    fold_by: str | None,
    fold_keys: Sequence[int] | None,
) -> list[Finding]:
    """What is probably wrong, as warnings.

    images: uint8 (n, C, H, W), at most near_duplicates.MOST of them are looked at; predicted, labels: int64 (m,), of as
    many rows or more; fold_keys: n, or None.
    """
    step = -(-len(images) // near_duplicates.MOST)
    some, keys = images[::step], None if fold_keys is None else list(fold_keys)[::step]
    found = [
        values.finding_of(some, mean, std),
        near_duplicates.finding_of(near_duplicates.near_duplicates(some, keys), fold_by=fold_by),
        None if labels is None else accuracy.finding_of(predicted, labels, outputs, names),
    ]
    return [finding for finding in found if finding is not None and finding.level == WARNING]
