"""Solves many channels x replicates at once in compiled loops: the problem of solve.py, one in each lane.

Pure: no I/O, no Ray. Three times as fast as LAPACK on one small matrix after the other, and equal to it but for the
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
from pcace_dist.statistics.loops import lane_loops
from pcace_dist.statistics.loops.compiled import has_numba, machine_code
from pcace_dist.statistics.loops.lane_loops import WIDTH
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
    """A target in every replicate, and its products with the channels."""

    def __init__(self, target: Target, means: Tensor, products: Integers) -> None:
        """means: (R, K), of the target's hats; products: int (C, F, p K K), of the channels' hats with its own."""
        replicates, knots = means.shape
        self.white = target.white.numpy()[..., : knots - 1]  # (R, K, Q)
        self.variance = target.variance.numpy()[:, : knots - 1, : knots - 1]
        self.products = products
        self.total = _totals(products)
        parts = (means.numpy(), self.white, self.variance)
        self._of_replicates = np.concatenate([part.reshape(replicates, -1) for part in parts], axis=1)

    def of_lanes(self, replicate: Integers) -> tuple[Floats, Floats, Floats]:
        """Of each lane's replicate (L,): means (K, L), white (K, Q, L) and variance (Q, Q, L)."""
        knots, columns = self.white.shape[1:]
        values = _of_lanes(self._of_replicates, replicate)
        white = values[knots : knots + knots * columns]
        return (
            values[:knots],
            white.reshape(knots, columns, WIDTH),
            values[knots + knots * columns :].reshape(columns, columns, WIDTH),
        )


