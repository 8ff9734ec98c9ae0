"""Chooses the groups and channels that a report shows: as many as fit on one page. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcace_dist.config.choice import choose
from pcace_dist.reporting.options import ReportOptions
from pcace_dist.reporting.source import Ranking

MOST_NUMBERS = 120_000  # rows of the ranking on a page
MOST_PAGES = 320  # channels with pictures, unless --top says otherwise
PAGES_ABOUT = 120


@dataclass(frozen=True)
class PageSelection:
    """Indices of the groups that are shown, and by layer the channels with a page of their own.

    pages: empty where no channel is ranked. left_out: the number of groups that did not fit; without groups that were
    not asked for.
    """

    groups: tuple[int, ...]
    pages: dict[str, tuple[int, ...]]
    left_out: int

    @property
    def channels(self) -> list[tuple[str, int]]:
        """(layer, channel) of every page."""
        return [(layer, channel) for layer, channels in self.pages.items() for channel in channels]


def select(ranking: Ranking, options: ReportOptions) -> PageSelection:
    """Choose groups and channels. Raises UserError for a group that the run does not have."""
    groups = _groups(ranking, options.groups)
    top = options.top or max(3, min(16, PAGES_ABOUT // len(ranking.layers)))
    squared = np.stack(
        [ranking.numbers(t, g, "score_squared") for t in range(len(ranking.targets)) for g in groups]
    )  # (targets x groups, channels)
    ranks = np.stack([ranking.numbers(t, g, "rank") for t in range(len(ranking.targets)) for g in groups])
    with np.errstate(invalid="ignore"):
        ranked_in = np.isfinite(squared).sum(0)
        overall = np.where(ranked_in > 0, np.nansum(squared, 0) / np.maximum(ranked_in, 1), -np.inf)
    favourites = set(np.flatnonzero((ranks <= 3).any(0)).tolist()) if len(squared) * 3 <= MOST_PAGES else set()
    pages: dict[str, tuple[int, ...]] = {}
    for name, count in ranking.layers if np.isfinite(ranks).any() else ():
        start = ranking.start(name)
        order = np.argsort(-overall[start : start + count], kind="stable")
        shown = {*order[:top].tolist(), *order[count - min(top, count) :].tolist()}
        shown |= {channel - start for channel in favourites if start <= channel < start + count}
        pages[name] = tuple(sorted(shown))
    left_out = 0 if options.groups is not None else len(ranking.groups) - len(groups)
    return PageSelection(groups, pages, left_out)


def _groups(ranking: Ranking, requested: tuple[str, ...] | None) -> tuple[int, ...]:
    names = ranking.groups
    if requested is not None:
        called, indices = ranking.names.group_names, range(len(names))
        return tuple(choose("group", requested, indices, lambda index: called(names[index]), where="the run"))
    room = max(1, MOST_NUMBERS // (len(ranking.targets) * ranking.channels))
    if len(names) <= room:
        return tuple(range(len(names)))
    images = np.array([ranking.block(0, g)["images"][0].as_py() for g in range(len(names))])
    return tuple(sorted(np.argsort(-images, kind="stable")[:room].tolist()))
