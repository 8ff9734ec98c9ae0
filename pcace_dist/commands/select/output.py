"""select.parquet, select.json, and the table that `pcace select` prints. Computes nothing but overlaps and masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.analysis.columns import SELECT
from pcace_dist.analysis.publish import write_json, write_parquet
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.commands.select.select import HALF, ChannelSet, Selected
from pcace_dist.progress.table import Column, Table, interval, number, print_table
from pcace_dist.progress.terminal import Format, tell
from pcace_dist.storage.files import Storage

Floats: TypeAlias = npt.NDArray[np.float64]

DUPLICATES = 0.95  # likeness of a pair that is as good as one
ROWS_SHOWN = 60
NUMBERS_SHOWN = 8

LEGENDS = {
    "effect": """
50 %, {share}: the fewest channels found that carry so much of what the layer does to the output, when all its other
channels stay at their mean maps. whole: the share of the output that the layer's parts explain, to first order.""",
    "score": """
50 %, {share}: the fewest channels found that tell so much of what the best set tells of the output.
whole: the squared correlation that the best set reaches, out of fold.""",
}


def write_selected(selected: Selected, folder: str, storage: Storage) -> pa.Table:
    """select.parquet, then select.json. Raises OutputError."""
    table = selected_table(selected)
    write_parquet(table, f"{folder}/{SELECT.file}", storage)
    write_json(to_json(selected), f"{folder}/select.json", storage)
    return table


# -- select.parquet


def selected_table(selected: Selected) -> pa.Table:
    """A row per channel of every set that was asked for, in the order of the rankings."""
    parts = [_rows(found, selected) for found in selected.sets]
    kinds = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
    }
    fields = [(column.name, kinds.get(column.type, selected.group_type)) for column in SELECT.columns]
    columns = {name: [value for part in parts for value in part[name]] for name, _ in fields}
    return pa.table({name: pa.array(columns[name], kind) for name, kind in fields})


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


# -- select.json


def to_json(selected: Selected) -> dict[str, Any]:
    """The content of select.json."""
    settings = selected.settings
    return {
        "format_version": 1,
        "run": selected.path,
        "by": settings.by,
        "share": settings.share,
        "sets": [_set(found, settings.share) for found in selected.sets],
        "overlap": list(_overlaps(selected)),
        "duplicates": list(_duplicates(selected)),
        "masks": masks(selected),
        "left_out": list(selected.left_out),
    }


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


def masks(selected: Selected) -> dict[str, dict[str, Any]]:
    """By layer the channels that are in some set, and the others: what to keep, what to prune, and 1 or 0 for each."""
    kept: dict[str, npt.NDArray[np.bool_]] = {}
    for found in selected.sets:
        mask = kept.setdefault(found.case.layer, np.zeros(found.case.count, bool))
        mask[found.selected(selected.settings.share)] = True
    return {
        layer: {
            "keep": np.flatnonzero(mask).tolist(),
            "prune": np.flatnonzero(~mask).tolist(),
            "mask": mask.astype(int).tolist(),
        }
        for layer, mask in kept.items()
    }


# -- for people


def print_selected(selected: Selected, names: ClassNames, format: Format | None = None) -> None:
    """A table for each target: how many channels have the shares, group by group and layer by layer."""
    settings = selected.settings
    by_target: dict[str, list[ChannelSet]] = {}
    for found in selected.sets:
        by_target.setdefault(found.case.target, []).append(found)
    for target, sets in by_target.items():
        title = f"{names.target(target)}, by {settings.by}"
        print_table(_sizes_table(title, sets[:ROWS_SHOWN], names, settings.share), format)
        if len(sets) > ROWS_SHOWN:
            tell(f"\n{len(sets) - ROWS_SHOWN:,} more; see --group, --layer, --json")
    tell(LEGENDS[settings.by].format(share=f"{100 * settings.share:g} %"))


def _sizes_table(title: str, sets: Sequence[ChannelSet], names: ClassNames, share: float) -> Table:
    columns = [
        Column("group", name=True),
        Column("layer", name=True),
        Column("channels", drop=2),
        Column("whole", drop=3),
        Column("50 %"),
        Column("95 %", drop=4, meaning="95 % of the channels for 50 %"),
        Column(f"{100 * share:g} %"),
        Column("95 %", drop=4, meaning=f"95 % of the channels for {100 * share:g} %"),
        Column("first channels", drop=1),
    ]
    rows = []
    for found in sets:
        sizes = [found.kept.size(each) for each in (HALF, share)]
        numbers = [cell for size in sizes for cell in (str(size.channels), interval(size.low, size.high, 0))]
        first = found.order[:NUMBERS_SHOWN].tolist()
        more = " ..." if len(found.order) > NUMBERS_SHOWN else ""
        rows.append(
            [
                names.group(found.case.group),
                found.case.layer,
                str(found.case.count),
                number(found.whole, 2),
                *numbers,
                " ".join(map(str, first)) + more,
            ]
        )
    grouped = any(found.case.group is not None for found in sets)
    start = 0 if grouped else 1
    return Table(title, columns[start:], [row[start:] for row in rows])
