"""Small pictures of what a channel responds to most: its exemplars, read again where the images lie on this machine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.artifacts.reading.rows import Ref, RowPool, fetch
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.decoding.thumbnail import data_url, thumbnail
from pcace_dist.datasets.images import ImageSpec
from pcace_dist.datasets.listing import Listing, list_dataset
from pcace_dist.storage.files import Storage

Channel: TypeAlias = tuple[str, int]  # layer, channel

EACH = 4  # pictures of a channel
SIDE = 48  # pixels of the longer side
MOST_FILES = 32  # of a data set that is looked through for pictures
MOST_BYTES = 120_000  # of all pictures


@dataclass(frozen=True)
class LocalRows:
    """The rows of a run's data set. Images may be of any size."""

    dataset: DatasetSpec
    images: ImageSpec
    storage: Storage
    image_shape: None = None

    @cached_property
    def listing(self) -> Listing:
        return list_dataset(self.dataset, self.storage)


def pictures_of(rows: LocalRows, exemplars: pa.Table | None, channels: Sequence[Channel]) -> list[list[str]]:
    """For each of the channels, which may be there more than once, data URLs of its exemplars, best first, as many as
    MOST_BYTES hold. No channel has any where the images are remote, or in more files than are looked through.

    Raises DatasetError where the images are gone.
    """
    if exemplars is None or any("://" in path for path in rows.dataset.path) or len(rows.listing.files) > MOST_FILES:
        return [[] for _ in channels]
    pool, refs = RowPool(), _exemplars(exemplars, set(channels))
    numbers = [[pool.add(ref) for ref in refs[channel]] for channel in channels]
    urls = {one.numbers[0]: data_url(thumbnail(one.images[0], SIDE)) for one in fetch(rows, pool.refs, 1)}
    pictures = [[urls[number] for number in of_channel if number in urls] for of_channel in numbers]
    sizes = accumulate(sum(map(len, of_channel)) for of_channel in pictures)
    return [of_channel if size <= MOST_BYTES else [] for of_channel, size in zip(pictures, sizes, strict=True)]


def _exemplars(table: pa.Table, channels: Collection[Channel]) -> dict[Channel, list[Ref]]:
    """The first exemplars of each channel."""
    table = table.filter(pc.less(table["place"], EACH))
    columns = [table[name].to_pylist() for name in ("layer", "channel", "file", "row_group", "row")]
    refs: dict[Channel, list[Ref]] = {channel: [] for channel in channels}
    for layer, channel, file, row_group, row in zip(*columns, strict=True):
        if (layer, channel) in refs:
            refs[layer, channel].append((file, row_group, row))
    return refs
