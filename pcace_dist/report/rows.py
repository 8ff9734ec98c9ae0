"""The rows that a report shows, fetched again: only the row groups that hold them are read, only they are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pcace_dist.datasets.images import decode
from pcace_dist.datasets.row_groups import Choose, Positions, RowGroup, read_row_groups
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
    numbers = {(file, row): number for number, (file, _, row) in enumerate(refs)}
    held: list[_Row] = []
    for part in read_row_groups(_row_groups(source, refs), source.dataset, source.storage, _asked(refs)):
        if not isinstance(part, RowGroup):
            continue
        labels, groups = _labels(source, part), _group_values(source, part)
        for place, row in enumerate(part.rows.tolist()):
            try:
                image = decode(part.table[source.dataset.image][place].as_py(), source.images)
            except RowError:
                continue
            if tuple(image.shape[1:]) != source.image_shape:
                continue
            held.append(_Row(numbers[part.ref.key, row], image, labels[place], groups[place]))
            if len(held) == batch:
                yield _together(held)
                held = []
    if held:
        yield _together(held)


def _row_groups(source: Source, refs: Sequence[Ref]) -> tuple[RowGroupRef, ...]:
    needed = {(file, group) for file, group, _ in refs}
    return tuple(
        ref for file in source.listing.files for ref in row_groups_of(file) if (ref.key, ref.row_group) in needed
    )


def _asked(refs: Sequence[Ref]) -> Choose:
    """Chooses the rows that are asked for: of the others nothing is fetched where images are files of their own."""
    rows: dict[str, list[int]] = {}
    for file, _, row in refs:
        rows.setdefault(file, []).append(row)

    def choose(ref: RowGroupRef, positions: Positions) -> Positions:
        return positions[np.isin(positions + ref.first_row, rows[ref.key])]

    return choose


def _labels(source: Source, part: RowGroup) -> list[int]:
    """The class index of each row; -1: none."""
    label, rows = source.dataset.label, len(part.rows)
    if label is None or not rows:
        return [-1] * rows
    indices: list[int] = source.dataset.labelling.indices(part.table[label])[0].tolist()
    return indices


def _group_values(source: Source, part: RowGroup) -> list[Any]:
    group = source.dataset.group_by
    values: list[Any] = [None] * len(part.rows) if group is None else part.table[group].to_pylist()
    return values


def _together(held: list[_Row]) -> Fetched:
    return Fetched(
        [row.number for row in held],
        torch.stack([row.image.contiguous() for row in held]),
        np.array([row.label for row in held], np.int64),
        [row.group for row in held],
    )
