"""Covariances with known answers, and every subset's value by its definition, without any of the shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pcace_dist.statistics.sets.carried import Kept, Removed
from pcace_dist.statistics.sets.curves import Choice
from pcace_dist.statistics.sets.moments import Moments
from pcace_dist.statistics.sets.told import Told

Floats = npt.NDArray[np.float64]

GRID = 2000  # integers per unit


def covariance_of(y: Floats, parts: Floats) -> Floats:
    """Of [y, l_1 ... l_C]; y (n,), parts (n, C)."""
    return np.cov(np.column_stack([y, parts]).T, bias=True)


def moments_of(y: Floats, parts: Floats, folds: Any, grid: int = GRID) -> Moments:
    values = np.rint(np.column_stack([y, parts]) * grid).clip(-32768, 32767).astype(np.int16)
    return Moments(values.shape[1], 16).update(torch.from_numpy(values), torch.from_numpy(folds))


def shares_of(choice: Choice, covariance: Floats, order: Any, over: Floats | None = None) -> Floats:
    """Shares of an order over rows of a covariance, by default those that gave the weights."""
    over = covariance if over is None else over
    return choice.shares(choice.sums(covariance, np.asarray(order), over))


def lost_shares(covariance: Floats, order: Any) -> Floats:
    return shares_of(Removed(), covariance, order)


def carried_shares(covariance: Floats, order: Any) -> Floats:
    return shares_of(Kept(), covariance, order)


def told_by(covariance: Floats, hats: int, order: Any) -> Floats:
    return shares_of(Told(hats, len(order)), covariance, order)


def lost_of_rows(y: Floats, parts: Floats, removed: Sequence[int]) -> float:
    """1 - r^2 of the output with and without some channels, by the rows themselves; 1 where the sign turns."""
    after = y - parts[:, list(removed)].sum(1)
    if after.std() < 1e-9 or (r := float(np.corrcoef(y, after)[0, 1])) < 0:
        return 1.0
    return 1 - r**2


def best_subset(channels: int, size: int, value: Callable[[tuple[int, ...]], float]) -> tuple[float, tuple[int, ...]]:
    """The largest value over all subsets of a size, and one that has it."""
    return max((value(chosen), chosen) for chosen in combinations(range(channels), size))


def hats(values: Floats, knots: int = 9) -> Floats:
    """Hat functions (n, K) at quantiles."""
    at = np.quantile(values, np.linspace(0, 1, knots))
    return np.stack([np.interp(values, at, row) for row in np.eye(knots)], 1)


def told_of_rows(target: Floats, parts: Floats) -> float:
    """Largest squared canonical correlation of target (n, K) and parts (n, k), by orthonormal bases of both."""
    bases = []
    for side in (target, parts):
        left, size, _ = np.linalg.svd(side - side.mean(0), full_matrices=False)
        bases.append(left[:, size > 1e-8 * size[0]])
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)[0] ** 2)
