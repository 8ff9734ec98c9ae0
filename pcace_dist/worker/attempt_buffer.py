"""What a worker has added up and not yet written: the files of its next attempt.

The time of writing never changes a result, because sums are integers. Knows the store and the statistic; no model, no
Ray.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcace_dist.artifacts.attempt import write_attempt
from pcace_dist.artifacts.codes.columns import KeptRows
from pcace_dist.artifacts.codes.writer import CodesWriter
from pcace_dist.artifacts.examples import ExampleRows
from pcace_dist.datasets.rows import BadRow
from pcace_dist.datasets.units import Unit
from pcace_dist.ledger.ledger import FileRef, UnitCount
from pcace_dist.statistics.group_accumulator import GroupAccumulator, RowCodes, row_bytes
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.samples import SampleRows
from pcace_dist.storage.store import Store
from pcace_dist.worker.encoder import UnitRows

if TYPE_CHECKING:
    import pyarrow as pa

FLUSH_SHARE = 0.05  # write once the buffer is at most this share of the bytes read for it,
FLUSH_PAUSE = 60.0  # but not sooner than so many seconds after the last time: small attempts slow down the reduce


class AttemptBuffer:
    """Sums by group, example rows, rows set aside, and counts of the finished units since the last attempt.

    A unit enters as a whole or not at all.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        device: torch.device,
        kept_columns: pa.Schema | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`device`: where sums are held. `kept_columns`: the columns beside kept codes; None where none are kept."""
        self._plan = plan
        self._device = device
        self._clock = clock
        self._began = clock()
        self._codes_writer = None if kept_columns is None else CodesWriter(plan, kept_columns)
        self._examples = ExampleRows(plan)
        self._samples: dict[Any, list[SampleRows]] = defaultdict(list)
        self._bytes_read = 0
        self._largest_unit = 0  # bytes of its rows as codes
        self.accumulators: dict[Any, GroupAccumulator] = {}
        self.bad: list[BadRow] = []
        self.counts: dict[str, UnitCount] = {}

    def add(
        self, unit: Unit, rows: UnitRows, *, filtered: int = 0, unlabelled: int = 0, bytes_read: int = 0
    ) -> UnitCount:
        """Add the rows of a finished unit, and return its counts. `filtered` of its rows the filter removed;
        `unlabelled` were left out for want of a label."""
        bad = unit.rows - filtered - unlabelled - len(rows)
        count = UnitCount(rows=len(rows), bad=bad, filtered=filtered, unlabelled=unlabelled)
        self.bad.extend(rows.bad)
        if len(rows):
            self._add_rows(rows)
        self.counts[unit.id] = count
        self._bytes_read += bytes_read
        self._largest_unit = max(self._largest_unit, len(rows) * row_bytes(self._plan))
        return count

    def _add_rows(self, unit: UnitRows) -> None:
        on_device = {layer.name: unit.codes.codes(layer.name) for layer in self._plan.layers}
        codes = {name: layer for name, layer in on_device.items() if layer is not None}
        on_host = {name: layer.cpu() for name, layer in codes.items()}  # from a GPU: one copy of a unit
        rows = RowCodes.cat(unit.rows)
        plain = {name: layer.without_effects() for name, layer in on_host.items()}
        self._examples.update(plain, rows.without_effects(), unit.refs, unit.groups, unit.labels)
        if unit.kept:
            assert self._codes_writer is not None
            self._codes_writer.add(KeptRows.cat(unit.kept), on_host)
        samples = SampleRows.cat(unit.samples) if unit.samples else None
        members = _members(unit.groups)
        for group, indices in members.items():
            index = torch.tensor(indices) if len(members) > 1 else slice(None)  # all rows: no copy
            group_rows = rows.take(index)
            self._accumulator(group).append(
                {name: layer.take(index) for name, layer in codes.items()},
                group_rows.target_codes,
                group_rows.target_fixed,
                group_rows.folds,
                group_rows.effect_fixed,
            )
            if samples is not None:
                self._samples[group].append(samples.take(torch.tensor(indices)))

    def _accumulator(self, group: Any) -> GroupAccumulator:
        if group not in self.accumulators:
            self.accumulators[group] = GroupAccumulator(self._plan, device=self._device)
        return self.accumulators[group]

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return (
            self._examples.nbytes
            + sum(accumulator.nbytes for accumulator in self.accumulators.values())
            + sum(part.nbytes for parts in self._samples.values() for part in parts)
            + (0 if self._codes_writer is None else self._codes_writer.nbytes)
        )

    def is_due(self, *, memory: int, seconds: float) -> bool:
        """Whether it is time to write: another unit may not fit into `memory` bytes, `seconds` have passed, or what is
        held is small against what was read for it."""
        if not self.counts:
            return False
        nbytes = self.nbytes
        if nbytes + self._largest_unit >= memory:
            return True
        waited = self._clock() - self._began
        if waited >= seconds:
            return True
        return waited >= FLUSH_PAUSE and nbytes <= FLUSH_SHARE * self._bytes_read

    def write(self, store: Store, attempt: str) -> dict[str, FileRef]:
        """Write the files of the attempt and return their sizes and digests. The buffer is used up."""
        return write_attempt(
            store,
            attempt,
            self._plan,
            {group: accumulator.cpu() for group, accumulator in self.accumulators.items()},
            self.bad,
            {group: SampleRows.cat(parts) for group, parts in self._samples.items()},
            None if self._codes_writer is None else self._codes_writer.finish(),
            self._examples.files(),
        )


def _members(groups: Sequence[Any]) -> dict[Any, list[int]]:
    """The rows of each group, groups in the order of their first rows."""
    members: dict[Any, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    return members
