"""Channels x groups, ordered so that similar ones are neighbours: average linkage on the scores (scipy). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist

from pcace_dist.reporting.source import Ranking

MOST_CHANNELS = 60
MOST_GROUPS = 400


@dataclass(frozen=True, eq=False)
class Across:
    """The heat map of one target: channels (c,) as indices in a block, and groups (g,), both in the order of the map.

    score: (c, g), NaN where not ranked; tree: lines of the groups' dendrogram, x in groups from 0, y in distance.
    """

    target: int
    channels: list[int]
    groups: list[int]
    score: npt.NDArray[np.float64]
    tree: list[tuple[list[float], list[float]]]


def across_groups(ranking: Ranking, target: int) -> Across | None:
    """The best channels over all groups; None where there are fewer than two groups."""
    groups = list(range(len(ranking.groups)))
    if len(groups) > MOST_GROUPS:
        images = [ranking.block(target, g)["images"][0].as_py() for g in groups]
        groups = sorted(np.argsort(-np.array(images), kind="stable")[:MOST_GROUPS].tolist())
    if len(groups) < 2:
        return None
    scores = np.stack([ranking.numbers(target, g, "score") for g in groups], 1)  # (channels, groups)
    filled = np.nan_to_num(scores)
    channels = np.argsort(-filled.mean(1), kind="stable")[:MOST_CHANNELS]
    best_scores = filled[channels]
    by_channel, _ = _order(best_scores)
    by_group, tree = _order(best_scores.T)
    ordered_channels = channels[by_channel]
    return Across(
        target, ordered_channels.tolist(), [groups[g] for g in by_group], scores[ordered_channels][:, by_group], tree
    )


def _order(rows: npt.NDArray[np.float64]) -> tuple[list[int], list[tuple[list[float], list[float]]]]:
    """Leaves in the order of the dendrogram, and its lines."""
    if len(rows) < 3:
        return list(range(len(rows))), []
    distances = pdist(rows)
    linkage = hierarchy.linkage(distances, "average", optimal_ordering=len(rows) <= 200)
    drawn: Any = hierarchy.dendrogram(linkage, no_plot=True)
    lines = [([(x - 5) / 10 for x in xs], list(ys)) for xs, ys in zip(drawn["icoord"], drawn["dcoord"], strict=True)]
    return [int(leaf) for leaf in drawn["leaves"]], lines
