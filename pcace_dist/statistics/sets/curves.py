"""The share of the first k channels of an order, with intervals, and how many channels a share takes. Pure.

Whoever chooses the best of many sets finds them better than they are. So shares are out of fold: for each fold the
order (and the weights of a set) come from the other folds, the set's sums from the fold's own rows; the share is that
of the sums of all folds. Its error is the jackknife's, over the folds' sums. Intervals are given the axes of effects,
or the transforms of scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.statistics.score import LEVEL
from pcace_dist.statistics.sets.moments import Moments
from pcace_dist.statistics.student import t_quantile

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


class Choice(Protocol):
    """A way to choose sets. Covariances (V, V) have the output first, then the channels."""

    def order(self, covariance: Floats) -> Integers:
        """Channels, at most C of them, so that the first k are the set of k."""

    def sums(self, chosen_by: Floats, order: Integers, over: Floats) -> Floats:
        """Variances of two series and, between them, their covariance, (3, 1 + k), for the sets of 0, 1 ... k channels.
        chosen_by: the covariance that gave the order, and gives the weights of the series; over: that of the rows."""

    def shares(self, sums: Floats) -> Floats:
        """What the sets of 1, 2 ... k channels do (k,), from these sums."""


@dataclass(frozen=True)
class Size:
    """How many channels of an order reach a share, and the ends of the 95 % interval of that number."""

    channels: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Curve:
    """Channels (k,) in their order; shares (k,) of the first 1, 2 ... k of them, out of fold, each with the ends of its
    95 % interval."""

    order: Integers
    share: Floats
    low: Floats
    high: Floats

    def size(self, share: float) -> Size:
        """The least number of channels that has a share; all of them where none has."""
        return Size(*(_first(values, share) for values in (self.share, self.high, self.low)))


def curve_of(moments: Moments, choice: Choice) -> Curve:
    """The curve of a choice. Needs rows in two folds at least."""
    order = choice.order(moments.covariance())
    parts = [choice.sums(rest, choice.order(rest), own) for rest, own in moments.folds()]
    size = min(len(order), *(part.shape[1] - 1 for part in parts))
    apart = np.stack([part[:, : size + 1] for part in parts])
    total, folds = apart.sum(axis=0), len(parts)
    share = choice.shares(total)
    without = [choice.shares(total - own) for own in apart]
    error = np.sqrt((folds - 1) / folds * np.square(without - np.mean(without, axis=0)).sum(axis=0))
    reach = t_quantile(folds, (1 + LEVEL) / 2) * error
    return Curve(order[:size], share, share - reach, share + reach)


def squared_correlation(sums: Floats) -> Floats:
    """Of the two series of `Choice.sums` (3, n): (n,); 0 where they go against one another or one does not vary."""
    one, both, other = sums
    product = one * other
    exists = (product > 0) & (both > 0)
    return np.asarray(np.where(exists, both**2 / np.where(exists, product, 1.0), 0.0))


def _first(values: Floats, share: float) -> int:
    reached = np.flatnonzero(values >= share)
    return int(reached[0]) + 1 if len(reached) else len(values)
