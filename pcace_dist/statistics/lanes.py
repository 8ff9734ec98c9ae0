"""Solves many channels x replicates at once in compiled loops: the problem of solve.py, one in each lane.

Pure: no I/O, no Ray. Several times as fast as LAPACK on one small matrix after the other, and equal to it but for the
last places. So a plan says which of the two its results come from (`SOLVERS`). The result of a lane does not depend on
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.loops.compiled import has_numba, machine_code
from pcace_dist.statistics.products import unpack_index
from pcace_dist.statistics.solve import NOISE, RIDGE, Curvature, Target

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.integer[Any]]

LAPACK, LANES = "lapack", "lanes"
SOLVERS = (LAPACK, LANES)
FEWEST_VALUES = 1 << 25  # rows x channels; with fewer, loading the compiler is not worth it
LARGEST = 192  # p K; larger factors do not stay in the cache, and LAPACK is as fast


def solver_for(rows: int, channels: int, size: int) -> str:
    """The solver of a new plan: for so many rows and channels, and matrices (size, size), size = p K."""
    return LANES if rows * channels >= FEWEST_VALUES and size <= LARGEST and has_numba() else LAPACK


def check_solver(name: str) -> str:
    """The solver of a plan. Raises StatisticsError where it is not known or cannot be used here."""
    if name not in SOLVERS:
        raise StatisticsError(f"the plan's solver is {name}, which is not known here; use the version that wrote it")
    if name == LANES and not has_numba():
        raise StatisticsError("the plan's solver is lanes, which needs numba; install numba")
    return name


@dataclass(frozen=True, eq=False)
class Solved:
    """What was solved for one target: r^2 of all rows and without each fold that has rows (C, R). Of all rows also
    first, r^2 of phi_1 alone (C,); phi (C, p, K) and theta (C, K), values of the transforms on the knots."""

    squared: Floats
    first: Floats
    phi: Floats
    theta: Floats


class Side:
    """A target in every replicate."""

    def __init__(self, target: Target, means: Tensor) -> None:
        """means: (R, K), of the target's hats."""
        replicates, knots = means.shape
        self.white = target.white.numpy()[..., : knots - 1]  # (R, K, Q)
        self.variance = target.variance.numpy()[:, : knots - 1, : knots - 1]
        parts = (means.numpy(), self.white, self.variance)
        self.of_replicates = np.concatenate([part.reshape(replicates, -1) for part in parts], axis=1)


class Lanes:
    """C channels in the jackknife's replicates: all rows, then all without each fold that has rows."""

    def __init__(self, xx: Integers, curvature: Curvature, rows: Integers, *, scale: int, penalty: float) -> None:
        """xx: products of hats, int (C, F, XX), packed, in units of scale^2; curvature: of the knots (C, p, K - 2);
        rows: of each fold (F,); penalty: lambda for one row, in the same units."""
        self._xx = xx
        self._total = np.empty((len(xx), xx.shape[2]))  # over folds: `solve` fills it
        self._scale = scale
        matrices = curvature.matrix().numpy()
        self._components, self._knots = matrices.shape[1:3]
        bends = np.stack([part.numpy() for part in (curvature.left, curvature.right, curvature.weight)], axis=-1)
        self._of_channels = np.concatenate([_bands(matrices).reshape(len(xx), -1), bends.reshape(len(xx), -1)], axis=1)
        self._left_out = np.concatenate([[-1], np.flatnonzero(rows)])
        self._rows = rows.sum() - np.where(self._left_out < 0, 0, rows[self._left_out]).astype(np.float64)
        self._lamda = penalty * self._rows

    def solve(self, sides: Sequence[Side], products: Integers) -> list[Solved]:
        """The solution for each target; products: int (T, C, F, p K K), of the channels' hats with the targets'."""
        targets, channels, knots, hats = len(sides), len(self._xx), self._knots, self._components * self._knots
        totals = np.empty((*products.shape[:2], products.shape[3]))
        squared = np.empty((targets, channels, len(self._rows)))
        phi, best = np.empty((targets, channels, hats)), np.empty((targets, channels, knots - 1))
        of_replicates = np.stack([side.of_replicates for side in sides])
        given = self._left_out, self._rows, self._lamda, self._of_channels, of_replicates
        sizes = places_of(self._components, knots), knots, knots - 1, self._scale
        _solve()(self._xx, self._total, products, totals, *given, *sizes, NOISE, RIDGE, squared, phi, best)
        return [self._solution(*each) for each in zip(sides, totals, squared, phi, best, strict=True)]

    def _solution(self, side: Side, total: Floats, squared: Floats, phi: Floats, best: Floats) -> Solved:
        phi = phi.reshape(-1, self._components, self._knots)
        theta = (side.white[0] * best[:, None]).sum(axis=2)
        y_variance = ((side.variance[0] * best[:, None]).sum(axis=2) * best).sum(axis=1)
        first = self._first(total, np.ascontiguousarray(phi[:, 0]), theta, y_variance)
        return Solved(squared, first, phi, theta)

    def _first(self, total: Floats, phi: Floats, theta: Floats, y_variance: Floats) -> Floats:
        """r^2 (C,) of the first component alone over all rows; phi, theta: (C, K); total: products with the target.

        Of products as they are: transforms less their means give moments about the means.
        """
        knots, n = self._knots, self._rows[0] * self._scale**2
        squares = np.ascontiguousarray(self._total[:, :knots])
        neighbours = np.ascontiguousarray(self._total[:, knots : 2 * knots - 1])
        products = np.ascontiguousarray(total[:, : knots**2]).reshape(-1, knots, knots)
        sums = squares.copy()
        sums[:, :-1] += neighbours
        sums[:, 1:] += neighbours
        x = phi - (sums * phi).sum(axis=1, keepdims=True) / n
        covariance = (x * (products * theta[:, None]).sum(axis=2)).sum(axis=1)
        x_variance = (x * x * squares).sum(axis=1) + 2 * (x[:, :-1] * x[:, 1:] * neighbours).sum(axis=1)
        product = x_variance * y_variance
        moves = (x_variance > 0) & (y_variance > 0) & (product > 0)
        return np.where(moves, np.minimum(covariance * covariance / np.where(moves, product, 1.0), 1.0), 0.0)


def _bands(matrices: Floats) -> Floats:
    """Of each knot the entries of matrices (C, p, K, K) with itself and the next two; 0 beyond: (C, p, K, 3)."""
    bands = np.zeros((*matrices.shape[:3], 3))
    for beside in range(3):
        diagonal = np.diagonal(matrices, beside, axis1=2, axis2=3)
        bands[:, :, : diagonal.shape[2], beside] = diagonal
    return bands


@cache
def _solve() -> Callable[..., None]:
    from pcace_dist.statistics.loops import lane_loops as own  # with Numba

    steps = (
        own.totals,
        own.gather,
        own.spread,
        own.hats,
        own.centre,
        own.penalise,
        own.over_root,
        own.two_rows,
        own.factorise,
    )
    calls = (*steps, own.whiten, own.forward, own.squares, own.largest, own.backward, own.correlate)
    return machine_code(own.solve, fused=False, calls=calls)


@lru_cache(maxsize=16)
def places_of(components: int, knots: int) -> Integers:
    """Packed position of every entry of the symmetric matrix (M, M); the number of packed entries where it is 0."""
    return unpack_index(components, knots).numpy()
