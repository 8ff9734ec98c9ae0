"""Which channels are among the true top K, and how likely. Pure; numpy only.

True scores are drawn from what the estimates say of them (empirical Bayes): their law is the mixture under which the
estimates are likely (Kiefer & Wolfowitz 1956), by EM on a grid, stopped early so that it stays smooth. The errors go by
fold, as channels are seen on the same images; what all channels have in common counts for nothing. Where the plan's
noise is known, what is drawn are the scores that another pilot would give. Of these draws:

- the *probability* of a channel is the share in which it is among the top K;
- *surely* in are the first m channels by probability, as many as are in the top together in 97.5 % of the draws;
- *possibly* in are the fewest first channels by probability that hold the whole top in 97.5 % of the draws.

So both sets are meant to be right together with 95 %; what they do is measured in docs/method-tables.md, 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats: TypeAlias = npt.NDArray[np.float64]

DRAWS = 2000
ERROR = 0.05
GRID = 80  # cells, over the range of the estimates and half a standard deviation beyond
STEPS = 30  # of EM: with 200 the sets are the same
_TINY = 1e-12
_CHUNK_FLOATS = 1 << 21


class InTop(StrEnum):
    """Whether a channel is in the top."""

    SURELY = "surely"
    POSSIBLY = "possibly"
    NO = "no"


@dataclass(frozen=True, eq=False)
class Membership:
    """Of the channels of a ranking, (C,) each: the probability to be in the top, and values of `InTop`."""

    probability: Floats
    in_top: npt.NDArray[np.str_]


def membership(score_squared: Floats, pseudo: Floats, plan_noise: Floats, top: int) -> Membership:
    """Which channels are among the `top` best of these, with another pilot and any number of images.

    score_squared: (C,) of ranked channels; pseudo: their pseudo-values by fold (C, F), NaN for empty folds; plan_noise:
    residuals of the plan (C, F), NaN where they are not known. Seeded: the same every time.
    """
    count = len(score_squared)
    if count <= top:
        return Membership(np.ones(count), np.full(count, InTop.SURELY))
    drawn = _tops(score_squared, pseudo, plan_noise, top)
    probability = np.bincount(drawn.ravel(), minlength=count) / DRAWS
    order = np.lexsort((-score_squared, -probability))
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    places = np.sort(place[drawn], axis=1)
    together = (places == np.arange(top)).cumprod(axis=1).mean(axis=0)  # by m: draws with the first m in the top
    surely = int((together >= 1 - ERROR / 2).sum())
    possibly = 1 + int(np.quantile(places[:, -1], 1 - ERROR / 2, method="higher"))
    in_top = np.where(place < surely, InTop.SURELY, np.where(place < possibly, InTop.POSSIBLY, InTop.NO))
    return Membership(probability, in_top)


def _tops(score_squared: Floats, pseudo: Floats, plan_noise: Floats, top: int) -> npt.NDArray[np.int64]:
    """The channels in the top of every draw: (DRAWS, top)."""
    count, used = len(score_squared), np.isfinite(pseudo).all(axis=0)
    plan = _by_fold(np.nan_to_num(plan_noise[:, used]))
    error = _by_fold(pseudo[:, used]) + plan
    law = _Posterior.of(score_squared, np.square(error).sum(axis=1) * count / (count - 1))
    rng = np.random.default_rng(0)
    step = max(1, _CHUNK_FLOATS // count)
    parts = (law.draw(rng, error, plan, min(step, DRAWS - start)) for start in range(0, DRAWS, step))
    return np.concatenate([np.argpartition(-drawn, top - 1, axis=1)[:, :top] for drawn in parts])


def _by_fold(values: Floats) -> Floats:
    """Residuals (C, F) less what all channels have in common, so scaled that the sum of each fold's times a standard
    normal value is an error of the score."""
    residual = values - values.mean(axis=1, keepdims=True)
    folds = values.shape[1]
    return np.asarray((residual - residual.mean(axis=0)) / np.sqrt(folds * (folds - 1)))


@dataclass(frozen=True, eq=False)
class _Posterior:
    """What is known of each channel's true score: distribution functions (C, GRID + 1) at the edges of a grid's cells,
    edges (GRID + 1,)."""

    edges: Floats
    below: Floats

    @classmethod
    def of(cls, score_squared: Floats, variance: Floats) -> _Posterior:
        """Of estimates and their errors' variances, (C,) each."""
        spread = max(float(score_squared.std()), _TINY)
        edges = np.linspace(score_squared.min() - spread / 2, score_squared.max() + spread / 2, GRID + 1)
        width = edges[1] - edges[0]
        grid = edges[:-1] + width / 2
        error = np.sqrt(variance + width**2 / 12)[:, None]
        likelihood = np.maximum(_normal((score_squared[:, None] - grid) / error) / error, 1e-300)
        prior = _normal((grid - score_squared.mean()) / spread)
        for _ in range(STEPS):
            prior = _shares(likelihood * prior).mean(axis=0)
        known = _shares(likelihood * prior).cumsum(axis=1)
        return cls(edges, np.concatenate([np.zeros((len(known), 1)), known], axis=1))

    def draw(self, rng: np.random.Generator, error: Floats, plan: Floats, draws: int) -> Floats:
        """True scores of another pilot (draws, C). error, plan: by fold (C, F), as `_by_fold` gives them."""
        errors = _t(rng, draws, error.shape[1]) @ (error / np.linalg.norm(error, axis=1, keepdims=True).clip(_TINY)).T
        places = ndtr(errors)
        drawn = [np.interp(places[:, channel], below, self.edges) for channel, below in enumerate(self.below)]
        return np.asarray(np.stack(drawn, axis=1) + _t(rng, draws, plan.shape[1]) @ plan.T)


def _normal(z: Floats) -> Floats:
    """The normal density, not scaled."""
    return np.asarray(np.exp(-np.square(z) / 2))


def _shares(weights: Floats) -> Floats:
    """Rows that sum to 1."""
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _t(rng: np.random.Generator, draws: int, folds: int) -> Floats:
    """Values (draws, F) with which residuals by fold make errors of as many degrees of freedom as there are."""
    scale = np.sqrt((folds - 1) / rng.chisquare(folds - 1, size=(draws, 1)))
    return np.asarray(rng.normal(size=(draws, folds)) * scale)
