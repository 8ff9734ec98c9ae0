"""The study's tables, in Markdown: areas, and paired differences of the claimed order to each baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.special import stdtrit

from pcace_dist.analysis.standings import SHOWN, Judged

Found: TypeAlias = Mapping[str, Sequence[Mapping[str, Judged]]]
"""By network, for each of its trainings: what was found, by measure."""

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean difference over trainings, with half the width of its 95 % interval by the images, the trainings given,
    and by the trainings (NaN of one). significant: -1 where either says that it is below 0, 1 where both say above."""

    mean: float
    by_images: float
    by_trainings: float

    @property
    def significant(self) -> int:
        widths = [self.by_images, self.by_trainings]
        return int(self.mean > np.nanmax(widths)) - int(-self.mean > np.nanmin(widths))


def difference(trainings: Sequence[Judged], name: str, other: str) -> Difference:
    """Of one order to another, paired."""
    means, errors = np.array([own.difference(name, other) for own in trainings]).T
    count, blocks = len(trainings), trainings[0].pseudo.shape[1]
    by_images = _t(blocks - 1) * float(np.sqrt(np.square(errors).sum())) / count
    by_trainings = _t(count - 1) * float(means.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return Difference(float(means.mean()), by_images, by_trainings)


def _t(freedom: int) -> float:
    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def area(trainings: Sequence[Judged], name: str) -> float:
    """The mean area of an order over trainings."""
    return float(np.mean([own.area[own.names.index(name)] for own in trainings]))


def areas_table(found: Found, measure: str, orders: Sequence[str]) -> Iterator[str]:
    """A line for each order, a column for each network, the mean over networks last."""
    yield f"| {SHOWN[measure]} | {' | '.join(f'{name} ({len(own)})' for name, own in found.items())} | mean |"
    yield "|---" * (len(found) + 2) + "|"
    rows = {}
    for name in orders:
        rows[name] = [area([own[measure] for own in trainings], name) for trainings in found.values()]
    best = np.max(list(rows.values()), axis=0)
    for name, values in sorted(rows.items(), key=lambda row: -float(np.mean(row[1]))):
        cells = [
            f"**{value:.3f}**" if value == top else f"{value:.3f}" for value, top in zip(values, best, strict=True)
        ]
        yield f"| {name} | {' | '.join(cells)} | {np.mean(values):.3f} |"


def differences_table(found: Found, measure: str, claimed: str, others: Sequence[str]) -> Iterator[str]:
    """Paired differences of the claimed order; in brackets half the width of the interval by images / by trainings."""
    yield f"| {claimed} less, {SHOWN[measure]} | {' | '.join(found)} |"
    yield "|---" * (len(found) + 1) + "|"
    for other in others:
        cells = []
        for trainings in found.values():
            own = difference([one[measure] for one in trainings], claimed, other)
            trained = "" if np.isnan(own.by_trainings) else f" / {own.by_trainings:.3f}"
            mark = {1: " +", 0: "", -1: " **-**"}[own.significant]
            cells.append(f"{own.mean:+.3f} ({own.by_images:.3f}{trained}){mark}")
        yield f"| {other} | {' | '.join(cells)} |"


def claims(found: Found, measures: Sequence[str], claimed: str, baselines: Sequence[str]) -> Iterator[str]:
    """What the protocol claims, baseline by baseline, and whether it holds."""
    for measure in measures:
        for other in baselines:
            by_network = {
                name: difference([one[measure] for one in trainings], claimed, other)
                for name, trainings in found.items()
            }
            mean = float(np.mean([own.mean for own in by_network.values()]))
            lost = [name for name, own in by_network.items() if own.significant < 0]
            if mean < 0 or lost:
                below = f"; significantly below on {', '.join(lost)}" if lost else ""
                yield f"- {SHOWN[measure]}: {claimed} {mean:+.3f} to {other} in the mean over networks{below}"
