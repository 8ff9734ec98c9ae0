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

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pcace_dist.statistics.sets.curves import squared_correlation
from pcace_dist.statistics.solve import whiten_target

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

_COPY = 1e-6  # of a channel's variance: what others do not say of it is rounding


def telling_order(covariance: Floats, hats: int, most: int) -> Integers:
    """At most `most` channels, each the one that raises rho^2 most beside those before it; ties: the lower number.

    covariance: float64 (hats + C, hats + C). Fewer where all others are sums of those that were chosen.
    """
    state = _Chosen.none(covariance, hats)
    order: list[int] = []
    while len(order) < most and len(new := np.flatnonzero(state.is_new)):
        told = np.linalg.eigvalsh(state.explained + _squares(state.cross[:, new] / np.sqrt(state.own[new])))[:, -1]
        order.append(int(new[np.argmax(told)]))
        state = state.with_channel(order[-1])
    return np.array(order, np.int64)


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

    def shares(self, sums: Floats, covariance: Floats) -> Floats:  # noqa: ARG002 (told is absolute)
        return squared_correlation(sums)

    def _weights(self, covariance: Floats, order: Integers) -> tuple[Floats, Floats]:
        """Coefficients of the hats (k, K) and of the channels (k, k) in their order, for the sets of 1 ... k."""
        state = _Chosen.none(covariance, self.hats)
        inner, cross = state.inner, state.cross
        functions, weights = np.zeros((len(order), self.hats)), np.zeros((len(order), len(order)))
        for place, channel in enumerate(order.tolist()):
            state = state.with_channel(channel)
            best = np.linalg.eigh(state.explained)[1][:, -1]
            own = order[: place + 1]
            functions[place] = state.white @ best
            weights[place, : place + 1] = np.linalg.solve(inner[np.ix_(own, own)], cross[:, own].T @ best)
        return functions, weights


@dataclass(frozen=True, eq=False)
class _Chosen:
    """What is left when the chosen channels are taken out of the others (Gram-Schmidt).

    white: (K, K'), whitens the target's hats. cross: (K', C), covariance of the whitened target with what is left of
    each channel. inner: (C, C), covariance of what is left. explained: (K', K'), the matrix whose largest eigenvalue is
    rho^2. variances: (C,), before.
    """

    white: Floats
    cross: Floats
    inner: Floats
    explained: Floats
    variances: Floats

    @classmethod
    def none(cls, covariance: Floats, hats: int) -> _Chosen:
        target = torch.from_numpy(np.ascontiguousarray(covariance[:hats, :hats]))
        white = whiten_target(target, torch.zeros_like(target)).numpy()
        inner, size = covariance[hats:, hats:], white.shape[1]
        cross = white.T @ covariance[:hats, hats:]
        return cls(white, cross, inner, np.zeros((size, size)), np.diagonal(inner).copy())

    @property
    def own(self) -> Floats:
        """Variance (C,) of what is left of each channel."""
        return np.asarray(np.diagonal(self.inner))

    @property
    def is_new(self) -> npt.NDArray[np.bool_]:
        """Which channels say something that the chosen ones do not."""
        return np.asarray((self.variances > 0) & (self.own > _COPY * self.variances))

    def with_channel(self, channel: int) -> _Chosen:
        along = self.inner[channel] / np.sqrt(self.own[channel])
        towards = self.cross[:, channel] / np.sqrt(self.own[channel])
        return replace(
            self,
            cross=self.cross - np.outer(towards, along),
            inner=self.inner - np.outer(along, along),
            explained=self.explained + np.outer(towards, towards),
        )


def _squares(columns: Floats) -> Floats:
    """u u' (n, K', K') of each column u of (K', n)."""
    return np.asarray(columns.T[:, :, None] * columns.T[:, None, :])
