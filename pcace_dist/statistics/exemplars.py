"""Which rows to show: for each channel those with the largest mean activation, and a uniform sample of all rows.

Pure tensors and arrays: no I/O, no Ray, no images; a row is identified by its reference. Two accumulators like Gram
(update, merge). Guarantee of both: the state depends only on the set of rows. It does not depend on their order, on
the split into updates, attempts and workers, or on the machine, because

- rows are compared by integers, the fixed-point means of the plan, and `RowRefs.order` decides ties;
- the sample is the bottom-k sample by the rows' keys, a hash of file and row: the rows with the smallest keys of a
  union are among the smallest of its parts (Cohen & Kaplan 2007, Summarizing data using bottom-k sketches).

Size: TopRows holds at most k rows for each channel, RowSample at most `size` rows. In both, at most as many again wait
to be sorted in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import pages, tensorfile
from pcace_dist.statistics.group_accumulator import RowCodes, row_bytes
from pcace_dist.statistics.plan import LayerCodes, Plan

Integers: TypeAlias = npt.NDArray[np.int64]

TOP = 16  # rows of a channel
SAMPLE_ROWS = (512, 4096)  # least and most rows of the sample; in between, as many as fit into SAMPLE_BYTES
SAMPLE_BYTES = 4 << 20
_WAITING_ROWS = 1024  # so many rows wait before they are sorted in,
_WAITING_MEANS = 1 << 22  # or fewer rows, where there are many channels
_RANKED_AT_A_TIME = 1 << 19  # means, each in 64 bits meanwhile
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's step
_POSITION_BITS = 32  # lower bits of a priority: the position in the order of ties; above them: the mean


@dataclass(frozen=True, eq=False)
class RowRefs:
    """References to n rows: names of files, sorted; for each row the file's index, row group, row and key.

    key: a hash of file name and row (`row_keys`); the arrays are int64 (n,).
    """

    files: tuple[str, ...]
    file: Integers
    row_group: Integers
    row: Integers
    key: Integers

    def __len__(self) -> int:
        return len(self.row)

    @staticmethod
    def of(files: Sequence[str], row_groups: Sequence[int], rows: Sequence[int]) -> RowRefs:
        """References from lists with one entry for each row."""
        names = tuple(sorted(set(files)))
        index = {name: position for position, name in enumerate(names)}
        file, row_group, row = (
            np.array(column, np.int64) for column in ([index[name] for name in files], row_groups, rows)
        )
        return RowRefs(names, file, row_group, row, row_keys(names, file, row))

    @staticmethod
    def none() -> RowRefs:
        return RowRefs.of((), (), ())

    def take(self, rows: Integers) -> RowRefs:
        """Some of the rows, in the given order; files without rows are dropped."""
        file = self.file[rows]
        used = np.unique(file)
        return RowRefs(
            tuple(self.files[i] for i in used),
            np.searchsorted(used, file).astype(np.int64),
            self.row_group[rows],
            self.row[rows],
            self.key[rows],
        )

    @staticmethod
    def cat(parts: Sequence[RowRefs]) -> RowRefs:
        """Rows of several parts, one after the other."""
        names = tuple(sorted({name for part in parts for name in part.files}))
        index = {name: position for position, name in enumerate(names)}
        moved = [np.array([index[name] for name in part.files], np.int64)[part.file] for part in parts]
        return RowRefs(
            names,
            np.concatenate([*moved, np.empty(0, np.int64)]),
            *(
                np.concatenate([*(getattr(part, name) for part in parts), np.empty(0, np.int64)])
                for name in ("row_group", "row", "key")
            ),
        )

    def order(self) -> Integers:
        """The permutation that sorts rows by key, then by file name and row."""
        return np.lexsort((self.row, self.file, self.key)).astype(np.int64)


def row_keys(names: Sequence[str], file: Integers, row: Integers) -> Integers:
    """Keys int64 (n,): a row-th output of splitmix64 (Steele, Lea & Flood 2014), seeded by blake2b of the file name.

    They are uniform over the rows of all files, and the same on every worker.
    """
    seeds = [int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") for name in names]
    with np.errstate(over="ignore"):
        z = np.array([*seeds, 0], np.uint64)[file] + (row.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.asarray(z.view(np.int64))


class TopRows:
    """For each of the plan's channels the `top` rows with the largest mean of the map, on the plan's grid.

    Of rows with the same mean, those that are first in `RowRefs.order` are kept. So a dead channel has the same
    arbitrary rows in every run.
    """

    def __init__(self, channels: Mapping[str, int], top: int = TOP) -> None:
        self.channels = dict(channels)
        self.top = top
        self._width = sum(self.channels.values())
        self._refs = RowRefs.none()
        self._means = torch.empty((0, self._width), dtype=torch.int16)  # (m, all channels), largest first
        self._index = torch.empty((0, self._width), dtype=torch.int64)  # of the row in _refs
        self._waiting: list[tuple[Tensor, RowRefs]] = []

    @classmethod
    def of(cls, plan: Plan) -> TopRows:
        """An empty accumulator for the channels of a plan."""
        return cls({layer.name: layer.channels for layer in plan.layers})

    def update(self, means: Mapping[str, Tensor], refs: RowRefs) -> TopRows:
        """Add n rows: means int16 (n, C) of every layer, as in LayerCodes, and their references."""
        joined = pages.zeros((len(refs), self._width), torch.int16)
        first = 0
        for name, channels in self.channels.items():
            if means[name].shape != (len(refs), channels):
                raise StatisticsError(f"exemplars: means {tuple(means[name].shape)} for {len(refs)} rows of {name}")
            joined[:, first : first + channels] = means[name]
            first += channels
        self._add(joined, refs)
        return self

    def merge(self, others: Iterable[TopRows]) -> TopRows:
        """Add what others hold; they are left as they are."""
        for other in others:
            if (other.channels, other.top) != (self.channels, self.top):
                raise StatisticsError("exemplars: parts with other layers or another number of rows")
            other._settle()
            self._settle()
            self._combine(other._means, other._index, other._refs)
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of the state, approximately."""
        waiting = sum(2 * means.numel() for means, _ in self._waiting)
        return 6 * self._means.numel() + 32 * len(self._refs) + waiting

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Means int16 (m, C), largest first, and rows int64 (m, C) as indices into `refs`; m is `top` or fewer."""
        self._settle()
        names = list(self.channels)
        start = sum(self.channels[name_before] for name_before in names[: names.index(name)])
        columns = slice(start, start + self.channels[name])
        return self._means[:, columns], self._index[:, columns]

    @property
    def refs(self) -> RowRefs:
        """The rows of all channels, in `RowRefs.order`."""
        self._settle()
        return self._refs

    def to_bytes(self) -> bytes:
        """The state as a safetensors file; the same bytes for the same rows."""
        self._settle()
        settings = {"channels": list(self.channels.items()), "top": self.top, "files": self._refs.files}
        tensors = {"means": self._means.contiguous(), "index": self._index.to(torch.int32).contiguous()}
        tensors |= {name: torch.from_numpy(getattr(self._refs, name)) for name in ("file", "row_group", "row", "key")}
        return tensorfile.pack("exemplars", json.dumps(settings), tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> TopRows:
        """The state that `to_bytes` wrote; StatisticsError if it is not one."""
        settings, tensors = tensorfile.unpack("exemplars", data)
        top_rows = cls(dict(settings["channels"]), settings["top"])
        top_rows._refs = RowRefs(
            tuple(settings["files"]), *(tensors[name].numpy().copy() for name in ("file", "row_group", "row", "key"))
        )
        top_rows._means, top_rows._index = tensors["means"].clone(), tensors["index"].long()
        return top_rows

    def _add(self, means: Tensor, refs: RowRefs) -> None:
        if means.shape != (len(refs), self._width):
            raise StatisticsError(f"exemplars: means {tuple(means.shape)} for {len(refs)} rows, {self._width} channels")
        self._waiting.append((means, refs))
        rows = sum(len(waiting) for _, waiting in self._waiting)
        if rows >= _WAITING_ROWS or rows * self._width >= _WAITING_MEANS:
            self._settle()

    def _settle(self) -> None:
        """Sort in the waiting rows: first find the best of them, then combine these with the state."""
        if not self._waiting:
            return
        means = torch.cat([part for part, _ in self._waiting])
        refs = RowRefs.cat([part for _, part in self._waiting])
        self._waiting = []
        order = refs.order()
        in_order = torch.from_numpy(order)
        best, places = _largest(means[in_order], torch.arange(len(refs)).unsqueeze(1), self.top)
        self._combine(best, in_order[places], refs)

    def _combine(self, means: Tensor, index: Tensor, refs: RowRefs) -> None:
        """The only place where the state changes. means, index: (m, all channels); index: into refs."""
        all_refs = RowRefs.cat([self._refs, refs])
        all_indices = torch.cat([self._index, index + len(self._refs)])
        order = all_refs.order()
        position_of = torch.empty(len(order), dtype=torch.int64)
        position_of[torch.from_numpy(order)] = torch.arange(len(order))
        best, kept_positions = _largest(torch.cat([self._means, means]), position_of[all_indices], self.top)
        used_positions, numbers = torch.unique(kept_positions, return_inverse=True)
        self._means, self._index = best, numbers
        self._refs = all_refs.take(order[used_positions.numpy()])


def _largest(means: Tensor, places: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The largest of means int16 (m, C), of equal ones those with the smallest place, and their places: (top or m, C).

    places: int64 (m, C) or (m, 1), different within a column.
    """
    count = min(top, len(means))
    best = torch.empty((count, means.shape[1]), dtype=torch.int16)
    chosen = torch.empty((count, means.shape[1]), dtype=torch.int64)
    step = max(1, _RANKED_AT_A_TIME // max(1, len(means)))
    for first in range(0, means.shape[1], step):
        columns = slice(first, first + step)
        column_places = places if places.shape[1] == 1 else places[:, columns]
        priority = (means[:, columns].to(torch.int64) << _POSITION_BITS).sub_(column_places)
        largest = priority.topk(count, dim=0).values
        best[:, columns] = level = (largest + ((1 << _POSITION_BITS) - 1)) >> _POSITION_BITS
        chosen[:, columns] = (level << _POSITION_BITS) - largest
    return best, chosen


@dataclass(frozen=True, eq=False)
class SampledRows:
    """Rows with all their data, as RowSample takes and returns them.

    refs: n; codes: LayerCodes of every layer (n, ...); shared: folds, target codes, fixed-point targets; groups: n
    values of group_by (None without one); labels: n class indices or None.
    """

    refs: RowRefs
    codes: Mapping[str, LayerCodes]
    shared: RowCodes
    groups: tuple[Any, ...]
    labels: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.refs)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.codes.values()) + 64 * len(self)

    def take(self, rows: Integers) -> SampledRows:
        """Some of the rows, in the given order."""
        index = torch.from_numpy(rows)
        return SampledRows(
            self.refs.take(rows),
            {name: part.take(index) for name, part in self.codes.items()},
            self.shared.take(index),
            tuple(self.groups[i] for i in rows),
            tuple(self.labels[i] for i in rows),
        )

    @staticmethod
    def first(parts: Sequence[SampledRows], count: int) -> SampledRows:
        """The first `count` rows of all parts in `RowRefs.order`; all rows where there are fewer. Copied layer by
        layer, so that not all layers are in memory twice."""
        refs = RowRefs.cat([part.refs for part in parts])
        order = refs.order()[:count]
        index = torch.from_numpy(order)
        groups = [value for part in parts for value in part.groups]
        labels = [value for part in parts for value in part.labels]
        return SampledRows(
            refs.take(order),
            {name: _kept(LayerCodes.cat(part.codes[name] for part in parts).take(index)) for name in parts[0].codes},
            RowCodes.cat([part.shared for part in parts]).take(index),
            tuple(groups[i] for i in order),
            tuple(labels[i] for i in order),
        )


