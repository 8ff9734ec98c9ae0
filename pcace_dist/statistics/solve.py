"""Penalised maximal correlation from second moments of hat functions, batched over channels, replicates and targets.

Pure float64 maths: no I/O, no Ray, no folds. The transforms theta(y) and phi_1(x_1) ... phi_p(x_p) are
piecewise linear on frozen knots; with coefficients b and a they maximise

    a' Sxy b   subject to   a' (Sxx + lambda Px) a = 1,   b' (Syy + lambda Py) b = 1

(ACE over a fixed basis is a canonical correlation: Breiman & Friedman 1985; Buja 1990). P is the integrated squared
second derivative in x. The reported r^2 is that of the resulting transforms, without penalty.

S may be a covariance times any factor, if Sxx, Sxy, Syy and lambda have the same factor: r^2 does not change, only the
length of the transforms.

The result for one problem does not depend on the other problems in the batch, nor on the number of threads: matrices
are padded so that each starts on a 64-byte boundary, and the work is done on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-8  # of the normalised diagonal; the direction in which all hats sum to 1 has no variance
NOISE = 1e-12  # a hat's variance up to this, relative to its mean square, is rounding noise
_STIFFEST = 1e6  # largest weight of a squared second difference: two knots in one place must not dominate the rest


@dataclass(frozen=True, eq=False)
class Solution:
    """x: (t, c, R, p, K) and y: (t, c, R, K), values of the transforms on the knots; squared: r^2 (t, c, R);
    squared_first: r^2 of phi_1 alone in the first replicate (t, c)."""

    x: Tensor
    y: Tensor
    squared: Tensor
    squared_first: Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch within the block, so that no kernel splits a sum by the number of threads.

    The number is the process's: blocks of several threads that overlap leave it at 1, unless one block is around all.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class Curvature:
    """Curvature of functions on knots (..., K): at each inner knot the deviation from the line through its neighbours,
    f_k + left_k f_k-1 + right_k f_k+1, and the weight of its square. left, right, weight: float64 (..., K - 2)."""

    left: Tensor
    right: Tensor
    weight: Tensor

    @classmethod
    def of(cls, knots: Tensor, spread: Tensor) -> Curvature:
        """The integral of f''^2 for f on the knots (..., K), x in units of spread (...,).

        The second derivative at a knot is the change of slope divided by the mean of the two spacings g and h; its
        square counts for that length: 2 e^2 (g + h) / (g h)^2, where e is the deviation of f from the straight line
        through its neighbours. A straight line in x costs nothing, for any spacing.
        """
        gaps = ((knots[..., 1:] - knots[..., :-1]) / spread.unsqueeze(-1)).double()
        left, right = gaps[..., :-1], gaps[..., 1:]
        weight = (2 * (left + right) / (left * right).square()).clamp(max=_STIFFEST)
        return cls(-right / (left + right), -left / (left + right), weight)

    def matrix(self) -> Tensor:
        """P (..., K, K) with f' P f = the integral."""
        count = self.weight.shape[-1]
        difference = torch.zeros((*self.weight.shape, count + 2), dtype=torch.float64, device=self.weight.device)
        inner = torch.arange(count, device=self.weight.device)
        difference[..., inner, inner] = self.left
        difference[..., inner, inner + 1] = 1.0
        difference[..., inner, inner + 2] = self.right
        return difference.transpose(-1, -2) @ (self.weight.unsqueeze(-1) * difference)

    def cost(self, values: Tensor) -> Tensor:
        """The integral (...,) of functions (..., K)."""
        bends = values[..., :-2] * self.left + values[..., 1:-1] + values[..., 2:] * self.right
        return (bends.square_() * self.weight).sum(dim=-1)


def penalty_matrix(knots: Tensor, spread: Tensor) -> Tensor:
    """P (..., K, K) with f' P f = integral of f''^2 for f on the knots (..., K), x in units of spread (...,)."""
    return Curvature.of(knots, spread).matrix()


