"""Intervals of scores that hold for all channels of a ranking at once. Pure; numpy only.

The interval of one channel misses its score once in twenty times; of fifty channels two or three are missed. Here the
critical value is that of the largest |t| over the channels (flips.py): all of them hold together with 95 %. Channels
that are seen on the same images err together, so that this is less wide than Sidak's t quantile.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.statistics.order.flips import FLIPS, LEVEL, critical_value, signs
from pcace_dist.statistics.student import t_quantile

Floats: TypeAlias = npt.NDArray[np.float64]

_TILE = 1024  # channels


def simultaneous_intervals(score_squared: Floats, pseudo: Floats, *, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Ends (C,) of the intervals of `score`, 0 to 1.

    score_squared: (C,) of all ranked channels; pseudo: their pseudo-values by fold (C, F), NaN for empty folds, with
    what another pilot would change where the intervals are to hold it. Seeded: the same every time.
    """
    residual = (pseudo - score_squared[:, None])[:, np.isfinite(pseudo).all(axis=0)]
    folds = residual.shape[1]
    norms = np.linalg.norm(residual, axis=1)
    units = residual / np.where(norms > 0, norms, 1.0)[:, None]
    peaks = np.zeros(FLIPS)
    for start in range(0, len(units), _TILE):
        peaks = np.maximum(peaks, np.abs(units[start : start + _TILE] @ signs(folds).T).max(axis=0))
    critical = max(float(critical_value(peaks, folds, level)), t_quantile(folds, (1 + level) / 2))
    reach = critical * norms / np.sqrt(folds * (folds - 1))
    low, high = (np.sqrt(np.clip(score_squared + way * reach, 0, 1)) for way in (-1, 1))
    return low, high
