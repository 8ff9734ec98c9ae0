"""The exemplars of a run's best channels as a FiftyOne dataset on disk, which needs no FiftyOne and no database here.

    import fiftyone as fo
    fo.Dataset.from_dir(dataset_dir="mnist-fiftyone", dataset_type=fo.types.FiftyOneDataset)

    data/            the images, as the data set stores them
    samples.json     a sample per image: its label, group and id, and the channels that it excites most
    metadata.json    name, kind, and what the fields are

Without a version in metadata.json FiftyOne infers the fields, whatever version reads it (its documented JSON format).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import pyarrow.compute as pc

from pcace_dist.artifacts.rankings import best_of
from pcace_dist.artifacts.reading.rows import RowPool, StoredRow, fetch_stored
from pcace_dist.artifacts.run import Run
from pcace_dist.config.resolve import absolute
from pcace_dist.datasets.decoding.thumbnail import as_image
from pcace_dist.datasets.formats import HEAD, format_of
from pcace_dist.datasets.images import decode
from pcace_dist.errors import OutputError, RowError
from pcace_dist.reporting.source import ReportSource, open_report_source

Channel: TypeAlias = tuple[str, int]
ENDINGS = {"JPEG": "jpg", "TIFF": "tif"}  # of formats whose files are not called as they are
TOLD = ("score", "score_low", "score_high", "effect", "rank")


def fiftyone_files(run: Run, top: int, note: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file; samples.json and metadata.json, which make it a dataset, come last.

    top: so many channels of each target and group. note: told what is left out. Raises OutputError where there are no
    exemplars or the job says `shown: none`, DatasetError where the images are gone.
    """
    source = open_report_source(run.path)
    for own in (source.run, source.origin.run):
        if not own.shows_images:
            raise OutputError(f"{own.path}: was ranked with `shown: none`, its images stay where they are")
    if source.exemplars is None:
        raise OutputError(f"{run.path}: keeps no exemplars; export --to csv or json")
    channels = _best(source, run, top)
    if not channels:
        raise OutputError(f"{run.path}: has no ranked channel; see `pcace show {run.path}`")
    pool, excited = RowPool(), dict[int, list[dict[str, Any]]]()
    columns = [source.exemplars[name].to_pylist() for name in source.exemplars.column_names]
    for layer, channel, place, file, row_group, row, value in zip(*columns, strict=True):
        if (layer, channel) in channels:
            shown = channels[layer, channel] | {"place": place, "mean_activation": value}
            excited.setdefault(pool.add((file, row_group, row)), []).append(shown)
    samples = []
    for stored in fetch_stored(source, pool.refs):
        file, data = _image(source, stored)
        if file:
            yield file, data
            samples.append(_sample(source, pool, stored, file, excited[stored.number]))
    if len(samples) < len(pool):
        note(f"{len(pool) - len(samples):,} of {len(pool):,} images could not be read again")
    yield "samples.json", _json({"samples": samples})
    yield "metadata.json", _json(_metadata(source, run))


def _best(source: ReportSource, run: Run, top: int) -> dict[Channel, dict[str, Any]]:
    """The best channels with what their best ranking says of them."""
    ranked = best_of(source.ranking.table, top)
    best: dict[Channel, dict[str, Any]] = {}
    for row in ranked.take(pc.sort_indices(ranked["rank"])).to_pylist():
        key = row["layer"], row["channel"]
        ranking = run.names.ranking(row["target"], row["group"], grouped=source.job.group_by is not None)
        told = {name: row[name] for name in TOLD if row.get(name) is not None}
        best.setdefault(key, {"layer": key[0], "channel": key[1], "ranking": ranking} | told)
    return best


def _image(source: ReportSource, stored: StoredRow) -> tuple[str, bytes]:
    """Name below the dataset and bytes of an image; empty where it is none. Tensors become PNG."""
    kind = None if stored.image is None else format_of(stored.image[:HEAD])
    if stored.image is not None and kind is not None:
        return f"data/{stored.number:06}.{ENDINGS.get(kind, kind.lower())}", stored.image
    try:
        picture = as_image(decode(stored.image, source.images))
    except RowError:
        return "", b""
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return f"data/{stored.number:06}.png", sink.getvalue()


def _sample(
    source: ReportSource, pool: RowPool, stored: StoredRow, file: str, channels: list[dict[str, Any]]
) -> dict[str, Any]:
    shard, _, row = pool.refs[stored.number]
    sample: dict[str, Any] = {"filepath": file, "tags": [], "metadata": None, "row": f"{shard}#{row}"}
    names = source.ranking.names
    if stored.label >= 0:
        sample["ground_truth"] = _labelled(names.label(stored.label))
    if source.job.group_by is not None and source.job.group_by == source.dataset.group_by:
        sample["ranked_group"] = names.group(stored.group)
    labels = [_labelled(f"{own['layer']}/{own['channel']}", own) for own in channels]
    return sample | {"channels": {"_cls": "Classifications", "classifications": labels}}


def _labelled(label: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"_cls": "Classification", "tags": [], "label": label} | dict(more or {})


def _metadata(source: ReportSource, run: Run) -> dict[str, Any]:
    meanings = {
        "row": "file and row of the data set",
        "ground_truth": "its label",
        "ranked_group": f"its value of {source.job.group_by}",
        "channels": "the ranked channels of whose exemplars it is one: place (0 activates it most), mean_activation; "
        "score, effect and rank in the ranking where the channel is best",
    }
    info = {"run": run.path, "fingerprint": run.summary["fingerprint"], "fields": meanings}
    return {"name": absolute(run.path).rpartition("/")[2], "media_type": "image", "info": info}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
