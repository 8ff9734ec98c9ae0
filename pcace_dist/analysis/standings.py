"""How the orders of ablation curves do against each other, and which may be trusted for what.

An order's area is its mean over the curves of a replacement. Areas are compared by what they are without each block of
images in turn (a jackknife; two orders see the same images, so what both see alike cancels), all pairs at once as
channels are (statistics/order/ranks.py): an order may be the best if no other is significantly better at 5 %. Said of
this model and this ranking: what another training would change, no run can tell. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pcace_dist.analysis.curves import ACCURACY, BEST, CHANGED, LOST, RANDOM, WORST, Curves, Floats
from pcace_dist.models.ablation.replacement import BLOCKS
from pcace_dist.statistics.order.flips import LEVEL
from pcace_dist.statistics.order.ranks import Ranks, rank_channels
from pcace_dist.statistics.student import t_quantile

SHOWN = {LOST: "1 - r^2", CHANGED: "Var(change) / Var(target)", ACCURACY: "accuracy"}


@dataclass(frozen=True)
class Standing:
    """One order in all curves of a replacement. area: mean of 1 - r^2; won, lost: the numbers of curves in which the
    ranking's area is larger or smaller than this order's; beyond_random: the number of curves in which this order's
    area is above the band of random orders. changed: area of Var(change) / Var(target); accuracy: mean accuracy with
    channels replaced, None without labels. rank_low, rank_high: which place the order may have by 1 - r^2, with 95 %
    confidence, on the curves that have every order; None where the images are too few to say. changed_rank_*,
    accuracy_rank_*: the same by these."""

    order: str
    area: float
    won: int
    lost: int
    beyond_random: int
    curves: int
    changed: float
    accuracy: float | None
    rank_low: int | None
    rank_high: int | None
    changed_rank_low: int | None
    changed_rank_high: int | None
    accuracy_rank_low: int | None
    accuracy_rank_high: int | None


@dataclass(frozen=True, eq=False)
class Judged:
    """Orders by one measure, on `curves` curves that have every order and images in every block.

    area: (orders,), larger takes more; pseudo: jackknife pseudo-values (orders, BLOCKS), whose mean is the area.
    """

    measure: str
    names: tuple[str, ...]
    area: Floats
    pseudo: Floats
    curves: int

    @property
    def ranks(self) -> Ranks | None:
        """Places with their 95 % intervals; None where nothing can be told."""
        if not self.curves or not np.isfinite(self.pseudo).all():
            return None
        return rank_channels(self.area, self.pseudo, np.ones(len(self.names), dtype=bool))

    def difference(self, name: str, other: str) -> tuple[float, float]:
        """How much larger one order's area is than another's, and the standard error."""
        one, two = self.names.index(name), self.names.index(other)
        values = self.pseudo[one] - self.pseudo[two]
        return float(self.area[one] - self.area[two]), float(values.std(ddof=1) / np.sqrt(len(values)))

    def is_better(self, name: str, other: str) -> bool:
        """Whether an order is significantly better than another, as one of all comparisons of either (Sidak)."""
        difference, error = self.difference(name, other)
        level = LEVEL ** (1 / max(1, len(self.names) - 1))
        return difference > t_quantile(self.pseudo.shape[1], (1 + level) / 2) * error


def judge(all_curves: Sequence[Curves], replacement: str, measure: str) -> Judged:
    """The orders of a replacement's curves by `measure`; the worst first is left out."""
    of_replacement = [curves for curves in all_curves if curves.replacement == replacement]
    names = tuple(name for name in _names(of_replacement) if name != WORST)
    common = [c for c in of_replacement if set(names) <= set(c.names) and len(c.areas_without(BEST, measure)) == BLOCKS]
    if not common:
        return Judged(measure, names, np.full(len(names), np.nan), np.full((len(names), BLOCKS), np.nan), 0)
    sign = -1.0 if measure == ACCURACY else 1.0
    area = sign * np.array([np.mean([c.area(name, measure) for c in common]) for name in names])
    without = sign * np.array([np.mean([c.areas_without(name, measure) for c in common], axis=0) for name in names])
    residual = (BLOCKS - 1) * (without.mean(axis=1, keepdims=True) - without)
    return Judged(measure, names, area, area[:, None] + residual, len(common))


