"""Names for channels: the word whose similarity to the images follows a channel's activation, and how well it holds.

The images fall into two halves, by fold: copies and frames of one place are in the same. On one half a word is chosen:
that with the largest AUC, the probability that an image of the tenth that activates the channel most is more similar to
the word than an image of the rest. What is shown is its AUC on the other half, which the choice among many words has
not flattered. Its 95 % interval inverts the variance of Hanley & McNeil (1982), as Newcombe (2006) advises for few
images. Arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

SHARE = 0.1  # of the images count as those that activate a channel most
LEAST = 5  # images of a half that must do so
WORDS = 3  # shown of a channel
GRID = np.linspace(0, 1, 2001)


@dataclass(frozen=True, eq=False)
class Suggested:
    """For C channels the WORDS best words of one half, best first: words (C, k), their numbers; on the other half auc,
    low and high (C, k). NaN, and word -1, for a channel that too few images activate."""

    words: npt.NDArray[np.int64]
    auc: Floats
    low: Floats
    high: Floats


def suggest(similarity: Floats, activation: npt.NDArray[np.number], first: Flags) -> Suggested:
    """similarity (n, W) of images and words; activation (n, C); first (n,): whether an image is of the half that
    chooses."""
    chosen_by, held_out = (_aucs(similarity[half], activation[half]) for half in (first, ~first))
    kept = min(WORDS, similarity.shape[1])
    words = np.argsort(-chosen_by.auc, axis=1, kind="stable")[:, :kept]
    auc = np.take_along_axis(held_out.auc, words, 1)
    auc[~np.isfinite(chosen_by.auc).all(1)] = np.nan
    low, high = interval(auc, held_out.active[:, None], held_out.others[:, None])
    return Suggested(np.where(np.isfinite(auc), words, -1), auc, low, high)


def interval(auc: Floats, active: npt.ArrayLike, others: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The values that an AUC of so many images on either side cannot exclude (95 %)."""
    one, two = GRID / (2 - GRID), 2 * GRID**2 / (1 + GRID)
    m, n = (np.asarray(count, np.float64)[..., None] for count in (active, others))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (GRID * (1 - GRID) + (m - 1) * (one - GRID**2) + (n - 1) * (two - GRID**2)) / (m * n)
    inside = (auc[..., None] - GRID) ** 2 <= stats.norm.ppf(0.975) ** 2 * variance
    missing = ~np.isfinite(auc)
    low = np.where(missing, np.nan, GRID[inside.argmax(-1)])
    return low, np.where(missing, np.nan, GRID[len(GRID) - 1 - inside[..., ::-1].argmax(-1)])


@dataclass(frozen=True, eq=False)
class _Aucs:
    """auc (C, W); active, others (C,): images on either side."""

    auc: Floats
    active: npt.NDArray[np.int64]
    others: npt.NDArray[np.int64]


def _aucs(similarity: Floats, activation: npt.NDArray[np.number]) -> _Aucs:
    flags = most_active(activation)
    active = flags.sum(0)
    ranks = stats.rankdata(similarity, axis=0)  # ties share their mean rank: they count half
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_rank = flags.T.astype(np.float64) @ ranks / active[:, None]
        auc = (mean_rank - (active[:, None] + 1) / 2) / (len(similarity) - active[:, None])
    auc[active < LEAST] = np.nan
    return _Aucs(auc, active, len(similarity) - active)


def most_active(activation: npt.NDArray[np.number]) -> Flags:
    """(n, C): the tenth of the images with the largest values; of equal ones at the border all or, where these would be
    more than a fifth of the images, none."""
    count = max(LEAST, round(SHARE * len(activation)))
    border = np.sort(activation, axis=0)[-min(count, len(activation))]
    flags = activation >= border
    return np.asarray(np.where(flags.sum(0) > 2 * count, activation > border, flags), np.bool_)
