"""Fetches a few rows of a run again, to show them: only the row groups that contain them are read, only these rows are
decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from pcace_dist.artifacts.reading.data_reading import DataReading
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import dataset_of
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.images import ImageSpec, decode
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.row_groups import Choose, Positions, RowGroup, read_row_groups
from pcace_dist.datasets.units import RowGroupRef, row_groups_of
from pcace_dist.errors import RowError
from pcace_dist.storage.files import Storage

Ref = tuple[str, int, int]  # file, row group, row in the file


class RowSource(Protocol):
    """Where a run's rows are. image_shape: height and width of its images; None: of any size."""

    @property
    def dataset(self) -> DatasetSpec: ...
    @property
    def images(self) -> ImageSpec: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def listing(self) -> Listing: ...
    @property
    def image_shape(self) -> tuple[int, int] | None: ...


def dataset_again(job: Job, manifest: Mapping[str, Any], run: str, directory: str) -> DatasetSpec:
    """The data set as the run at `run` has read it, less what need not be checked again. directory: where it was
    started."""
    return replace(_dataset(job, manifest, run, directory), id=None)


def id_of_rows(job: Job, manifest: Mapping[str, Any], run: str, directory: str) -> str | None:
    """The column by which the run at `run` names its rows, if there is one."""
    return _dataset(job, manifest, run, directory).id


def _dataset(job: Job, manifest: Mapping[str, Any], run: str, directory: str) -> DatasetSpec:
    dataset = DataReading.of(manifest).applied(dataset_of(job, directory), run)
    return replace(dataset, fold_by=None, columns=(), keep=False)


class RowPool:
    """Numbers for rows; a row that is added twice is one entry."""

    def __init__(self) -> None:
        self.refs: list[Ref] = []
        self._index: dict[Ref, int] = {}

    def add(self, ref: Ref) -> int:
        """The number of a row; a new row gets the next number."""
        if ref not in self._index:
            self._index[ref] = len(self.refs)
            self.refs.append(ref)
        return self._index[ref]

    def __len__(self) -> int:
        return len(self.refs)


@dataclass(frozen=True, eq=False)
class StoredRow:
    """A row as it is stored: its number among those asked for, its image's bytes (None: null), its label (-1: none) and
    its group."""

    number: int
    image: bytes | None
    label: int
    group: Any


@dataclass(frozen=True, eq=False)
class _Row:
    number: int
    image: torch.Tensor
    label: int
    group: Any


@dataclass(frozen=True, eq=False)
class Fetched:
    """Some rows of the pool: numbers, images (n, C, H, W) as they are decoded, labels (-1: none), groups."""

    numbers: list[int]
    images: torch.Tensor
    labels: np.ndarray
    groups: list[Any]


def fetch(source: RowSource, refs: Sequence[Ref], batch: int) -> Iterator[Fetched]:
    """Batches of rows. Rows that cannot be read, or whose image does not have the plan's size, are left out.

    Raises DatasetError where the data set is gone, or a file is not the one that the run read.
    """
    gathered: list[_Row] = []
    for stored in fetch_stored(source, refs):
        try:
            image = decode(stored.image, source.images)
        except RowError:
            continue
        if source.image_shape not in (None, tuple(image.shape[1:])):
            continue
        gathered.append(_Row(stored.number, image, stored.label, stored.group))
        if len(gathered) == batch:
            yield _batch_of(gathered)
            gathered = []
    if gathered:
        yield _batch_of(gathered)


def fetch_stored(source: RowSource, refs: Sequence[Ref]) -> Iterator[StoredRow]:
    """The rows with their images as they are stored, in the data set's order. Rows that cannot be read are left out.

    Raises DatasetError where the data set is gone, or a file is not the one that the run read.
    """
    number_of = {(file, row): number for number, (file, _, row) in enumerate(refs)}
    for row_group in read_row_groups(_row_groups_of(source, refs), source.dataset, source.storage, _rows_of(refs)):
        if not isinstance(row_group, RowGroup):
            continue
        labels, groups = _labels(source, row_group), _groups(source, row_group)
        for position, row in enumerate(row_group.rows.tolist()):
            image = row_group.table[source.dataset.image][position].as_py()
            yield StoredRow(number_of[row_group.ref.key, row], image, labels[position], groups[position])


def _row_groups_of(source: RowSource, refs: Sequence[Ref]) -> tuple[RowGroupRef, ...]:
    needed = {(file, group) for file, group, _ in refs}
    return tuple(
        ref for file in source.listing.files for ref in row_groups_of(file) if (ref.key, ref.row_group) in needed
    )


def _rows_of(refs: Sequence[Ref]) -> Choose:
    """Chooses these rows: of the others nothing is fetched where images are files of their own."""
    rows: dict[str, list[int]] = {}
    for file, _, row in refs:
        rows.setdefault(file, []).append(row)

    def choose(ref: RowGroupRef, positions: Positions) -> Positions:
        return positions[np.isin(positions + ref.first_row, rows[ref.key])]

    return choose


def _labels(source: RowSource, row_group: RowGroup) -> list[int]:
    """The class index of each row; -1: none."""
    column = source.dataset.label
    if column is None:
        return [-1] * len(row_group.rows)
    indices: list[int] = source.dataset.labelling.indices(row_group.table[column])[0].tolist()
    return indices


def _groups(source: RowSource, row_group: RowGroup) -> list[Any]:
    column = source.dataset.group_by
    values: list[Any] = [None] * len(row_group.rows) if column is None else row_group.table[column].to_pylist()
    return values


def _batch_of(rows: list[_Row]) -> Fetched:
    return Fetched(
        [row.number for row in rows],
        torch.stack([row.image.contiguous() for row in rows]),
        np.array([row.label for row in rows], np.int64),
        [row.group for row in rows],
    )
