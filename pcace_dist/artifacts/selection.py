"""selection.arrow: the one attempt of a run from kept codes.

Its rows are in the order of the kept codes, with everything that a reduce task needs besides the codes themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pcace_dist.artifacts.attempt import BlockPart
from pcace_dist.artifacts.codes.columns import binary_rows, integer_rows
from pcace_dist.artifacts.encoding import ipc_bytes
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes

SELECTION_FILE = "selection.arrow"


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

    def parts(self, block_codes: Iterator[LayerCodes]) -> Iterator[BlockPart]:
        """The selected rows of a block: for each of the `block_codes`, a part per group."""
        first = 0
        for codes in block_codes:
            rows = codes.rows
            low, high = np.searchsorted(self.positions, [first, first + rows])
            if high > low:
                if high - low < codes.rows:
                    codes = codes.take(torch.from_numpy(self.positions[low:high] - first))
                yield from self._by_group(codes, int(low), int(high))
            first += rows

    def _by_group(self, codes: LayerCodes, low: int, high: int) -> Iterator[BlockPart]:
        members = self.group_of[low:high]
        if (members == members[0]).all():
            yield BlockPart(self._values[int(members[0])], codes, self.rows.take(slice(low, high)), None)
            return
        order = np.argsort(members, kind="stable")
        ends = np.flatnonzero(np.diff(members[order])) + 1
        for part in np.split(order, ends):
            index = torch.from_numpy(part)
            group = self._values[int(members[part[0]])]
            yield BlockPart(group, codes.take(index), self.rows.take(index + low), None)

    @cached_property
    def _values(self) -> list[Any]:
        values: list[Any] = self.groups.to_pylist()
        return values
