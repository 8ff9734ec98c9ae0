"""Are the best channels settled? The rule by which a run may stop before the end of the data. Pure; no I/O, no Ray.

The top k by score_squared are settled when every pair of one channel inside and one outside is settled: the channel
inside is better, or worse by no more than a tolerance in the score. Each pair is a t test on the differences of the
fold pseudo-values. A wrong set needs at least one true-null pair to pass, together with all others, so the pairs share
one level (an intersection-union test, in the way of Gutmann & Maymin 1987, "Is the selected population the best?").
A run checks several times ("looks") while its data grow. Look l may be wrong with probability alpha / (l (l + 1)), so
that all looks together are wrong with probability alpha at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Floats: TypeAlias = npt.NDArray[np.float64]

PREFIXES = 6  # looks after 1/64, 1/32, ... 1/2 of the units; the last prefix is all of them
_TILE_FLOATS = 1 << 22


@dataclass(frozen=True)
class Settlement:
    """Whether a ranking's top is settled, and how many pairs of a channel inside and one outside are still open."""

    settled: bool
    open_pairs: int


def spent(alpha: float, look: int) -> float:
    """The error that look 1, 2, ... may spend of alpha: alpha / (l (l + 1))."""
    return alpha / (look * (look + 1))


def prefixes(units: int) -> list[int]:
    """Number of units after which each look comes: 1/64, 1/32 ... 1 of `units`, each number once, increasing."""
    sizes = {max(1, -(-units // 2**power)) for power in range(PREFIXES, -1, -1)}
    return sorted(sizes) if units else []


def check_settled(
    score_squared: Floats, pseudo: Floats, ok: npt.NDArray[np.bool_], *, top: int, level: float, tolerance: float
) -> Settlement:
    """Whether the `top` best channels are settled at error `level` (already that of this look).

    score_squared: float64 (C,); pseudo: float64 (C, F), as ChannelScores has them; tolerance in units of the score.
    With no more than `top` channels there is nothing to settle.
    """
    places = np.flatnonzero(ok)
    if len(places) <= top:
        return Settlement(True, 0)
    order = places[np.argsort(-score_squared[places], kind="stable")]
    inside, outside = order[:top], order[top:]
    residual = (pseudo - score_squared[:, None])[:, np.isfinite(pseudo[places]).all(axis=0)]
    folds = residual.shape[1]
    if folds < 2:
        return Settlement(False, len(inside) * len(outside))
    critical = float(stdtrit(folds - 1, 1 - level / 2))
    roots = np.sqrt(np.clip(score_squared, 0, 1))
    open_pairs = 0
    step = max(1, _TILE_FLOATS // (len(inside) * folds))
    for start in range(0, len(outside), step):
        part = outside[start : start + step]
        apart = residual[inside][:, None] - residual[part]
        error = np.sqrt(np.square(apart).sum(axis=2) / (folds * (folds - 1)))
        ahead = score_squared[inside][:, None] - score_squared[part]
        allowed = tolerance * (roots[inside][:, None] + roots[part])  # r_j - r_i <= tolerance, in squares
        open_pairs += int((ahead + allowed <= critical * error).sum())
    return Settlement(open_pairs == 0, open_pairs)
