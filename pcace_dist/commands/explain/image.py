"""The image that is to be explained: a file, or a row of the run's data by its id."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from pcace_dist.artifacts.reading.ids import find_row
from pcace_dist.artifacts.reading.rows import fetch_stored
from pcace_dist.config.choice import short
from pcace_dist.datasets.images import decode
from pcace_dist.errors import DatasetError, RowError
from pcace_dist.reporting.source import ReportSource
from pcace_dist.storage.files import first_line

NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class GivenImage:
    """name: as it was given. pixels: as they are decoded, (C, H, W). row: `<file>#<row>` of the data set, None for a
    file. label: index of the class, NO_LABEL where there is none. group: the row's value of group_by of the run that
    read the images; None for a file."""

    name: str
    pixels: torch.Tensor
    row: str | None = None
    label: int = NO_LABEL
    group: Any = None


def read_image(source: ReportSource, name: str) -> GivenImage:
    """The image of this name. Raises DatasetError where there is none, where it cannot be decoded, or where it is of
    another size than the run's."""
    if "://" in name or os.path.exists(name):
        return GivenImage(name, _decoded(source, name, _content(source, name)))
    ref = find_row(source, name, source.origin.id)
    stored = next(fetch_stored(source, [ref]), None)
    if stored is None:
        raise DatasetError(f"{short(name)}: this row does not count in the run (dataset.filter, or it has no label)")
    pixels = _decoded(source, name, stored.image)
    return GivenImage(name, pixels, f"{ref[0]}#{ref[2]}", stored.label, stored.group)


def _content(source: ReportSource, url: str) -> bytes:
    try:
        return source.storage.read_bytes(url)
    except OSError as error:
        raise DatasetError(f"{short(url)}: {first_line(error)}") from None


def _decoded(source: ReportSource, name: str, content: bytes | None) -> torch.Tensor:
    try:
        pixels = decode(content, source.images)
    except RowError as error:
        raise DatasetError(f"{short(name)}: {error.reason}") from None
    height, width = source.image_shape
    if tuple(pixels.shape[1:]) != (height, width):
        raise DatasetError(
            f"{short(name)}: is {pixels.shape[2]}x{pixels.shape[1]} pixels, the run's images are {width}x{height} "
            "(its model.input has no resize and crop that would make it so)"
        )
    return pixels.contiguous()
