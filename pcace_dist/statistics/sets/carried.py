"""Sets by effect: which channels carry the output. Pure numpy.

M is the covariance of [y, l_1 ... l_C], l_c what goes through channel c (statistics/effects). Removing the set S, its
channels held at their mean maps, leaves y - l_S to first order. With v = Cov(y, l_S) and w = Var(l_S) it loses

    L(S)  =  1 - (M_yy - v)^2 / (M_yy (M_yy - 2 v + w))

of the output's variance, all of it where y - l_S does not go with y. Shares are of what the whole layer carries:

    lost(S)  =  L(S) / L(all)        carried(S)  =  1 - lost(all but S)

so that no channel carries 0 and all channels carry 1, also where the parts of an early layer do not add up to y.
`removal_order` is greedy by lost: what to take away to hurt most (the order of an ablation). `carrying_order` takes
away what hurts least until nothing is left: the channels that go last are the set to keep.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.statistics.sets.curves import squared_correlation

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

_NOTHING = 1e-6  # of the output's variance: the rounding of parts that are int16 leaves about 1e-7


def removal_order(covariance: Floats) -> Integers:
    """Channels (C,) by greedy loss, the first one first: the next is the one with whose removal most is lost.

    covariance: float64 (1 + C, 1 + C), of the output and what goes through each channel, in one unit. Ties: the larger
    covariance with the output, then the lower number.
    """
    return _greedy(covariance, 1.0)


def carrying_order(covariance: Floats) -> Integers:
    """Channels (C,) so that the first k carry much together: the last one is that without which least is lost.

    covariance: as for `removal_order`, and ties the same way.
    """
    return _greedy(covariance, -1.0)[::-1]


def _greedy(covariance: Floats, sign: float) -> Integers:
    """sign 1: the next removed is where least is left; -1: where most is."""
    cross, inner = covariance[0, 1:], covariance[1:, 1:]
    own, numbers = np.diagonal(inner), np.arange(len(cross))
    with_removed = np.zeros(len(cross))  # covariance of each channel's part with the removed ones'
    v = w = 0.0
    order: list[int] = []
    gone = np.zeros(len(cross), bool)
    for _ in numbers:
        v_next, w_next = v + cross, w + 2 * with_removed + own
        left = np.where(gone, np.inf, sign * squared_correlation(_sums(covariance[0, 0], v_next, w_next)))
        tied = np.flatnonzero(left == left.min())
        chosen = int(tied[np.lexsort((sign * tied, -sign * cross[tied]))[0]])
        v, w = float(v_next[chosen]), float(w_next[chosen])
        with_removed = with_removed + inner[chosen]
        gone[chosen] = True
        order.append(chosen)
    return np.array(order, np.int64)


class Removed:
    """Sets to take away: lost(S) of the first 1, 2 ... C channels."""

    def order(self, covariance: Floats) -> Integers:
        return removal_order(covariance)

    def sums(self, chosen_by: Floats, order: Integers, over: Floats) -> Floats:  # noqa: ARG002 (a set has no weights)
        """Variance of y, covariance, variance of what is left without the sets."""
        ordered = over[1:, 1:][np.ix_(order, order)]
        added = np.stack([over[0, 1:][order], 2 * np.tril(ordered, -1).sum(1) + np.diagonal(ordered)])
        v, w = np.cumsum(np.pad(added, ((0, 0), (1, 0))), axis=1)
        return _sums(over[0, 0], v, w)

    def shares(self, sums: Floats) -> Floats:
        """(C,); NaN where the layer carries nothing."""
        lost = 1 - squared_correlation(sums)
        return np.asarray(lost[1:] / _something(lost[-1]))


class Kept(Removed):
    """Sets to keep: carried(S) of the first 1, 2 ... C channels."""

    def order(self, covariance: Floats) -> Integers:
        return carrying_order(covariance)

    def sums(self, chosen_by: Floats, order: Integers, over: Floats) -> Floats:
        """The same without all channels but those of the sets."""
        return super().sums(chosen_by, order[::-1], over)[:, ::-1]

    def shares(self, sums: Floats) -> Floats:
        lost = 1 - squared_correlation(sums)
        return np.asarray(1 - lost[1:] / _something(lost[0]))


def layer_loss(covariance: Floats) -> float:
    """L(all): 1 where the parts of the layer's channels add up to the output; NaN where nothing is lost."""
    sums = _sums(covariance[0, 0], covariance[0, 1:].sum(), covariance[1:, 1:].sum())
    return _something(1 - squared_correlation(sums))


def _something(lost: Floats) -> float:
    return float(lost) if lost > _NOTHING else float("nan")


def _sums(y: float, v: Floats, w: Floats) -> Floats:
    """Variance of y, covariance with y - l_S and its variance (3, ...), 0 where this is rounding."""
    variance = y - 2 * v + w
    return np.stack([np.full_like(v, y), y - v, np.where(variance > _NOTHING * y, variance, 0.0)])
