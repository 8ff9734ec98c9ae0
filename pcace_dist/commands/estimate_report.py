"""An estimate as text for people and as a JSON value for scripts. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pcace_dist.commands.estimate import Estimate, Prediction
from pcace_dist.progress.display import duration
from pcace_dist.progress.table import Column, Table, lines_of

FORMAT_VERSION = 1
STAGES = ("start", "pilot", "main", "reduce", "publish")


def to_json(estimate: Estimate) -> dict[str, Any]:
    """Everything in plain numbers: bytes, seconds, counts."""
    load, held = estimate.load, estimate.memory
    counts = ("images", "bytes", "files", "layers", "channels", "groups", "targets", "batch")
    return {
        "format_version": FORMAT_VERSION,
        **{name: getattr(load, name) for name in counts},
        "units": len(load.units),
        "device": estimate.device,
        "memory": asdict(held) | {"worker": held.worker, "suggested": held.suggested},
        "suggested": dict(estimate.suggested),
        "seconds_per_image_by_batch": {str(batch): seconds for batch, seconds in estimate.batches.items()},
        "timings": asdict(estimate.took),
        "here": asdict(estimate.here) | {"seconds": estimate.here.seconds},
        "predictions": [asdict(one) | {"seconds": one.seconds} for one in estimate.predictions],
        "notes": list(estimate.notes),
    }


def describe(estimate: Estimate, width: int | None = None) -> str:
    """What there is, what a worker needs, what it will take. width: of the terminal, in cells."""
    load, held, suggested = estimate.load, estimate.memory, estimate.suggested
    milliseconds = 1000 * estimate.took.image(load.batch)
    lines = [
        f"images:     {load.images:,} in {_plural(load.files, 'file')}, {size(load.bytes)} to read, "
        f"{_plural(len(load.units), 'unit')} of work",
        f"channels:   {load.channels:,} in {_plural(load.layers, 'layer')}, {_plural(load.groups, 'group')}, "
        f"{_plural(load.targets, 'target')}",
        f"statistic:  {size(held.gram_per_channel)} a channel and group as sums, "
        f"{size(held.code_row_per_channel)} a channel and image as codes; in all {size(held.statistic)}",
        f"a worker:   {size(held.worker)} (process with model {size(held.process)}, pilot's maps "
        f"{size(held.pilot_maps)}, accumulator {size(held.accumulator)} and unit in hand {size(held.unit)}, "
        f"reduce {size(held.reduce_task)})",
        f"timed here: {milliseconds:.3g} ms an image on {estimate.device}, batch {load.batch}",
        "",
        *lines_of(_predictions(estimate), width),
        "",
        f"suggested:  workers: {{max: {suggested['workers']}, cpus: {suggested['cpus']}, "
        f"memory: {held.suggested / 2**30:g}GiB}}",
        f"            compute: {{batch: {suggested['batch']}}}",
        *(f"note:       {note}" for note in estimate.notes),
    ]
    return "\n".join(lines)


def _predictions(estimate: Estimate) -> Table:
    """A row for this machine and for every number of workers."""
    columns = [
        Column("workers"),
        Column("time"),
        *(Column(stage, drop=drop) for stage, drop in zip(STAGES, (3, 2, 1, 2, 3), strict=True)),
        Column("read", drop=4),
        Column("written", drop=5),
    ]
    columns += [Column("price")] if estimate.here.price is not None else []
    rows = [_row(f"{estimate.here.workers} here", estimate.here)]
    rows += [_row(f"{prediction.workers:,}", prediction) for prediction in estimate.predictions]
    return Table("", columns, rows, all_columns="--json")


def _row(name: str, prediction: Prediction) -> list[str]:
    stages = (prediction.start, prediction.pilot, prediction.main_pass, prediction.reduce, prediction.publish)
    cells = [name, *map(duration, (prediction.seconds, *stages))]
    cells += [size(prediction.bytes_read), size(prediction.bytes_written)]
    return cells if prediction.price is None else [*cells, f"{prediction.price:,.2f}"]


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
