"""How large the largest |t| of many statistics is by chance, from sign flips of their residuals by fold. Pure.

A flip does not change the sum of squares q of residuals. So |t| grows with u = |sum of flipped| / sqrt(q), and t
follows from u: t = u sqrt(F - 1) / sqrt(F - u^2), studentised again at each flip. With 16 folds the tails are heavy,
and a Gaussian multiplier would miss this.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

LEVEL = 0.95
FLIPS = 999


@lru_cache(maxsize=4)
def signs(folds: int) -> npt.NDArray[np.float32]:
    """Signs (FLIPS, F); the same for every ranking."""
    drawn = np.random.default_rng(0).integers(0, 2, size=(FLIPS, folds)) * 2 - 1
    return drawn.astype(np.float32)


def critical_value(peaks: Floats, folds: int, level: float) -> Floats:
    """Critical values (...) of |t| from the largest u under every flip (..., FLIPS)."""
    quantile = math.ceil(level * FLIPS) - 1
    u = np.partition(peaks, quantile, axis=-1)[..., quantile]
    return np.asarray(u * math.sqrt(folds - 1) / np.sqrt(np.maximum(folds - u * u, 1e-9)))
