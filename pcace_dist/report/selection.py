"""Which groups, channels and images a report shows: as many as one page can carry, and no more. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcace_dist.datasets.groups import name_of
from pcace_dist.errors import UserError
from pcace_dist.report.options import ReportOptions
from pcace_dist.report.source import Ranking

MOST_NUMBERS = 120_000  # rows of the ranking that a page carries
MOST_PAGES = 320  # channels with pictures, where --top does not say otherwise
PAGES_ABOUT = 120


@dataclass(frozen=True)
class Selection:
    """Indices of the groups that are shown, and by layer the channels that have a page of their own.

    left_out: groups that did not fit; those that nobody asked for do not count.
    """

    groups: tuple[int, ...]
    pages: dict[str, tuple[int, ...]]
    left_out: int

    @property
    def channels(self) -> list[tuple[str, int]]:
        """(layer, channel) of every page."""
        return [(layer, channel) for layer, channels in self.pages.items() for channel in channels]


def select(ranking: Ranking, options: ReportOptions) -> Selection:
    """Choose. Raises UserError for a group that the run does not have."""
    groups = _groups(ranking, options.groups)
    top = options.top or max(3, min(16, PAGES_ABOUT // len(ranking.layers)))
    squared = np.stack(
        [ranking.numbers(t, g, "score_squared") for t in range(len(ranking.targets)) for g in groups]
    )  # (targets x groups, channels)
    ranks = np.stack([ranking.numbers(t, g, "rank") for t in range(len(ranking.targets)) for g in groups])
    with np.errstate(invalid="ignore"):
        counted = np.isfinite(squared).sum(0)
        overall = np.where(counted > 0, np.nansum(squared, 0) / np.maximum(counted, 1), -np.inf)
    favourites = set(np.flatnonzero((ranks <= 3).any(0)).tolist()) if len(squared) * 3 <= MOST_PAGES else set()
    pages: dict[str, tuple[int, ...]] = {}
    for name, count in ranking.layers:
        start = ranking.start(name)
        order = np.argsort(-overall[start : start + count], kind="stable")
        chosen = {*order[:top].tolist(), *order[count - min(top, count) :].tolist()}
        chosen |= {channel - start for channel in favourites if start <= channel < start + count}
        pages[name] = tuple(sorted(chosen))
    left_out = 0 if options.groups is not None else len(ranking.groups) - len(groups)
    return Selection(groups, pages, left_out)


def _groups(ranking: Ranking, wanted: tuple[str, ...] | None) -> tuple[int, ...]:
    names = [name_of(group) for group in ranking.groups]
    if wanted is not None:
        asked = {str(ranking.names.asked_group(name)): name for name in wanted}
        for value, name in asked.items():
            if value not in names:
                shown = ", ".join(map(ranking.names.group, ranking.groups[:20])) + (", ..." if len(names) > 20 else "")
                raise UserError(f"--groups {name}: no such group in this run; there are: {shown}")
        return tuple(index for index, name in enumerate(names) if name in asked)
    room = max(1, MOST_NUMBERS // (len(ranking.targets) * ranking.channels))
    if len(names) <= room:
        return tuple(range(len(names)))
    images = np.array([ranking.block(0, g)["images"][0].as_py() for g in range(len(names))])
    return tuple(sorted(np.argsort(-images, kind="stable")[:room].tolist()))
