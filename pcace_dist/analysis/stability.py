"""How a ranking would look with fewer images, and with more: measured on disjoint parts, expected from the jackknife.

Two rankings from different images of the same number agree by so much (Spearman over the channels, share of the top K
in common). *Measured*: halves, quarters and eighths of the folds are ranked, each from its own images alone, and
compared with one another. *Expected*: the scores' errors are those of the jackknife, by 1 / n; the true scores are
drawn from what the estimates and their errors say (normal, shrunken to the mean by the share of the estimates' variance
that is noise), and two rankings are drawn about them. With few images the errors grow faster than that, so that nothing
is expected below `least` images. Both are given the plan; with *another pilot* each of the two rankings has its own, by
the noise that the run's pilot has estimated, which does not fall with the number of images. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

SMALLER = (8, 4, 2)  # parts of the images that are measured
LARGER = (1, 2, 4)  # times the images: expected only
ENOUGH = 0.9  # of the top in common
DRAWS = 100
RELIABLE = 2  # times the images that a score takes: from here on errors go by 1 / n
FEWEST, FURTHEST = 3, 6  # the images are halved and doubled so often in search of enough


@dataclass(frozen=True)
class Level:
    """Agreement of two rankings from different images, `images` each: NaN where it was not measured or cannot be
    told. spearman over the channels; overlap: the share of the top K in common. *_another_pilot: expected where each
    ranking has a pilot of its own; NaN where the run does not know what another one would change."""

    images: int
    spearman: float
    spearman_expected: float
    spearman_another_pilot: float
    overlap: float
    overlap_expected: float
    overlap_another_pilot: float


@dataclass(frozen=True)
class Stability:
    """One ranking. top: K, at most all channels. enough: the number of images with which ENOUGH of the top are expected
    in common; None where 64 times the images are not enough, or where nothing can be told."""

    target: str
    group: object
    images: int
    channels: int
    top: int
    levels: tuple[Level, ...]
    enough: int | None


def parts_of(folds: int) -> dict[int, list[tuple[int, ...]]]:
    """Folds by the number of parts: disjoint eighths and quarters; for halves all pairs of quarters."""
    by_parts = {n: [tuple(range(place, folds, n)) for place in range(n)] for n in SMALLER if folds >= 2 * n}
    if 4 in by_parts:
        by_parts[2] = [one + other for one, other in combinations(by_parts[4], 2)]
    return by_parts


_NOTHING = np.full(2, np.nan)


def stability_of(
    target: str,
    group: object,
    images: int,
    squared: Floats,
    pseudo: Floats,
    plan_noise: Floats,
    measured: Mapping[tuple[int, ...], Floats],
    folds: int,
    *,
    top: int,
    least: int,
    seed: int,
) -> Stability:
    """The stability of one ranking.

    squared: score_squared (C,) of the ranked channels; pseudo, plan_noise: theirs by fold (artifacts/jackknife), NaN
    for folds without rows, and where nothing is known. measured: score_squared (C,) by the folds that it comes from,
    NaN where a channel has none; parts that are not measured are left out. least: images, see above.
    """
    top = min(top, len(squared))
    pseudo, plan_noise = (values[:, np.isfinite(values).all(axis=0)] for values in (pseudo, plan_noise))
    given_plan = _Expected(images, squared, pseudo, None, top, least, seed)
    another = _Expected(images, squared, pseudo, plan_noise, top, least, seed) if plan_noise.size else None

    def level(images: float, seen: Floats = _NOTHING) -> Level:
        elsewhere = _NOTHING if another is None else another.at(images)
        pairs = zip(seen, given_plan.at(images), elsewhere, strict=True)
        return Level(int(images), *(float(value) for of_measure in pairs for value in of_measure))

    levels = [level(images / n, _measured(chosen, measured, top)) for n, chosen in parts_of(folds).items()]
    levels += [level(images * times) for times in LARGER]
    return Stability(target, group, images, len(squared), top, tuple(levels), _enough(images, given_plan))


def _measured(chosen: Sequence[tuple[int, ...]], scores: Mapping[tuple[int, ...], Floats], top: int) -> Floats:
    """Mean agreement (2,) of the parts that have no fold in common, and a score for every channel."""
    known = [part for part in chosen if part in scores and np.isfinite(scores[part]).all()]
    apart = [(one, other) for one, other in combinations(known, 2) if not set(one) & set(other)]
    return np.mean([_agree(scores[one], scores[other], top) for one, other in apart], axis=0) if apart else _NOTHING


def _agree(one: Floats, other: Floats, top: int) -> tuple[float, float]:
    """Spearman's correlation, NaN for a single channel, and the share of the top in common, NaN for a top of all."""
    places, others = (np.argsort(np.argsort(-scores, kind="stable"), kind="stable") for scores in (one, other))
    shared = (places < top) & (others < top)
    return _spearman(places, others), float(shared.sum() / top) if top < len(places) else float("nan")


