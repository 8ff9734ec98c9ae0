"""Penalised maximal correlation from second moments of hat functions, batched over channels and replicates.

Pure float64 maths: no I/O, no Ray, no folds. The transforms theta(y) and phi_1(x_1) ... phi_p(x_p) are
piecewise linear on frozen knots; with coefficients b and a they maximise

    a' Sxy b   subject to   a' (Sxx + lambda Px) a = 1,   b' (Syy + lambda Py) b = 1

(ACE over a fixed basis is a canonical correlation: Breiman & Friedman 1985; Buja 1990). P is the integrated
squared second derivative in x. The r^2 reported is that of the transforms found, from the moments without
penalty.

The answer for one problem does not depend on what else is in the batch, nor on the number of threads:
matrices are padded so that each starts on a 64-byte boundary, and the work is done on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-8  # of the normalised diagonal; the direction in which all hats sum to 1 has no variance
NOISE = 1e-12  # variance of a hat, relative to its mean square, that is rounding and not data
_STIFFEST = 1e6  # largest weight of a squared second difference: two knots in one place must not swamp the rest


@dataclass(frozen=True, eq=False)
class Solution:
    """x: (..., p, K) and y: (..., K), values of the transforms on the knots; r^2 (...,); and the r^2 of phi_1 alone."""

    x: Tensor
    y: Tensor
    squared: Tensor
    squared_first: Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, so that no kernel splits a sum by the number of threads; restored on leaving."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def penalty_matrix(knots: Tensor, spread: Tensor) -> Tensor:
    """P (..., K, K) with f' P f = integral of f''^2 for f given on the knots (..., K), x in
    units of spread (...,).

    The second derivative at a knot is the change of slope over the mean of the two spacings; its square
    counts for that length: 2 e^2 (g + h) / (g h)^2, where e is how far f lies off the straight line through
    its neighbours. A straight line in x costs nothing, whatever the spacing.
    """
    gaps = ((knots[..., 1:] - knots[..., :-1]) / spread.unsqueeze(-1)).double()
    left, right = gaps[..., :-1], gaps[..., 1:]
    weight = (2 * (left + right) / (left * right).square()).clamp(max=_STIFFEST)
    count = knots.shape[-1] - 2
    difference = torch.zeros((*gaps.shape[:-1], count, count + 2), dtype=torch.float64, device=knots.device)
    inner = torch.arange(count, device=knots.device)
    difference[..., inner, inner] = -right / (left + right)
    difference[..., inner, inner + 1] = 1.0
    difference[..., inner, inner + 2] = -left / (left + right)
    return difference.transpose(-1, -2) @ (weight.unsqueeze(-1) * difference)


def padded(size: int) -> int:
    """The next multiple of 4: then a square float64 matrix fills whole 64-byte lines."""
    return -(-size // 4) * 4


def whiten_target(syy: Tensor, penalty: Tensor) -> Tensor:
    """W (..., K, K') with W' (Syy + penalty) W = 1, without the direction of least variance (the constant).

    syy, penalty: float64 (..., K, K). K' is K - 1 padded by zero columns.
    """
    normalised, inverse = _normalise(syy + penalty)
    values, vectors = torch.linalg.eigh(normalised)
    white = inverse.unsqueeze(-1) * vectors / (values.clamp(min=0) + RIDGE).sqrt().unsqueeze(-2)
    kept = white[..., 1:].flip(-1)
    width = padded(kept.shape[-1])
    return torch.nn.functional.pad(kept, (0, width - kept.shape[-1]))


@dataclass(frozen=True, eq=False)
class Whitener:
    """The channels' side of a batch, the same for every target: Cholesky factor (N, M, M) of the normalised covariance
    with its penalty, and the factors (N, M) that normalised it."""

    factor: Tensor
    inverse: Tensor


def whitener(sxx: Tensor, penalty_x: Tensor) -> Whitener:
    """Of covariances sxx (N, M, M) of hats and their penalty (N, M, M), block diagonal, times lambda; float64."""
    normalised, inverse = _normalise(sxx + penalty_x)
    return Whitener(torch.linalg.cholesky_ex(normalised).L, inverse)


def canonical(sxx: Tensor, sxy: Tensor, syy: Tensor, white_x: Whitener, white_y: Tensor, components: int) -> Solution:
    """Solves a batch. All float64, covariances (centred, divided by n) of hats with values in [0, 1].

    sxx: (N, M, M), M = padded(p K), zero beyond p K      sxy: (N, M, K)      syy: (N, K, K)
    white_x: `whitener` of sxx      white_y: (N, K, K') as `whiten_target` gives it
    """
    knots = syy.shape[-1]
    size = components * knots
    factor, inverse = white_x.factor, white_x.inverse
    half = torch.linalg.solve_triangular(factor, inverse.unsqueeze(-1) * torch.bmm(sxy, white_y), upper=False)
    _, vectors = torch.linalg.eigh(torch.bmm(half.transpose(1, 2), half))
    best = vectors[..., -1:].contiguous()
    y = torch.bmm(white_y, best)
    x = torch.linalg.solve_triangular(factor.transpose(1, 2), torch.bmm(half, best), upper=True)
    x = x * inverse.unsqueeze(-1)
    y_variance = _quadratic(syy, y)
    first = x.clone()
    first[:, knots:] = 0
    along = torch.bmm(sxy, y)
    return Solution(
        x=x[:, :size, 0].reshape(-1, components, knots),
        y=y[..., 0],
        squared=_squared(_dot(x, along), _quadratic(sxx, x), y_variance),
        squared_first=_squared(_dot(first, along), _quadratic(sxx, first), y_variance),
    )


def _normalise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix with unit diagonal (plus the ridge), and the factors (..., M) that took it there, 0 for empty rows."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    present = diagonal > 0
    inverse = torch.where(present, torch.where(present, diagonal, 1.0).rsqrt(), 0.0)
    result = (matrix * inverse.unsqueeze(-1)).mul_(inverse.unsqueeze(-2))
    result.diagonal(dim1=-2, dim2=-1).fill_(1.0 + RIDGE)
    return result, inverse


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left.transpose(1, 2), right)[:, 0, 0]


def _quadratic(matrix: Tensor, vector: Tensor) -> Tensor:
    return _dot(vector, torch.bmm(matrix, vector))


def _squared(covariance: Tensor, x_variance: Tensor, y_variance: Tensor) -> Tensor:
    """Squared correlation, 0 where one side has no variance."""
    product = x_variance * y_variance
    moving = (x_variance > 0) & (y_variance > 0) & (product > 0)
    return torch.where(moving, covariance.square() / torch.where(moving, product, 1.0), 0.0).clamp(max=1.0)
