"""Small pictures of what a channel responds to most: its exemplars, read again where the images lie on this machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.artifacts.reading.rows import RowPool, fetch
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


def pictures_of(rows: LocalRows, exemplars: pa.Table | None, channels: Collection[Channel]) -> dict[Channel, list[str]]:
    """Data URLs of the exemplars of these channels, best first, as many as MOST_BYTES hold. None where the images are
    remote, or in more files than are looked through. Raises DatasetError where they are gone."""
    if exemplars is None or any("://" in path for path in rows.dataset.path) or len(rows.listing.files) > MOST_FILES:
        return {}
    pool, wanted = RowPool(), dict.fromkeys(channels)
    numbers = {channel: [pool.add(ref) for ref in refs] for channel, refs in _exemplars(exemplars, wanted)}
    urls: dict[int, str] = {}
    for fetched in fetch(rows, pool.refs, 1):
        urls[fetched.numbers[0]] = data_url(thumbnail(fetched.images[0], SIDE))
        if sum(map(len, urls.values())) > MOST_BYTES:
            break
    return {channel: [urls[number] for number in of if number in urls] for channel, of in numbers.items()}


def _exemplars(table: pa.Table, channels: Collection[Channel]) -> Iterator[tuple[Channel, list[tuple[str, int, int]]]]:
    """The places of the first exemplars of each channel."""
    table = table.filter(pc.less(table["place"], EACH))
    rows = list(
        zip(*(table[name].to_pylist() for name in ("layer", "channel", "file", "row_group", "row")), strict=True)
    )
    for channel in channels:
        yield channel, [(file, group, row) for layer, number, file, group, row in rows if (layer, number) == channel]