def _spearman(places: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> float:
    """Of places without ties (C,): 1 - 6 sum d^2 / (C^3 - C)."""
    count = len(places)
    return float(1 - 6 * np.square(places - others).sum() / (count**3 - count)) if count > 1 else float("nan")


class _Expected:
    """The expected agreement of two rankings by the number of images that each has."""

    def __init__(
        self, images: int, squared: Floats, pseudo: Floats, plan_noise: Floats | None, top: int, least: int, seed: int
    ) -> None:
        self._images, self._least = images, least
        self._noise = _by_fold(pseudo - pseudo.mean(axis=1, keepdims=True))  # of the images
        self._of_plan = np.zeros((len(squared), 2)) if plan_noise is None else _by_fold(plan_noise)
        error = np.square(self._noise).sum(axis=1) + np.square(self._of_plan).sum(axis=1)
        true = max(0.0, squared.var(ddof=1) - error.mean()) if len(squared) > 1 else 0.0
        self._kept = true / np.maximum(true + error, np.finfo(float).tiny)
        self._centre = squared.mean() + self._kept * (squared - squared.mean())
        self._top = top
        self._seed = seed

    def at(self, images: float) -> Floats:
        """Spearman and overlap (2,), means over the draws. NaN for fewer than two channels, and for few images."""
        if len(self._centre) < 2 or images < self._least:
            return _NOTHING
        rng = np.random.default_rng(self._seed)  # the same draws at every number of images
        return np.asarray(np.mean([self._draw(rng, images / self._images) for _ in range(DRAWS)], axis=0))

    def _draw(self, rng: np.random.Generator, times: float) -> tuple[float, float]:
        images = rng.normal(size=(3, self._noise.shape[1])) @ self._noise.T
        plans = rng.normal(size=(3, self._of_plan.shape[1])) @ self._of_plan.T
        true = self._centre + np.sqrt(self._kept) * (images[0] + plans[0])
        one, other = (true + images[n] / np.sqrt(times) + plans[n] for n in (1, 2))
        return _agree(one, other, self._top)


def _by_fold(residual: Floats) -> Floats:
    """Residuals (C, F) so scaled that their sum, each fold's times a normal value, is an error of the score. Without
    what all channels have in common: it moves no rank, and is no part of the estimates' variance between channels."""
    folds = residual.shape[1]
    return np.asarray((residual - residual.mean(axis=0)) / np.sqrt(folds * (folds - 1)))


def _enough(images: int, expected: _Expected) -> int | None:
    """Images with which ENOUGH of the top are expected in common: by doubling, then on the line between."""
    steps = [images * 2.0**power for power in range(-FEWEST, FURTHEST + 1)]
    known = [(step, overlap) for step in steps if np.isfinite(overlap := float(expected.at(step)[1]))]
    if known and known[0][1] >= ENOUGH:
        return round(known[0][0])
    for (few, less), (many, more) in pairwise(known):
        if less < ENOUGH <= more:
            return round(few * float((many / few) ** ((ENOUGH - less) / (more - less))))
    return None