class Lanes:
    """C channels in the jackknife's replicates: all rows, then all without each fold that has rows."""

    def __init__(self, xx: Integers, curvature: Curvature, rows: Integers, *, scale: int, penalty: float) -> None:
        """xx: products of hats, int (C, F, XX), packed, in units of scale^2; curvature: of the knots (C, p, K - 2);
        rows: of each fold (F,); penalty: lambda for one row, in the same units."""
        self._xx = xx
        self._total = _totals(xx)
        self._scale = scale
        self._penalty = curvature.matrix().numpy()
        parts = (curvature.left, curvature.right, curvature.weight)
        self._bends = np.stack([part.numpy() for part in parts], axis=-1)
        self._components, self._knots = self._penalty.shape[1:3]
        self._left_out = np.concatenate([[-1], np.flatnonzero(rows)])
        self._rows = rows.sum() - np.where(self._left_out < 0, 0, rows[self._left_out]).astype(np.float64)
        self._lamda = penalty * self._rows

    def solve(self, sides: Sequence[Side]) -> list[Solved]:
        """The solution for each target."""
        channels, replicates, hats = len(self._xx), len(self._rows), self._components * self._knots
        count = channels * replicates
        blocks = -(-count // WIDTH)
        lanes = np.minimum(np.arange(blocks * WIDTH), count - 1).reshape(blocks, WIDTH)
        found = [_Found.empty(blocks, hats, side.white.shape[2]) for side in sides]
        space = _Space.of(hats, self._xx.shape[2], self._knots)
        for block, own in enumerate(lanes):
            self._solve_block(*np.divmod(own, replicates), block, sides, found, space)
        return [self._solution(*each, channels) for each in zip(sides, found, strict=True)]

    def _solve_block(
        self,
        channel: Integers,
        replicate: Integers,
        block: int,
        sides: Sequence[Side],
        found: Sequence[_Found],
        space: _Space,
    ) -> None:
        """The lanes of these channels and replicates (L,), for every target, into the block's place."""
        fold, lamda, rows = self._left_out[replicate], self._lamda[replicate], self._rows[replicate]
        given = self._xx, self._total, channel, fold, rows, self._knots, self._scale, NOISE
        places = places_of(self._components, self._knots)
        results = space.entries, space.own, space.factor, space.ridge, space.inverse
        _prepare()(*given, places, self._penalty, lamda, RIDGE, *results)
        bends = _of_lanes(self._bends, channel)
        for side, into in zip(sides, found, strict=True):
            _answer()(
                *(side.products, side.total, channel, fold, space.own, *side.of_lanes(replicate)),
                *(space.factor, space.inverse, space.ridge, bends, lamda),
                *(space.products, space.half, space.inner, space.top),
                *(into.x[block], into.best[block], into.squared[block]),
            )

    def _solution(self, side: Side, found: _Found, channels: int) -> Solved:
        def by_channel(values: Floats) -> Floats:
            """Values (B, ..., L) of the problems: (C, R, ...)."""
            lanes = np.ascontiguousarray(np.moveaxis(values, -1, 1)).reshape(-1, *values.shape[1:-1])
            return lanes[: channels * len(self._rows)].reshape(channels, -1, *values.shape[1:-1])

        # of all rows; contiguous, for the order of numpy's sums depends on strides
        phi, best = (np.ascontiguousarray(by_channel(part)[:, 0]) for part in (found.x, found.best))
        phi = phi.reshape(channels, self._components, self._knots)
        theta = (side.white[0] * best[:, None]).sum(axis=2)
        y_variance = ((side.variance[0] * best[:, None]).sum(axis=2) * best).sum(axis=1)
        first = self._first(side.total, np.ascontiguousarray(phi[:, 0]), theta, y_variance)
        return Solved(by_channel(found.squared), first, phi, theta)

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


@dataclass(frozen=True, eq=False)
class _Found:
    """Results for one target: r^2 (B, L), transforms x (B, M, L), and the target's in whitened directions (B, Q, L)."""

    squared: Floats
    x: Floats
    best: Floats

    @classmethod
    def empty(cls, blocks: int, hats: int, columns: int) -> _Found:
        return cls(_lanes(blocks), _lanes(blocks, hats), _lanes(blocks, columns))


@dataclass(frozen=True, eq=False)
class _Space:
    """What one block needs on the way (loops/lane_loops.py), used again by the next: so it stays in the cache."""

    entries: Floats
    own: Floats
    factor: Floats
    ridge: Floats
    inverse: Floats
    products: Floats
    half: Floats
    inner: Floats
    top: Floats

    @classmethod
    def of(cls, hats: int, entries: int, knots: int) -> _Space:
        shapes = ((entries,), (3, hats), (hats, hats), (hats,), (hats,), (hats * knots,), (hats, knots - 1))
        return cls(*(_lanes(*shape) for shape in (*shapes, (knots - 1, knots - 1), ())))


@cache
def _prepare() -> Callable[..., None]:
    own = lane_loops
    calls = (own.spread, own.hats, own.centre, own.penalise, own.factorise)
    return machine_code(own.prepare, fused=False, calls=calls)


@cache
def _answer() -> Callable[..., None]:
    own = lane_loops
    calls = (own.spread, own.whiten, own.forward, own.squares, own.largest, own.backward, own.correlate)
    return machine_code(own.answer, fused=False, calls=calls)


def _run(loop: Callable[..., None], *arguments: Any) -> None:
    machine_code(loop, fused=False)(*arguments)


def _lanes(*shape: int) -> Floats:
    return np.empty((*shape, WIDTH))


def _totals(sums: Integers) -> Floats:
    out = np.empty((sums.shape[0], sums.shape[2]))
    _run(lane_loops.totals, sums, out)
    return out


def _of_lanes(values: Floats, index: Integers) -> Floats:
    """Values (N, ...) of each lane's index (L,): (..., L)."""
    out = _lanes(*values.shape[1:])
    _run(lane_loops.gather, values.reshape(len(values), -1), index, out.reshape(-1, WIDTH))
    return out


@lru_cache(maxsize=16)
def places_of(components: int, knots: int) -> Integers:
    """Packed position of every entry of the symmetric matrix (M, M); the number of packed entries where it is 0."""
    return unpack_index(components, knots).numpy()
