"""The rows that a report shows, fetched again: only the row groups that hold them are read, only they are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pcace_dist.datasets.images import decode
from pcace_dist.datasets.row_groups import RowGroup, read_row_groups
from pcace_dist.datasets.units import RowGroupRef, row_groups_of
from pcace_dist.errors import RowError
from pcace_dist.report.source import Source

Ref = tuple[str, int, int]  # file, row group, row in the file


class RowPool:
    """Numbers for rows: the same row asked for twice is one entry."""

    def __init__(self) -> None:
        self.refs: list[Ref] = []
        self._index: dict[Ref, int] = {}

    def add(self, ref: Ref) -> int:
        """The number of a row, new or known."""
        if ref not in self._index:
            self._index[ref] = len(self.refs)
            self.refs.append(ref)
        return self._index[ref]

    def __len__(self) -> int:
        return len(self.refs)


@dataclass(frozen=True, eq=False)
class _Row:
    number: int
    image: torch.Tensor
    label: int
    group: Any


@dataclass(frozen=True, eq=False)
class Fetched:
    """Some rows of the pool: numbers, images uint8 (n, C, H, W) as the model gets them, labels (-1: none), groups."""

    numbers: list[int]
    images: torch.Tensor
    labels: np.ndarray
    groups: list[Any]


def fetch(source: Source, refs: Sequence[Ref], batch: int) -> Iterator[Fetched]:
    """Batches of the rows that could be read, of the plan's image size. Rows that could not are left out.

    Raises DatasetError where the data set is gone, or a file is not the one that the run read.
    """
    wanted = {(file, row): number for number, (file, _, row) in enumerate(refs)}
    pieces = _pieces(source, refs)
    held: list[_Row] = []
    for part in read_row_groups(pieces, source.dataset, source.storage):
        if not isinstance(part, RowGroup):
            continue
        for place, row in enumerate(part.rows.tolist()):
            number = wanted.get((part.ref.key, row))
            if number is None:
                continue
            try:
                image = decode(part.table[source.dataset.image][place].as_py(), source.images)
            except RowError:
                continue
            if tuple(image.shape[1:]) != source.image_shape:
                continue
            held.append(_Row(number, image, *_label_and_group(source, part, place)))
            if len(held) == batch:
                yield _together(held)
                held = []
    if held:
        yield _together(held)


def _pieces(source: Source, refs: Sequence[Ref]) -> tuple[RowGroupRef, ...]:
    needed = {(file, group) for file, group, _ in refs}
    return tuple(
        piece
        for file in source.listing.files
        for piece in row_groups_of(file)
        if (piece.key, piece.row_group) in needed
    )


def _label_and_group(source: Source, part: RowGroup, place: int) -> tuple[int, Any]:
    label, group = source.dataset.label, source.dataset.group_by
    value = None if label is None else part.table[label][place].as_py()
    return -1 if value is None else int(value), None if group is None else part.table[group][place].as_py()


def _together(held: list[_Row]) -> Fetched:
    return Fetched(
        [row.number for row in held],
        torch.stack([row.image.contiguous() for row in held]),
        np.array([row.label for row in held], np.int64),
        [row.group for row in held],
    )
