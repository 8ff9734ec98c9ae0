"""How much two rankings of the same channels agree: Kendall, Spearman, overlap of the tops, rank-biased overlap.

Pure: arrays in, numbers out. NaN marks a channel that is not ranked on that side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats: TypeAlias = npt.NDArray[np.float64]

TOP = 20
PERSISTENCE = 0.9  # of rank-biased overlap: with it, the first 10 ranks have 86 % of the weight


@dataclass(frozen=True)
class Agreement:
    """channels: the number ranked on both sides. kendall (tau-b) and spearman: over these; NaN for fewer than two, or
    where one side is constant. overlap: share of the `top` best of one side that are among those of the other. rbo: see
    `rank_biased_overlap`.
    """

    channels: int
    kendall: float
    spearman: float
    top: int
    overlap: float
    rbo: float


def agreement(scores_a: Floats, scores_b: Floats, *, top: int = TOP, persistence: float = PERSISTENCE) -> Agreement:
    """Agreement of two scores (C,) of the same channels, higher is better; NaN where a channel is not ranked."""
    ranked_twice = np.isfinite(scores_a) & np.isfinite(scores_b)
    list_a, list_b = ordered(scores_a), ordered(scores_b)
    reach = min(top, len(list_a), len(list_b))
    return Agreement(
        channels=int(ranked_twice.sum()),
        kendall=_correlation(stats.kendalltau, scores_a[ranked_twice], scores_b[ranked_twice]),
        spearman=_correlation(stats.spearmanr, scores_a[ranked_twice], scores_b[ranked_twice]),
        top=reach,
        overlap=float(len(set(list_a[:reach]) & set(list_b[:reach])) / reach) if reach else float("nan"),
        rbo=rank_biased_overlap(list_a, list_b, persistence=persistence),
    )


def ordered(scores: Floats) -> list[int]:
    """Positions of the ranked channels, best first; ties keep their order."""
    order = np.argsort(-scores, kind="stable")
    return [int(place) for place in order if np.isfinite(scores[place])]


def rank_biased_overlap(list_a: Sequence[int], list_b: Sequence[int], *, persistence: float = PERSISTENCE) -> float:
    """Rank-biased overlap of two lists, best first, each entry once; extrapolated (Webber, Moffat & Zobel 2010).

    A reader continues from each rank to the next with probability p = `persistence`; the value is the expected overlap
    that he sees. Lists are compared up to the length k of the shorter one; beyond it, the overlap at k is assumed to
    continue (their RBO_EXT, equation 30): A_k p^k + (1 - p) sum over d <= k of A_d p^(d-1), where A_d is the share of
    the first d in common. 1 for equal lists, 0 for lists without a common entry; NaN for an empty list.
    """
    depth = min(len(list_a), len(list_b))
    if not depth:
        return float("nan")
    seen_a: set[int] = set()
    seen_b: set[int] = set()
    common = 0
    total = 0.0
    for d in range(1, depth + 1):
        a, b = list_a[d - 1], list_b[d - 1]
        common += (a == b) + (a != b and a in seen_b) + (a != b and b in seen_a)
        seen_a.add(a)
        seen_b.add(b)
        total += common / d * persistence ** (d - 1)
    return float((1 - persistence) * total + common / depth * persistence**depth)


def _correlation(coefficient: object, scores_a: Floats, scores_b: Floats) -> float:
    if len(scores_a) < 2 or np.ptp(scores_a) == 0 or np.ptp(scores_b) == 0:
        return float("nan")
    return float(coefficient(scores_a, scores_b).statistic)  # type: ignore[operator]