def standings(all_curves: Sequence[Curves], replacement: str) -> Iterator[Standing]:
    """Every order in comparison with the ranking, the largest area first."""
    of_replacement = [curves for curves in all_curves if curves.replacement == replacement]
    places = {measure: _places(judge(all_curves, replacement, measure)) for measure in SHOWN}
    rows = []
    for name in _names(of_replacement):
        with_order = [curves for curves in of_replacement if name in curves.names]
        differences = [curves.area(BEST) - curves.area(name) for curves in with_order]
        accuracy = float(np.mean([curves.area(name, ACCURACY) for curves in with_order]))
        low, high = zip(*(places[measure].get(name, (None, None)) for measure in SHOWN), strict=True)
        rows.append(
            Standing(
                order=name,
                area=float(np.mean([curves.area(name) for curves in with_order])),
                won=sum(difference > 0 for difference in differences),
                lost=sum(difference < 0 for difference in differences),
                beyond_random=sum(curves.area(name) > curves.band[1] for curves in with_order),
                curves=len(with_order),
                changed=float(np.mean([curves.area(name, CHANGED) for curves in with_order])),
                accuracy=None if np.isnan(accuracy) else accuracy,
                rank_low=low[0],
                rank_high=high[0],
                changed_rank_low=low[1],
                changed_rank_high=high[1],
                accuracy_rank_low=low[2],
                accuracy_rank_high=high[2],
            )
        )
    yield from sorted(rows, key=lambda row: -row.area)


def verdict(all_curves: Sequence[Curves], replacement: str) -> str:
    """One sentence: which orders to trust for what, by what is significant on these images."""
    judged = [judge(all_curves, replacement, measure) for measure in SHOWN]
    known = [one for one in judged if one.measure != ACCURACY or np.isfinite(one.area).all()]  # without labels, none
    trusted = "; ".join(f"for {SHOWN[one.measure]} {_trusted(one)}" for one in known)
    every = sum(curves.replacement == replacement for curves in all_curves)
    where = f"{known[0].curves} of {every} curves, replaced by {replacement}"
    return f"Trust, by {where}: {trusted}; by {SHOWN[LOST]} {BEST} is {_against(known[0])}."


def _trusted(judged: Judged) -> str:
    """The order with the largest area, and those that may be the best as well."""
    ranks = judged.ranks
    if ranks is None:
        return "none (too few images to compare orders)"
    best = [index for index, low in enumerate(ranks.low) if low == 1]
    if judged.names.index(RANDOM) in best:
        return "none (no order is told from random ones)"
    first, *others = (judged.names[index] for index in sorted(best, key=lambda index: ranks.rank[index]))
    return f"{first} ({_listed(others, 'or')} may be as good)" if others else first


def _against(judged: Judged) -> str:
    """What the ranking is significantly better and worse than."""
    if judged.ranks is None:
        return "not compared"
    others = [name for name in judged.names if name != BEST]
    better = [name for name in others if judged.is_better(BEST, name)]
    worse = [name for name in others if judged.is_better(name, BEST)]
    parts = [f"{side} {_listed(names, 'and')}" for side, names in (("above", better), ("below", worse)) if names]
    return ", ".join(parts) or "told from no other order"


def _names(all_curves: Sequence[Curves]) -> list[str]:
    return list(dict.fromkeys(name for curves in all_curves for name in curves.names))


def _places(judged: Judged) -> dict[str, tuple[int, int]]:
    ranks = judged.ranks
    if ranks is None:
        return {}
    return {name: (int(ranks.low[i]), int(ranks.high[i])) for i, name in enumerate(judged.names)}


def _listed(names: Sequence[str], last: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
