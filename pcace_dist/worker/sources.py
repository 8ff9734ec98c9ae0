"""Where a unit's batches come from: its images, the pilot's cache, or the codes that the extended run kept.

The three give the same codes. Knows data sets, the reader and files of codes; no store, no Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from pcace_dist.artifacts.codes import KeptUnit, read_unit
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


class UnitSource(Protocol):
    """The batches of one unit.

    kind: IMAGES, PILOT or CODES. The others are complete when the batches are exhausted: bad (rows that could not be
    read, or that the extended run set aside), filtered (rows that the filter removed), bytes_read, and the seconds of
    the threads that read.
    """

    @property
    def kind(self) -> str: ...
    @property
    def bad(self) -> Sequence[BadRow]: ...
    @property
    def filtered(self) -> int: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...

    def encoded(self, encoder: BatchEncoder, seconds: StageSeconds) -> Iterator[EncodedBatch]:
        """The batches as codes, in row order."""

    def close(self) -> None:
        """Stop reading. Nothing happens after the last batch."""


class ImageSource:
    """Images that are read and forwarded now."""

    kind = IMAGES

    def __init__(self, stream: UnitStream, forward: ForwardPass, on_forwarded: Callable[[int], None]) -> None:
        self._stream = stream
        self._forward = forward
        self._on_forwarded = on_forwarded

    @property
    def bad(self) -> Sequence[BadRow]:
        return self._stream.bad

    @property
    def filtered(self) -> int:
        return self._stream.filtered

    @property
    def bytes_read(self) -> int:
        return self._stream.bytes_read

    @property
    def seconds(self) -> Mapping[str, float]:
        return self._stream.seconds

    def encoded(self, encoder: BatchEncoder, seconds: StageSeconds) -> Iterator[EncodedBatch]:
        return encoder.encode(self._passes(), seconds)

    def _passes(self) -> Iterator[tuple[Batch, ForwardPass]]:
        for batch in self._stream.batches():
            yield batch, self._forward
            self._on_forwarded(len(batch))

    def close(self) -> None:
        self._stream.close()


class PilotSource:
    """Batches that the pilot has forwarded."""

    kind = PILOT

    def __init__(self, cached: CachedUnit) -> None:
        self._batches = cached.batches
        self.bad: Sequence[BadRow] = cached.bad
        self.filtered = cached.filtered
        self.bytes_read = cached.bytes_read
        self.seconds: Mapping[str, float] = {}

    def encoded(self, encoder: BatchEncoder, seconds: StageSeconds) -> Iterator[EncodedBatch]:
        return encoder.encode(((cached.batch, cached.forward) for cached in self._batches), seconds)

    def close(self) -> None:
        return None


class CodesSource:
    """Rows as the extended run kept them: one batch, of all the unit's rows."""

    kind = CODES

    def __init__(self, kept: KeptUnit, unit: Unit, plan: Plan, *, group_by: str | None, label: str | None) -> None:
        self._kept = kept
        self._plan = plan
        self._group_by, self._label = group_by, label
        self.bad: Sequence[BadRow] = kept.bad
        self.filtered = unit.rows - len(kept.rows.refs) - kept.bad_rows
        self.bytes_read = 0
        self.seconds: Mapping[str, float] = {}

    def encoded(
        self,
        encoder: BatchEncoder,  # noqa: ARG002 (the interface's)
        seconds: StageSeconds,  # noqa: ARG002
    ) -> Iterator[EncodedBatch]:
        rows = self._kept.rows
        if rows.refs:
            yield EncodedBatch(
                codes=self._kept.codes,
                rows=row_codes(self._plan, rows.targets, rows.fold_keys),
                refs=rows.refs,
                groups=self._kept.groups(self._group_by),
                labels=self._kept.labels(self._label),
                kept=rows,
            )

    def close(self) -> None:
        return None


class UnitSources:
    """Finds the source of each unit, and reads the images of the next one ahead."""

    def __init__(
        self,
        spec: WorkSpec,
        plan: Plan,
        reader: UnitReader,
        forward: ForwardPass,
        pilot_cache: PilotCache,
        on_forwarded: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """`on_forwarded(rows)` is called for every batch of images, after its forward pass."""
        self.reader = reader
        self._spec = spec
        self._plan = plan
        self._forward = forward
        self._pilot_cache = pilot_cache
        self._on_forwarded = on_forwarded
        self._ahead: Unit | None = None

    def open(self, unit: Unit, codes_file: str | None, seconds: StageSeconds) -> UnitSource:
        """The source of a unit: the extended run's `codes_file`, where it can be read; else the pilot's cache, where
        the unit is in it; else the unit's images."""
        kept = None if codes_file is None else self._read_codes(unit, codes_file, seconds)
        if kept is not None:
            dataset = self._spec.dataset
            return CodesSource(kept, unit, self._plan, group_by=dataset.group_by, label=dataset.label)
        cached = self._pilot_cache.take(unit.id)
        if cached is not None:
            return PilotSource(cached)
        return ImageSource(self.reader.submit(unit), self._forward, self._on_forwarded)

    def read_ahead(self, unit: Unit, upcoming: Unit | None) -> None:
        """Begin to read what follows `unit`, unless the pilot has forwarded it. What was begun earlier and does not
        follow any more is discarded: another worker has it now."""
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
