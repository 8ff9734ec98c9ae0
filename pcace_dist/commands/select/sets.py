"""What `pcace select` finds: sets of channels as a table (select.parquet), as JSON (select.json), and as masks.

Computes nothing but overlaps and masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.analysis.columns import SELECT
from pcace_dist.config.choice import Wanted
from pcace_dist.errors import JobError
from pcace_dist.statistics.sets.curves import Curve

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
By: TypeAlias = Literal["effect", "score"]

HALF = 0.5  # the share that is told beside the one that is asked for
DUPLICATES = 0.95  # likeness of a pair that is as good as one


@dataclass(frozen=True)
class SelectSettings:
    """What is asked. share: of the output, that a set is to have. None: all there are."""

    by: By = "effect"
    share: float = 0.9
    layers: Wanted = None
    target: Wanted = None
    group: Wanted = None

    def __post_init__(self) -> None:
        """Raises JobError."""
        if self.by not in get_args(By):
            raise JobError(f"by {self.by!r}: sets are chosen by {' or '.join(get_args(By))}")
        if not 0 < self.share < 1:
            raise JobError(f"share {self.share:g}: is not above 0 and below 1, as 0.9 is")


@dataclass(frozen=True)
class Case:
    """One target, group and layer: the number of its channels, and those that count."""

    target: str
    group: Any
    layer: str
    count: int
    channels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ChannelSet:
    """The answer for a case. order: the channels' numbers, so that the first k are the set of k; kept: their shares.
    removal: the numbers in the order in which most is lost, with what is lost; by effect only. whole: what all do."""

    case: Case
    images: int
    whole: float
    order: Integers
    kept: Curve
    removal: Integers | None
    removed: Curve | None

    def selected(self, share: float) -> Integers:
        """The channels of the set that has a share, in their order."""
        return self.order[: self.kept.size(share).channels]


@dataclass(frozen=True, eq=False)
class Selected:
    """All sets, what was left out and why, and by layer how alike its channels are (C, C); None without a sample.
    group_type: of a column that holds groups."""

    path: str
    settings: SelectSettings
    group_type: pa.DataType
    sets: tuple[ChannelSet, ...]
    left_out: tuple[str, ...]
    alike: Mapping[str, Floats] | None

    def table(self) -> pa.Table:
        """A row per channel of every set that was asked for, in the order of the rankings."""
        parts = [_rows(found, self) for found in self.sets]
        schema = SELECT.schema(self.group_type)
        return pa.table({name: [value for part in parts for value in part[name]] for name in schema.names}, schema)

    def to_json(self) -> dict[str, Any]:
        """The content of select.json."""
        settings = self.settings
        return {
            "format_version": 1,
            "run": self.path,
            "by": settings.by,
            "share": settings.share,
            "sets": [_set(found, settings.share) for found in self.sets],
            "overlap": list(_overlaps(self)),
            "duplicates": list(_duplicates(self)),
            "masks": self.masks,
            "left_out": list(self.left_out),
        }

    @property
    def masks(self) -> dict[str, dict[str, Any]]:
        """By layer what is in some set (`keep`), what is not (`prune`), and 1 or 0 for each channel (`mask`)."""
        kept: dict[str, npt.NDArray[np.bool_]] = {}
        for found in self.sets:
            mask = kept.setdefault(found.case.layer, np.zeros(found.case.count, bool))
            mask[found.selected(self.settings.share)] = True
        return {
            layer: {
                "keep": np.flatnonzero(mask).tolist(),
                "prune": np.flatnonzero(~mask).tolist(),
                "mask": mask.astype(int).tolist(),
            }
            for layer, mask in kept.items()
        }


def _rows(found: ChannelSet, selected: Selected) -> dict[str, list[Any]]:
    case, settings = found.case, selected.settings
    count = case.count
    kept, removed = _by_channel(found.order, found.kept, count), _by_channel(found.removal, found.removed, count)
    twin, alike = _twins(selected.alike, case.layer, count)
    chosen = set(found.selected(settings.share).tolist())
    return {
        "target": [case.target] * count,
        "group": [case.group] * count,
        "layer": [case.layer] * count,
        "channel": list(range(count)),
        "by": [settings.by] * count,
        "images": [found.images] * count,
        "place": kept["place"],
        "share": kept["share"],
        "share_low": kept["low"],
        "share_high": kept["high"],
        "selected": [channel in chosen for channel in range(count)],
        "removal_place": removed["place"],
        "lost": removed["share"],
        "lost_low": removed["low"],
        "lost_high": removed["high"],
        "twin": twin,
        "likeness": alike,
    }


def _by_channel(order: Any, curve: Any, count: int) -> dict[str, list[Any]]:
    """Place, from 1, and share with its interval of the sets up to each channel; None where it has no place."""
    values: dict[str, list[Any]] = {name: [None] * count for name in ("place", "share", "low", "high")}
    if curve is None:
        return values
    for place, channel in enumerate(order.tolist()):
        values["place"][channel] = place + 1
        for name in ("share", "low", "high"):
            values[name][channel] = float(getattr(curve, name)[place])
    return values


def _twins(alike: Mapping[str, Floats] | None, layer: str, count: int) -> tuple[list[Any], list[Any]]:
    """For each channel the other one of its layer that is most like it, and how much."""
    if alike is None or count < 2:
        return [None] * count, [None] * count
    others = alike[layer] - 2 * np.eye(count)
    return others.argmax(1).tolist(), others.max(1).tolist()


def _key(found: ChannelSet) -> dict[str, Any]:
    return {"target": found.case.target, "group": found.case.group, "layer": found.case.layer}


def _set(found: ChannelSet, share: float) -> dict[str, Any]:
    sizes = {f"{each:g}": found.kept.size(each) for each in dict.fromkeys((HALF, share))}
    return {
        **_key(found),
        "of": found.case.count,
        "images": found.images,
        "whole": found.whole,
        "sizes": {each: {"channels": s.channels, "low": s.low, "high": s.high} for each, s in sizes.items()},
        "channels": found.selected(share).tolist(),
    }


def _overlaps(selected: Selected) -> Iterator[dict[str, Any]]:
    """For each set the group whose set of the same target and layer has most in common with it, and the mean over all
    groups: channels in both, of those in either."""
    alternatives: dict[tuple[str, str], list[ChannelSet]] = {}
    for found in selected.sets:
        alternatives.setdefault((found.case.target, found.case.layer), []).append(found)
    for same in alternatives.values():
        chosen = np.zeros((len(same), same[0].case.count))
        for place, found in enumerate(same):
            chosen[place, found.selected(selected.settings.share)] = 1
        both = chosen @ chosen.T
        sizes = chosen.sum(1)
        shared = both / (sizes[:, None] + sizes - both) - 2 * np.eye(len(same))
        for found, own in zip(same if len(same) > 1 else (), shared, strict=False):
            nearest = int(own.argmax())
            mean = float(own[own >= 0].mean())
            yield _key(found) | {"nearest": same[nearest].case.group, "overlap": float(own[nearest]), "mean": mean}


def _duplicates(selected: Selected) -> Iterator[dict[str, Any]]:
    """Pairs of channels of a layer that are as good as one."""
    for layer, alike in (selected.alike or {}).items():
        for one, other in zip(*np.nonzero(np.triu(alike, 1) >= DUPLICATES), strict=True):
            pair = [int(one), int(other)]
            yield {"layer": layer, "channels": pair, "likeness": float(alike[one, other])}
