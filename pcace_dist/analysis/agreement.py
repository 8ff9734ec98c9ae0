"""How far two rankings of the same channels agree: Kendall, Spearman, overlap of the tops, rank-biased overlap.

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
PERSISTENCE = 0.9  # of rank-biased overlap: the first 10 ranks carry 86 % of the weight


@dataclass(frozen=True)
class Agreement:
    """channels: ranked on both sides. kendall (tau-b) and spearman over these, NaN below two or for a constant side.

    overlap: share of the `top` best of one side that are among those of the other. rbo: see `rank_biased_overlap`.
    """

    channels: int
    kendall: float
    spearman: float
    top: int
    overlap: float
    rbo: float


def agreement(one: Floats, other: Floats, *, top: int = TOP, persistence: float = PERSISTENCE) -> Agreement:
    """Agreement of two scores (C,) of the same channels, higher is better; NaN where a channel is not ranked."""
    both = np.isfinite(one) & np.isfinite(other)
    first, second = ordered(one), ordered(other)
    reach = min(top, len(first), len(second))
    return Agreement(
        channels=int(both.sum()),
        kendall=_correlation(stats.kendalltau, one[both], other[both]),
        spearman=_correlation(stats.spearmanr, one[both], other[both]),
        top=reach,
        overlap=float(len(set(first[:reach]) & set(second[:reach])) / reach) if reach else float("nan"),
        rbo=rank_biased_overlap(first, second, persistence=persistence),
    )


def ordered(scores: Floats) -> list[int]:
    """Positions of the ranked channels, best first; ties keep their order."""
    order = np.argsort(-scores, kind="stable")
    return [int(place) for place in order if np.isfinite(scores[place])]


def rank_biased_overlap(one: Sequence[int], other: Sequence[int], *, persistence: float = PERSISTENCE) -> float:
    """Rank-biased overlap of two lists, best first, each entry once; extrapolated (Webber, Moffat & Zobel 2010).

    A reader goes on from each rank to the next with probability p = `persistence`; the value is the overlap that he
    expects to see. Lists are seen to the length k of the shorter one, and beyond it the overlap found at k is assumed
    to go on (their RBO_EXT, equation 30): A_k p^k + (1 - p) sum over d <= k of A_d p^(d-1), where A_d is the share
    of the first d in common. 1 for equal lists, 0 for lists without a common entry; NaN for an empty list.
    """
    depth = min(len(one), len(other))
    if not depth:
        return float("nan")
    seen_one: set[int] = set()
    seen_other: set[int] = set()
    common = 0
    total = 0.0
    for d in range(1, depth + 1):
        a, b = one[d - 1], other[d - 1]
        common += (a == b) + (a != b and a in seen_other) + (a != b and b in seen_one)
        seen_one.add(a)
        seen_other.add(b)
        total += common / d * persistence ** (d - 1)
    return float((1 - persistence) * total + common / depth * persistence**depth)


def _correlation(function: object, one: Floats, other: Floats) -> float:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(function(one, other).statistic)  # type: ignore[operator]
