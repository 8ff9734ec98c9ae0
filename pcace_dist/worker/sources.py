"""Where a unit's batches come from: its images, the pilot's cache, or the codes that the extended run kept.

The three give the same codes. Knows data sets, the reader and files of codes; no store, no Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pcace_dist.artifacts.codes.kept_unit import KeptUnit, read_unit
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.loader import Batch, UnitReader, UnitStream
from pcace_dist.datasets.rows import BadRow
from pcace_dist.datasets.units import Unit
from pcace_dist.errors import DatasetError
from pcace_dist.statistics.plan import Plan
from pcace_dist.worker.encoder import BatchEncoder, EncodedBatch, ForwardPass, row_codes
from pcace_dist.worker.pilot_cache import CachedUnit, PilotCache
from pcace_dist.worker.spec import WorkSpec
from pcace_dist.worker.stage_seconds import StageSeconds

log = logging.getLogger(__name__)

IMAGES, PILOT, CODES = "images", "pilot", "codes"  # kinds of sources


class UnitTotals(Protocol):
    """What is known of a unit when its batches are exhausted: rows set aside, rows that the filter removed, rows left
    out for want of a label, bytes."""

    @property
    def bad(self) -> Sequence[BadRow]: ...
    @property
    def filtered(self) -> int: ...
    @property
    def unlabelled(self) -> int: ...
    @property
    def bytes_read(self) -> int: ...


@dataclass(frozen=True, eq=False)
class UnitSource:
    """The batches of one unit.

    encoded: gives the batches as codes, in row order. totals: complete when they are exhausted, as are `seconds`, those
    of the threads that read. close: stops reading; does nothing after the last batch.
    """

    kind: str
    encoded: Callable[[BatchEncoder, StageSeconds], Iterator[EncodedBatch]]
    totals: UnitTotals
    seconds: Mapping[str, float] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class _KeptTotals:
    bad: Sequence[BadRow]
    filtered: int
    unlabelled: int
    bytes_read: int = 0


def image_source(
    stream: UnitStream, pass_of: Callable[[Batch], ForwardPass], on_forwarded: Callable[[int], None]
) -> UnitSource:
    """Images that are read and forwarded now, each batch by its own pass; `on_forwarded(rows)` is called after every
    batch."""

    def passes() -> Iterator[tuple[Batch, ForwardPass]]:
        for batch in stream.batches():
            yield batch, pass_of(batch)
            on_forwarded(len(batch))

    return UnitSource(
        IMAGES, lambda encoder, seconds: encoder.encode(passes(), seconds), stream, stream.seconds, stream.close
    )


def pilot_source(unit: CachedUnit) -> UnitSource:
    """Batches that the pilot has forwarded."""
    passes = ((cached.batch, cached.forward) for cached in unit.batches)
    return UnitSource(PILOT, lambda encoder, seconds: encoder.encode(passes, seconds), unit)


def codes_source(kept_unit: KeptUnit, unit: Unit, plan: Plan, dataset: DatasetSpec) -> UnitSource:
    """Rows as the extended run kept them: one batch, of all the unit's rows; none where it kept none.

    Rows that it neither kept nor set aside count as unlabelled only where there is no filter that can have removed
    them.
    """
    rows = kept_unit.rows
    left_out = unit.rows - len(rows.refs) - kept_unit.bad_rows
    unlabelled = left_out if dataset.labelling.leave_out and not dataset.filter else 0

    def encoded(_: BatchEncoder, __: StageSeconds) -> Iterator[EncodedBatch]:
        if rows.refs:
            row_parts = row_codes(plan, rows.targets, rows.fold_keys, rows.effects)
            groups = kept_unit.groups(dataset.group_by)
            labels = kept_unit.labels(dataset.label, dataset.labelling)
            yield EncodedBatch(kept_unit.codes, row_parts, rows.refs, groups, labels, rows)

    return UnitSource(CODES, encoded, _KeptTotals(kept_unit.bad, left_out - unlabelled, unlabelled))


class UnitSources:
    """Finds the source of each unit, and reads the images of the next one ahead."""

    def __init__(
        self,
        spec: WorkSpec,
        plan: Plan,
        reader: UnitReader,
        pass_of: Callable[[Batch], ForwardPass],
        pilot_cache: PilotCache,
        on_forwarded: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """pass_of: how a batch of images is forwarded. `on_forwarded(rows)` is called after every such pass."""
        self.reader = reader
        self._spec = spec
        self._plan = plan
        self._pass_of = pass_of
        self._pilot_cache = pilot_cache
        self._on_forwarded = on_forwarded
        self._ahead: Unit | None = None

    def open(self, unit: Unit, codes_file: str | None, seconds: StageSeconds) -> UnitSource:
        """The source of a unit: the extended run's `codes_file`, where it can be read; else the pilot's cache, where
        the unit is in it; else the unit's images."""
        kept_unit = None if codes_file is None else self._read_codes(unit, codes_file, seconds)
        if kept_unit is not None:
            return codes_source(kept_unit, unit, self._plan, self._spec.dataset)
        cached = self._pilot_cache.take(unit.id)
        if cached is not None:
            return pilot_source(cached)
        return image_source(self.reader.submit(unit), self._pass_of, self._on_forwarded)

    def read_ahead(self, unit: Unit, upcoming: Unit | None) -> None:
        """Begin to read the unit that follows `unit`, unless the pilot has forwarded it. If another unit was begun
        earlier, it is discarded: another worker has it now."""
        if self._ahead is not None and self._ahead not in (unit, upcoming):
            self.reader.discard(self._ahead)
        self._ahead = None if upcoming is None or upcoming.id in self._pilot_cache.units else upcoming
        if self._ahead is not None:
            self.reader.submit(self._ahead)

    def _read_codes(self, unit: Unit, codes_file: str, seconds: StageSeconds) -> KeptUnit | None:
        """The unit's rows in a codes file of the extended run; None where it cannot be read any more."""
        try:
            with seconds.stage("read"):
                return read_unit(f"{self._spec.base}/{codes_file}", self._spec.storage, unit, self._plan)
        except DatasetError as error:
            log.warning("%s: unit %s is forwarded instead", error, unit.id, extra={"unit": unit.id})
            return None