def padded(size: int) -> int:
    """The next multiple of 8: a float64 matrix with so many rows or columns fills whole 64-byte lines."""
    return -(-size // 8) * 8


def whiten_target(syy: Tensor, penalty: Tensor) -> Tensor:
    """W (..., K, K') with W' (Syy + penalty) W = 1, without the direction of least variance (the constant).

    syy, penalty: float64 (..., K, K). K' is K - 1 padded by zero columns.
    """
    normalised, inverse = _normalise(syy + penalty)
    values, vectors = torch.linalg.eigh(normalised)
    white = inverse.unsqueeze(-1) * vectors / (values.clamp(min=0) + RIDGE).sqrt().unsqueeze(-2)
    directions = white[..., 1:].flip(-1)
    width = padded(directions.shape[-1])
    return torch.nn.functional.pad(directions, (0, width - directions.shape[-1]))


@dataclass(frozen=True, eq=False)
class Target:
    """One target in every replicate: white (R, K, K'), from `whiten_target`; variance (R, K', K'), the whitened moments
    without penalty."""

    white: Tensor
    variance: Tensor

    @classmethod
    def of(cls, syy: Tensor, penalty: Tensor) -> Target:
        """syy, penalty: float64 (R, K, K)."""
        white = whiten_target(syy, penalty)
        return cls(white, torch.bmm(white.mT, torch.bmm(syy, white)))


@dataclass(frozen=True, eq=False)
class Channels:
    """c channels in R replicates, for any target.

    factor: (c R, M, M), Cholesky factor (upper) of the moments with penalty and ridge      ridge: (c R, M)
    curvature: of the knots (c, 1, p, K - 2), its weight times lambda (c, R, p, K - 2)
    first: (c, K, K), the first component's moments over all rows, without penalty
    """

    factor: Tensor
    ridge: Tensor
    curvature: Curvature
    first: Tensor

    @classmethod
    def of(cls, moments: Tensor, curvature: Curvature, lamda: Tensor) -> Channels:
        """Factorises moments (c, R, M, M) of hats, M = padded(p K), zero beyond p K; writes into them.

        curvature: of knots (c, p, K); lamda: the weight of the penalty in every replicate (R,).
        """
        channels, replicates, size, _ = moments.shape
        _, components, knots = curvature.left.shape
        knots += 2
        first = moments[:, 0, :knots, :knots].clone()
        block_shape = (components, knots, knots)
        steps = (moments.stride(0), moments.stride(1), knots * (size + 1), size, 1)
        blocks = moments.as_strided((channels, replicates, *block_shape), steps)
        blocks.addcmul_(curvature.matrix().unsqueeze(1), lamda.reshape(1, -1, 1, 1, 1))
        diagonal = moments.diagonal(dim1=2, dim2=3)
        ridge = diagonal * RIDGE
        diagonal.copy_(torch.where(diagonal > 0, diagonal + ridge, 1.0))
        factor = torch.linalg.cholesky_ex(moments.flatten(0, 1), upper=True).L
        weighted = Curvature(
            curvature.left.unsqueeze(1),
            curvature.right.unsqueeze(1),
            curvature.weight.unsqueeze(1) * lamda.reshape(1, -1, 1, 1),
        )
        return cls(factor, ridge.flatten(0, 1), weighted, first)


def canonical(channels: Channels, targets: Sequence[Target], sxy: Tensor) -> Solution:
    """Solves channels x replicates for each of t targets: results (t, c, R, ...).

    sxy: (t, c, R, M, K), zero beyond p K.
    """
    count, channel_count, replicates, _, knots = sxy.shape
    components = channels.curvature.left.shape[2]
    batch = (count, channel_count, replicates)
    white = _each([target.white for target in targets], channel_count)
    # column-major, as LAPACK needs it
    half = torch.bmm(white.mT, sxy.flatten(0, 2).mT).reshape(count, channel_count * replicates, white.shape[2], -1).mT
    lower = channels.factor.mT
    half = torch.stack([torch.linalg.solve_triangular(lower, sides, upper=False).mT for sides in half]).flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.bmm(half, half.mT))
    top, best = values[:, -1].clamp(min=0), vectors[:, :, -1:].contiguous()
    along = torch.bmm(half.mT, best).reshape(count, channel_count * replicates, -1, 1)
    x = torch.cat([torch.linalg.solve_triangular(channels.factor, sides, upper=True) for sides in along])
    variance = _each([target.variance for target in targets], channel_count)
    y_variance = _dot(best, torch.bmm(variance, best))
    phi = x[:, : components * knots, 0].reshape(*batch, components, knots)
    bent = channels.curvature.cost(phi).sum(dim=-1).flatten()
    ridged = torch.bmm(x.square().mT, channels.ridge.repeat(count, 1).unsqueeze(2))[:, 0, 0]
    y = torch.bmm(white, best)[..., 0].reshape(*batch, knots)
    return Solution(
        x=phi,
        y=y,
        squared=_squared(top, top - bent - ridged, y_variance).reshape(batch),
        squared_first=_first(channels, sxy[:, :, 0, :knots], phi[:, :, 0, 0], y[:, :, 0], y_variance.reshape(batch)),
    )


def _each(matrices: Sequence[Tensor], channels: int) -> Tensor:
    """Matrices (R, m, n) of each target for every channel: (t c R, m, n)."""
    stacked = torch.stack(list(matrices))
    return stacked.unsqueeze(1).expand(-1, channels, -1, -1, -1).flatten(0, 2)


def _first(channels: Channels, sxy: Tensor, phi: Tensor, y: Tensor, y_variance: Tensor) -> Tensor:
    """r^2 (t, c) of the first component alone over all rows; sxy: (t, c, K, K), phi and y: (t, c, K)."""
    x, count = phi.flatten(0, 1).unsqueeze(2), len(sxy)
    first_moments = channels.first.repeat(count, 1, 1)
    covariance = _dot(x, torch.bmm(sxy.flatten(0, 1), y.flatten(0, 1).unsqueeze(2)))
    return _squared(covariance, _dot(x, torch.bmm(first_moments, x)), y_variance[:, :, 0].flatten()).reshape(
        phi.shape[:2]
    )


def _normalise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix scaled to a unit diagonal (plus the ridge), and the scaling factors (..., M), 0 for empty rows."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    present = diagonal > 0
    inverse = torch.where(present, torch.where(present, diagonal, 1.0).rsqrt(), 0.0)
    result = (matrix * inverse.unsqueeze(-1)).mul_(inverse.unsqueeze(-2))
    result.diagonal(dim1=-2, dim2=-1).fill_(1.0 + RIDGE)
    return result, inverse


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left.transpose(1, 2), right)[:, 0, 0]


def _squared(covariance: Tensor, x_variance: Tensor, y_variance: Tensor) -> Tensor:
    """Squared correlation, 0 where one side has no variance."""
    product = x_variance * y_variance
    moving = (x_variance > 0) & (y_variance > 0) & (product > 0)
    return torch.where(moving, covariance.square() / torch.where(moving, product, 1.0), 0.0).clamp(max=1.0)