def _kept(codes: LayerCodes) -> LayerCodes:
    """A copy in pages of its own, to be kept for long."""
    return LayerCodes(pages.copied(codes.codes), pages.copied(codes.means))


class RowSample:
    """A uniform sample of the rows: the `size` rows with the smallest keys (all of them, where there are fewer)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: list[SampledRows] = []

    @classmethod
    def of(cls, plan: Plan) -> RowSample:
        """An empty sample for the rows of a plan."""
        return cls(sample_size(plan))

    def update(self, rows: SampledRows) -> RowSample:
        """Add rows."""
        if self._held:
            sample = self._held[0]
            if len(sample) >= self.size:  # rows above the largest key of the sample cannot get in
                rows = rows.take(np.flatnonzero(rows.refs.key <= sample.refs.key.max()).astype(np.int64))
        if len(rows):
            self._held.append(rows)
        if sum(len(part) for part in self._held) >= 2 * self.size:
            self._settle()
        return self

    def merge(self, others: Iterable[RowSample]) -> RowSample:
        """Add what others hold; they are left as they are."""
        for other in others:
            if other.size != self.size:
                raise StatisticsError(f"sample: parts of {other.size} and {self.size} rows")
            for rows in other._held:
                self.update(rows)
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of the state, approximately."""
        return sum(part.nbytes for part in self._held)

    def rows(self) -> SampledRows | None:
        """The sampled rows in the order of their keys; None while there are none."""
        self._settle()
        return self._held[0] if self._held else None

    def _settle(self) -> None:
        if self._held:
            self._held = [SampledRows.first(self._held, self.size)]


def sample_size(plan: Plan) -> int:
    """Rows of the sample, a function of the plan alone: 512, or more, up to 4,096, where there are few channels."""
    least, most = SAMPLE_ROWS
    return max(least, min(most, SAMPLE_BYTES // row_bytes(plan)))
