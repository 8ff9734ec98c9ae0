"""selection.arrow: the one attempt of a run from kept codes.

Its rows are in the order of the kept codes, with everything that a reduce task needs besides the codes themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from pcace_dist.artifacts.attempt import BlockPart
from pcace_dist.artifacts.codes.columns import binary_rows, integer_rows
from pcace_dist.artifacts.encoding import ipc_bytes
from pcace_dist.datasets.groups import group_order
from pcace_dist.statistics import pages
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes

SELECTION_FILE = "selection.arrow"

Groups: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"  # which of a selection's groups


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of kept codes: positions int64 (n,) ascending, group index int32 (n,) into `groups`, folds, targets."""

    positions: np.ndarray[Any, np.dtype[np.int64]]
    group_of: np.ndarray[Any, np.dtype[np.int32]]
    groups: pa.Array
    rows: RowCodes

    def to_bytes(self) -> bytes:
        """An Arrow file, a row per selected row."""
        columns = {
            "position": self.positions,
            "group": pa.DictionaryArray.from_arrays(pa.array(self.group_of, pa.int32()), self.groups),
            "fold": self.rows.folds.numpy(),
            "target_codes": binary_rows(self.rows.target_codes),
            "target_fixed": binary_rows(self.rows.target_fixed),
        }
        if self.rows.effect_fixed is not None:
            columns["effect_fixed"] = binary_rows(self.rows.effect_fixed)
        return ipc_bytes(pa.table(columns))

    @classmethod
    def from_bytes(cls, data: bytes) -> Selection:
        """The selection that `to_bytes` wrote."""
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all().combine_chunks()
        group = table["group"].combine_chunks()
        with_effects = "effect_fixed" in table.column_names
        folds = torch.from_numpy(table["fold"].to_numpy().copy())
        rows = RowCodes(
            folds,
            torch.from_numpy(integer_rows(table["target_codes"].combine_chunks(), np.uint8)),
            torch.from_numpy(integer_rows(table["target_fixed"].combine_chunks(), np.int16)),
            torch.from_numpy(integer_rows(table["effect_fixed"].combine_chunks(), np.int16)) if with_effects else None,
        )
        return cls(table["position"].to_numpy(), group.indices.to_numpy(), group.dictionary, rows)

    def batches(self, most: int, longest: int) -> list[Groups]:
        """Groups that one pass over the codes takes: as many as hold no more than `most` rows together, of each
        `longest` at most, but at least one."""
        batches: list[Groups] = []
        held = 0
        for index in sorted(range(len(self._values)), key=lambda index: group_order(self._values[index])):
            rows = min(int(self._counts[index]), longest)
            if not batches or held + rows > most:
                batches.append(np.zeros(len(self._values), np.bool_))
                held = 0
            batches[-1][index] = True
            held += rows
        return batches

    def selected(self, block_codes: Iterable[LayerCodes]) -> Iterator[tuple[slice, LayerCodes]]:
        """The selected rows of a block, and where they are in the selection: for each of the `block_codes`."""
        first = 0
        for codes in block_codes:
            rows = codes.rows
            low, high = (int(end) for end in np.searchsorted(self.positions, [first, first + rows]))
            if high > low:
                every = high - low == rows
                yield slice(low, high), codes if every else codes.take(_index(self.positions[low:high] - first))
            first += rows

    def parts(
        self, block_codes: Iterable[LayerCodes], batch: Groups | None = None, longest: int = 0
    ) -> Iterator[BlockPart]:
        """The rows of a batch of groups, of all without one. Groups of up to `longest` rows are gathered, and each is
        one part, fold after fold; larger ones have a part for each of the `block_codes`."""
        batch = np.ones(len(self._values), np.bool_) if batch is None else batch
        gathered = batch & (self._counts <= longest)
        order = np.flatnonzero(gathered[self.group_of])
        order = order[np.lexsort((self.rows.folds.numpy()[order], self.group_of[order]))]
        places = np.empty(len(self.group_of), np.int64)
        places[order] = np.arange(len(order))
        room: LayerCodes | None = None
        for rows, codes in self.selected(block_codes):
            members = self.group_of[rows]
            inside = gathered[members]
            if inside.any():
                if room is None:
                    room = codes.each(lambda part: pages.zeros((len(order), *part.shape[1:]), part.dtype))
                _put(room, places[rows][inside], codes if inside.all() else codes.take(_index(np.flatnonzero(inside))))
            others = np.flatnonzero(batch[members] & ~inside)
            if len(others):
                yield from self._by_group(codes, members, others, rows.start)
        start = 0
        for index in np.flatnonzero(gathered):
            own = slice(start, start + int(self._counts[index]))
            start = own.stop
            if room is not None and own.stop > own.start:
                yield BlockPart(self._values[index], room.take(own), self.rows.take(_index(order[own])), None)

    def _by_group(
        self, codes: LayerCodes, members: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], start: int
    ) -> Iterator[BlockPart]:
        """Some rows of codes whose groups are `members`, a part per group; start: of the codes, in the selection."""
        rows = rows[np.argsort(members[rows], kind="stable")]
        for part in np.split(rows, np.flatnonzero(np.diff(members[rows])) + 1):
            index, group = _index(part), self._values[int(members[part[0]])]
            own = codes if len(part) == codes.rows else codes.take(index)
            yield BlockPart(group, own, self.rows.take(index + start), None)

    @cached_property
    def _counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Rows of each group."""
        return np.bincount(self.group_of, minlength=len(self._values))

    @cached_property
    def _values(self) -> list[Any]:
        values: list[Any] = self.groups.to_pylist()
        return values


def _put(room: LayerCodes, places: np.ndarray[Any, np.dtype[np.int64]], codes: LayerCodes) -> None:
    """Writes rows to these places."""
    for into, rows in zip(room.tensors(), codes.tensors(), strict=True):
        _whole_rows(into)[places] = _whole_rows(rows.contiguous())


def _whole_rows(values: torch.Tensor) -> np.ndarray[Any, Any]:
    """A contiguous tensor (n, ...) as one item a row, a view: rows are copied at once then."""
    array = values.numpy().reshape(len(values), -1)
    return array.view(np.dtype((np.void, array.shape[1] * array.itemsize)))[:, 0]


def _index(rows: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(rows)
