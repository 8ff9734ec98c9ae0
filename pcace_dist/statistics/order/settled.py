"""Are the best channels settled? The rule for stopping a run before the end of the data. Pure; no I/O, no Ray.

The top k by score_squared are settled when every pair of a channel inside and a channel outside is settled: the channel
inside is better, or worse by no more than a tolerance in the score. For each pair there is a t test on the differences
of the fold pseudo-values, one-sided, given the plan: the question is whether more images would change the top. The top
k are wrong only if at least one pair passes although its null hypothesis is true, so every pair is tested at the full
level (an intersection-union test, as in Gutmann & Maymin 1987, "Is the selected population the best?"). A run checks
several times ("looks") while its data grow. The last look may be wrong with probability alpha / 2, the one before with
alpha / 4 and so on, so that all looks together are wrong with probability alpha at most. Late looks have most of the
images and settle most: they get most of alpha.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.statistics.student import t_quantile

Floats: TypeAlias = npt.NDArray[np.float64]

PREFIXES = 6  # looks after 1/64, 1/32, ... 1/2 of the units, and after all of them
_TILE_FLOATS = 1 << 22


@dataclass(frozen=True)
class Settlement:
    """Whether a ranking's top is settled.

    open_pairs: pairs of one channel inside and one outside that are still unsettled. surely: channels inside without
    such a pair; possibly: these, the others inside, and those outside with such a pair.
    """

    settled: bool
    open_pairs: int
    surely: int
    possibly: int


def spent(alpha: float, look: int, looks: int) -> float:
    """The part of alpha for look 1, 2, ... of so many: alpha / 2 for the last, alpha / 4 for the one before, ..."""
    return float(alpha / 2 ** (looks - look + 1))


def prefixes(units: int) -> list[int]:
    """The number of units before each look: 1/64, 1/32 ... 1 of `units`, each number once, increasing."""
    sizes = {max(1, -(-units // 2**power)) for power in range(PREFIXES, -1, -1)}
    return sorted(sizes) if units else []


def check_settled(
    score_squared: Floats, pseudo: Floats, ok: npt.NDArray[np.bool_], *, top: int, level: float, tolerance: float
) -> Settlement:
    """Whether the `top` best channels are settled, given the plan. level: the error of this look.

    score_squared: float64 (C,); pseudo: float64 (C, F), as in ChannelScores; tolerance in units of the score. With
    `top` channels or fewer, there is nothing to settle.
    """
    candidates = np.flatnonzero(ok)
    if len(candidates) <= top:
        return Settlement(True, 0, len(candidates), len(candidates))
    order = candidates[np.argsort(-score_squared[candidates], kind="stable")]
    inside, outside = order[:top], order[top:]
    residual = (pseudo - score_squared[:, None])[:, np.isfinite(pseudo[candidates]).all(axis=0)]
    folds = residual.shape[1]
    if folds < 2:
        return Settlement(False, len(inside) * len(outside), 0, len(candidates))
    critical = t_quantile(folds, 1 - level)
    roots = np.sqrt(np.clip(score_squared, 0, 1))
    open_pairs, rivals, doubtful = 0, 0, np.zeros(top, bool)
    step = max(1, _TILE_FLOATS // (len(inside) * folds))
    for start in range(0, len(outside), step):
        tile = outside[start : start + step]
        differences = residual[inside][:, None] - residual[tile]
        error = np.sqrt(np.square(differences).sum(axis=2) / (folds * (folds - 1)))
        lead = score_squared[inside][:, None] - score_squared[tile]
        allowed = tolerance * (roots[inside][:, None] + roots[tile])  # r_j - r_i <= tolerance, in squares
        is_open = lead + allowed <= critical * error
        open_pairs += int(is_open.sum())
        rivals += int(is_open.any(axis=0).sum())
        doubtful |= is_open.any(axis=1)
    return Settlement(open_pairs == 0, open_pairs, top - int(doubtful.sum()), top + rivals)
