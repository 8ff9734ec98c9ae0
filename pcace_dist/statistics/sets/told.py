"""Sets by score: which channels tell the output together. Pure numpy.

With the transforms of each channel's own score, s_c = sum over its components j of phi_cj(x_cj), and the target's K
hat functions h(y), B is the covariance of [h_1 ... h_K, s_1 ... s_C]. What the set S tells is the squared canonical
correlation

    rho^2(S)  =  largest eigenvalue of  B_hh^-1/2 B_hS B_SS^-1 B_Sh B_hh^-1/2

the largest squared correlation of a function of the target (piecewise linear on its knots) with a weighted sum of the
s_c (Hotelling 1936). Each step adds the channel that raises it most (forward selection, as FastCan, arXiv 2106.08247).
A copy of a chosen channel adds nothing. Given the transforms: they are not solved anew for the set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pcace_dist.statistics.sets.curves import squared_correlation
from pcace_dist.statistics.solve import whiten_target

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

_ROUNDING = 1e-12
_COPY = 1e-6  # of a channel's variance: what others do not say of it is rounding


def telling_order(covariance: Floats, hats: int, most: int) -> Integers:
    """At most `most` channels, each the one that raises rho^2 most beside those before it; ties: the lower number.

    covariance: float64 (hats + C, hats + C). Fewer where all others are sums of those that were chosen.
    """
    state = _Chosen.none(covariance, hats)
    order: list[int] = []
    while len(order) < most and len(new := np.flatnonzero(state.is_new)):
        order.append(_most_told(state.explained, new, state.cross[:, new] / np.sqrt(state.own[new])))
        state = state.with_channel(order[-1])
    return np.array(order, np.int64)


def _most_told(explained: Floats, channels: Integers, added: Floats) -> int:
    """The channel u of `added` (K', c) with the largest eigenvalue of explained + u u'.

    It lies between top + (v' u)^2, v the top eigenvector, and top + u' u: most channels need not be looked at.
    """
    values, vectors = np.linalg.eigh(explained)
    least = values[-1] + np.square((vectors[:, -1:] * added).sum(0))
    hopeful = np.flatnonzero(values[-1] + np.square(added).sum(0) >= least.max() - _ROUNDING)
    columns = added[:, hopeful].T
    squares = columns[:, :, None] * columns[:, None, :]
    return int(channels[hopeful[np.argmax(np.linalg.eigvalsh(explained + squares)[:, -1])]])


@dataclass(frozen=True)
class Told:
    """Sets by what they tell: rho^2 of the first 1, 2 ... most channels. hats: K, before the channels."""

    hats: int
    most: int

    def order(self, covariance: Floats) -> Integers:
        return telling_order(covariance, self.hats, self.most)

    def sums(self, chosen_by: Floats, order: Integers, over: Floats) -> Floats:
        """Variance of the target's function, covariance, variance of the weighted sum of the sets' s_c."""
        functions, weights = self._weights(chosen_by, order)
        target, cross = over[: self.hats, : self.hats], over[: self.hats, self.hats :][:, order]
        inner = over[self.hats :, self.hats :][np.ix_(order, order)]
        pairs = ((functions, target, functions), (functions, cross, weights), (weights, inner, weights))
        return np.stack([np.einsum("ki,ij,kj->k", left, matrix, right) for left, matrix, right in pairs])

    def shares(self, sums: Floats) -> Floats:
        return squared_correlation(sums)[1:]

    def _weights(self, covariance: Floats, order: Integers) -> tuple[Floats, Floats]:
        """Coefficients of the hats (1 + k, K) and of the channels (1 + k, k) in order, for the sets of 0 ... k."""
        some = np.append(np.arange(self.hats), self.hats + order)
        none = state = _Chosen.none(covariance[np.ix_(some, some)], self.hats)
        functions, weights = np.zeros((1 + len(order), self.hats)), np.zeros((1 + len(order), len(order)))
        for place in range(len(order)):
            state = state.with_channel(place)
            best = np.linalg.eigh(state.explained)[1][:, -1]
            own = slice(place + 1)
            functions[1 + place] = state.white @ best
            weights[1 + place, own] = np.linalg.solve(none.inner[own, own], none.cross[:, own].T @ best)
        return functions, weights


@dataclass(frozen=True, eq=False)
class _Chosen:
    """What is left of the channels when the chosen ones are taken out (Gram-Schmidt, as in a pivoted Cholesky).

    white: (K, K'), whitens the target's hats. inner: (C, C), covariance of the channels. along: (k, C), their
    covariance with each chosen one, of length 1 and without those before it. own: (C,), variance of what is left.
    cross: (K', C), covariance of the whitened target with it. explained: (K', K'), the matrix whose largest eigenvalue
    is rho^2.
    """

    white: Floats
    inner: Floats
    along: Floats
    own: Floats
    cross: Floats
    explained: Floats

    @classmethod
    def none(cls, covariance: Floats, hats: int) -> _Chosen:
        target = torch.from_numpy(np.ascontiguousarray(covariance[:hats, :hats]))
        white = whiten_target(target, torch.zeros_like(target)).numpy()
        inner, size = covariance[hats:, hats:], white.shape[1]
        cross = white.T @ covariance[:hats, hats:]
        return cls(white, inner, np.zeros((0, len(inner))), np.diagonal(inner).copy(), cross, np.zeros((size, size)))

    @property
    def is_new(self) -> npt.NDArray[np.bool_]:
        """Which channels say something that the chosen ones do not."""
        variances = np.diagonal(self.inner)
        return np.asarray((variances > 0) & (self.own > _COPY * variances))

    def with_channel(self, channel: int) -> _Chosen:
        length = np.sqrt(self.own[channel])
        along = (self.inner[channel] - (self.along[:, channel, None] * self.along).sum(0)) / length
        towards = self.cross[:, channel] / length
        own = self.own - along**2
        own[channel] = 0.0
        return _Chosen(
            self.white,
            self.inner,
            np.concatenate([self.along, along[None]]),
            own,
            self.cross - np.outer(towards, along),
            self.explained + np.outer(towards, towards),
        )
