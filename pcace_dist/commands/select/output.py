"""What `pcace select` writes and prints."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pcace_dist.analysis.columns import SELECT
from pcace_dist.analysis.publish import write_json, write_parquet
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.commands.select.sets import HALF, ChannelSet, Selected
from pcace_dist.progress.table import Column, Table, interval, number, print_table
from pcace_dist.progress.terminal import Format, tell
from pcace_dist.storage.files import Storage

ROWS_SHOWN = 60
NUMBERS_SHOWN = 8
WHOLE = 0.9  # of the output: below, sets by effect promise too much

LEGENDS = {
    "effect": """
{shares}: the fewest channels found that carry so much of what the layer
does to the output, when all its other channels stay at their mean maps.
whole: the share of the output that the layer's parts explain, to first order.""",
    "score": """
{shares}: the fewest channels found that tell so much of what the best set
tells of the output.
whole: the squared correlation that the best set reaches, out of fold.""",
}
PROMISES_TOO_MUCH = """
Where whole is below {least:.0%} the network keeps less than its set promises;
effect: {{gradient: image}} comes nearer (docs/pruning.md)."""


def write_selected(selected: Selected, folder: str, storage: Storage) -> pa.Table:
    """select.parquet, then select.json. Raises OutputError."""
    table = selected.table()
    write_parquet(table, f"{folder}/{SELECT.file}", storage)
    write_json(selected.to_json(), f"{folder}/select.json", storage)
    return table


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
    tell(LEGENDS[settings.by].format(shares=", ".join(map(_percent, _shares(settings.share)))))
    if settings.by == "effect" and any(found.whole < WHOLE for found in selected.sets):
        tell(PROMISES_TOO_MUCH.format(least=WHOLE))


def _shares(share: float) -> list[float]:
    """What the table has sizes for: half, and the share that was asked for."""
    return list(dict.fromkeys((HALF, share)))


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _sizes_table(title: str, sets: Sequence[ChannelSet], names: ClassNames, share: float) -> Table:
    columns = [
        Column("group", name=True),
        Column("layer", name=True),
        Column("channels", drop=2),
        Column("whole", drop=3),
        *(column for each in _shares(share) for column in _size_columns(_percent(each))),
        Column("first channels", drop=1),
    ]
    rows = [_size_cells(found, names, share) for found in sets]
    grouped = any(found.case.group is not None for found in sets)
    start = 0 if grouped else 1
    return Table(title, columns[start:], [row[start:] for row in rows])


def _size_columns(share: str) -> list[Column]:
    return [Column(share), Column("95 %", drop=4, meaning=f"95 % of the channels for {share}")]


def _size_cells(found: ChannelSet, names: ClassNames, share: float) -> list[str]:
    sizes = [found.kept.size(each) for each in _shares(share)]
    more = " ..." if len(found.order) > NUMBERS_SHOWN else ""
    return [
        names.group(found.case.group),
        found.case.layer,
        str(found.case.count),
        number(found.whole, 2),
        *(cell for size in sizes for cell in (str(size.channels), interval(size.low, size.high, 0))),
        " ".join(map(str, found.order[:NUMBERS_SHOWN].tolist())) + more,
    ]
