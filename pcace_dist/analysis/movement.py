"""Whether channels moved between two rankings, or only seem to: differences of scores, their errors, false discoveries.

Pure: arrays in, arrays out. Judged is `score_squared`, the bias-corrected squared maximal correlation, by its jackknife
pseudo-values. A difference has three sources of noise (docs/comparison.md has the simulations):

images   Where the runs share images and folds, the pseudo-values of the difference are the differences of the
         pseudo-values: a fold is a hash of the image, so what the folds share cancels. t with F - 1 degrees of freedom.
         Otherwise both variances add up, also with the F - 1 of one side: Satterthwaite's larger number had too thin
         tails (7 alarms in 60 pairs of small groups, against 3).
plans    Axes and knots come from a pilot of m images. Runs with different plans differ by that, too: by at most the
         sampling error of m images in all but a few channels. So an image variance v from n images becomes
         v (1 + n / m). Nothing is added where the plans are the same. (The same pilot images are not enough: maps that
         differ by noise alone gave 21 alarms in 100 pairs.)
many     The p-values of all channels, groups and targets are judged together by Benjamini & Hochberg (1995).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats: TypeAlias = npt.NDArray[np.float64]

_ROUNDING = 1e-12  # a difference of r^2 this small is rounding, not a difference


@dataclass(frozen=True, eq=False)
class Side:
    """One run's channels. squared: (C,) and pseudo: (C, F) score_squared and its pseudo-values, NaN where unknown.

    images: (C,) behind each score. dead: (C,) the channel is constant, and its correlation therefore 0 without error.
    pilot: images that the plan comes from; None where both runs have one plan: nothing is added for it.
    """

    squared: Floats
    pseudo: Floats
    images: npt.NDArray[np.int64]
    dead: npt.NDArray[np.bool_]
    pilot: int | None = None

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """(C,) whether the channel has a score with an error, or is dead."""
        known = np.isfinite(self.squared) & (np.isfinite(self.pseudo).sum(axis=1) > 1)
        return np.asarray(self.dead | known, dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class Difference:
    """The other side less the one, (C,) each: change of score_squared, its standard error, degrees of freedom, p-value.

    NaN where a side has no score with an error.
    """

    change: Floats
    error: Floats
    freedom: Floats
    p_value: Floats


def difference(one: Side, other: Side, *, paired: bool) -> Difference:
    """Change from `one` to `other`, channel by channel. paired: the same fold numbers hold the same images."""
    judged = one.judged & other.judged
    change = np.where(other.dead, 0.0, other.squared) - np.where(one.dead, 0.0, one.squared)
    parts = [_paired(one, other)] if paired else [_own(one), _own(other)]
    plans = [_plan_part(side) for side in (one, other)]
    variance = np.sum([part for part, _ in parts] + plans, axis=0)
    freedom = np.min([free for _, free in parts], axis=0)
    error = np.sqrt(variance)
    still = np.abs(change) <= _ROUNDING
    t = np.where(still, 0.0, np.abs(change) / np.where(error > 0, error, 1e-300))
    p_value = 2 * stats.t.sf(t, np.maximum(freedom, 1))
    nothing = np.full(len(change), np.nan)
    return Difference(*(np.where(judged, found, nothing) for found in (change, error, freedom, p_value)))


def false_discovery(p_value: Floats) -> Floats:
    """Benjamini & Hochberg's adjusted p-values (q-values), (C,); NaN stays NaN and counts for nothing.

    Rejecting q <= 0.05 keeps the expected share of false ones among the rejected at 5 %, for independent and positively
    dependent tests; where nothing has moved at all, the probability of any rejection.
    """
    places = np.flatnonzero(np.isfinite(p_value))
    result = np.full(len(p_value), np.nan)
    order = places[np.argsort(p_value[places], kind="stable")]
    raw = p_value[order] * len(order) / np.arange(1, len(order) + 1)
    result[order] = np.minimum(np.minimum.accumulate(raw[::-1])[::-1], 1.0)
    return result


def _own(side: Side) -> tuple[Floats, Floats]:
    """Variance of a score (C,), and its degrees of freedom; a dead channel has no variance, which is known."""
    found, count = _variance_of_mean(side.pseudo)
    return np.where(side.dead, 0.0, found), np.where(side.dead, np.inf, count - 1.0)


def _paired(one: Side, other: Side) -> tuple[Floats, Floats]:
    first, second = (np.where(side.dead[:, None], 0.0, side.pseudo) for side in (one, other))
    found, count = _variance_of_mean(second - first)
    return found, count - 1.0


def _variance_of_mean(values: Floats) -> tuple[Floats, Floats]:
    """Variance of the mean of rows (C, F) over their finite entries, and how many these are."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    held = np.where(known, values, 0.0)
    mean = held.sum(axis=1) / np.maximum(count, 1)
    residual = np.where(known, values - mean[:, None], 0.0)
    squares = np.square(residual).sum(axis=1)
    return squares / np.maximum(count * (count - 1.0), 1.0), count.astype(np.float64)


def _plan_part(side: Side) -> Floats:
    variance, _ = _own(side)
    return np.zeros_like(variance) if side.pilot is None else variance * side.images / side.pilot
