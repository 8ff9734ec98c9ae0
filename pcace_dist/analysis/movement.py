"""Whether channels really moved between two rankings: differences of scores, their errors, false discoveries.

Pure: arrays in, arrays out. The compared value is `score_squared`, the bias-corrected squared maximal correlation, with
its jackknife pseudo-values. A difference has these sources of noise (docs/comparison.md has the simulations):

images   Where the runs share images and folds, the pseudo-values of the difference are the differences of the
         pseudo-values: a fold is a hash of the image, so noise that both runs share cancels. t with F - 1 degrees of
         freedom. Otherwise both variances are added, also with the F - 1 of one side: with Satterthwaite's larger
         number the tails were too thin (7 alarms in 60 pairs of small groups, against 3).
plans    Axes and knots come from a pilot of m images. Runs with different plans differ because of this, too. How much,
         each run has estimated (statistics/plan_noise), fold by fold, and it is added to the pseudo-values: where
         both pilots read the same images, what they share cancels. The estimate is of the axes. Where these hardly turn
         (maps of one position have but one), knots are what is left, and where a run has no estimate, nothing is
         known: such channels differ, all but a few, by at most the sampling error of m images, and their image
         variance v from n images becomes v (1 + n / m). Nothing is added where the plans are the same. (The same pilot
         images are not enough: maps that differ only by noise gave 21 alarms in 100 pairs.)
many     The p-values of all channels, groups and targets are corrected together, by Benjamini & Hochberg (1995).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats: TypeAlias = npt.NDArray[np.float64]

_ROUNDING = 1e-12  # smaller differences of r^2 are rounding
_OF_AXES = 1 / 30  # of the sampling variance of a pilot's images: the plan's noise is hardly that of its axes below it


@dataclass(frozen=True, eq=False)
class Side:
    """One run's channels. squared: (C,) and pseudo: (C, F) score_squared and its pseudo-values, NaN where unknown.

    images: (C,), of each score. dead: (C,), the channel is constant, so its correlation is 0 without error. pilot: the
    number of images that the plan comes from; None where both runs have one plan, which adds no noise. plan_noise:
    (C, F), residuals that another pilot would bring, NaN where they are not known; None where none are.
    """

    squared: Floats
    pseudo: Floats
    images: npt.NDArray[np.int64]
    dead: npt.NDArray[np.bool_]
    pilot: int | None = None
    plan_noise: Floats | None = None

    @property
    def values(self) -> Floats:
        """Pseudo-values (C, F) that hold the plan's noise, where it counts and is known."""
        if self.pilot is None or self.plan_noise is None:
            return self.pseudo
        return self.pseudo + np.nan_to_num(self.plan_noise)

    @property
    def pilot_alone(self) -> npt.NDArray[np.bool_]:
        """(C,), whether the plan adds noise of which only the pilot's size is known."""
        if self.pilot is None or self.plan_noise is None:
            return np.full(len(self.squared), self.pilot is not None)
        of_axes, sampling = (_variance_of_mean(values)[0] for values in (self.plan_noise, self.pseudo))
        return of_axes <= _OF_AXES * sampling * self.images / self.pilot

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """(C,), whether the channel has a score with an error, or is dead."""
        known = np.isfinite(self.squared) & (np.isfinite(self.pseudo).sum(axis=1) > 1)
        return np.asarray(self.dead | known, dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class Difference:
    """Side b minus side a, (C,) each: change of score_squared, its standard error, degrees of freedom, p-value.

    NaN where a side has no score with an error.
    """

    change: Floats
    error: Floats
    freedom: Floats
    p_value: Floats


def difference(side_a: Side, side_b: Side, *, paired: bool) -> Difference:
    """The change from side a to side b of each channel. paired: folds of the same number have the same images."""
    judged = side_a.judged & side_b.judged
    change = np.where(side_b.dead, 0.0, side_b.squared) - np.where(side_a.dead, 0.0, side_a.squared)
    parts = [_paired(side_a, side_b)] if paired else [_own(side_a), _own(side_b)]
    plans = [_plan_part(side) for side in (side_a, side_b)]
    variance = np.sum([part for part, _ in parts] + plans, axis=0)
    freedom = np.min([free for _, free in parts], axis=0)
    error = np.sqrt(variance)
    unchanged = np.abs(change) <= _ROUNDING
    t = np.where(unchanged, 0.0, np.abs(change) / np.where(error > 0, error, 1e-300))
    p_value = 2 * stats.t.sf(t, np.maximum(freedom, 1))
    unknown = np.full(len(change), np.nan)
    return Difference(*(np.where(judged, column, unknown) for column in (change, error, freedom, p_value)))


def false_discovery(p_value: Floats) -> Floats:
    """Benjamini & Hochberg's adjusted p-values (q-values), (C,); NaN stays NaN and is not counted.

    With rejections at q <= 0.05, the expected share of false rejections is at most 5 %, for independent and positively
    dependent tests. If nothing has moved at all, the probability of any rejection is at most 5 %.
    """
    places = np.flatnonzero(np.isfinite(p_value))
    result = np.full(len(p_value), np.nan)
    order = places[np.argsort(p_value[places], kind="stable")]
    raw = p_value[order] * len(order) / np.arange(1, len(order) + 1)
    result[order] = np.minimum(np.minimum.accumulate(raw[::-1])[::-1], 1.0)
    return result


def _own(side: Side) -> tuple[Floats, Floats]:
    """Variance of a score (C,), and its degrees of freedom; a dead channel has no variance, with certainty."""
    variance, count = _variance_of_mean(side.values)
    return np.where(side.dead, 0.0, variance), np.where(side.dead, np.inf, count - 1.0)


def _paired(side_a: Side, side_b: Side) -> tuple[Floats, Floats]:
    pseudo_a, pseudo_b = (np.where(side.dead[:, None], 0.0, side.values) for side in (side_a, side_b))
    variance, count = _variance_of_mean(pseudo_b - pseudo_a)
    return variance, count - 1.0


def _variance_of_mean(values: Floats) -> tuple[Floats, Floats]:
    """Variance of the mean of rows (C, F) over their finite entries, and how many these are."""
    is_known = np.isfinite(values)
    count = is_known.sum(axis=1)
    filled = np.where(is_known, values, 0.0)
    mean = filled.sum(axis=1) / np.maximum(count, 1)
    residual = np.where(is_known, values - mean[:, None], 0.0)
    squares = np.square(residual).sum(axis=1)
    return squares / np.maximum(count * (count - 1.0), 1.0), count.astype(np.float64)


def _plan_part(side: Side) -> Floats:
    variance, _ = _own(side)
    return np.where(side.pilot_alone, variance * side.images / (side.pilot or 1), 0.0)
