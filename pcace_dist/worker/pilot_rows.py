"""The pilot's batches: read while the first of them are forwarded, and kept for further passes. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace

import torch

from pcace_dist.datasets.device_images import decoder_of
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import Batch, WholeUnits, pilot_rows, takes_all
from pcace_dist.datasets.units import make_units, rows_per_unit
from pcace_dist.worker.admission import CHECK_ROWS
from pcace_dist.worker.pilot_cache import CachedBatch, CachedUnit
from pcace_dist.worker.spec import WorkSpec


class PilotRows:
    """The pilot's batches; may be iterated over again and again.

    A pilot that takes every row on a processor reads whole units, as the main pass does, so that the main pass can use
    what it forwards. Any other reads `statistics.pilot` rows spread over the data set; with another run's plan, only
    the rows for admission.
    """

    def __init__(
        self,
        spec: WorkSpec,
        listing: Listing,
        *,
        batch: int,
        has_plan: bool,
        device: torch.device,
        decode: str,
        hash_name: str,
        check: Callable[[], None],
        threads: int = 1,
    ) -> None:
        """batch: rows that are read at a time. threads: that decode. `check` is called before every batch. Raises
        DatasetError."""
        self._check = check
        self._listing = listing
        self._units: WholeUnits | None = None
        self.most_rows = min(listing.rows, CHECK_ROWS if has_plan else spec.statistics.pilot)
        self._options = options = replace(spec.loader_options(batch, hash_name), threads=threads)
        if not has_plan and device.type == "cpu" and takes_all(listing, spec.statistics.pilot):
            units = make_units(listing, rows_per_unit(listing))
            self._units = WholeUnits(units, options)
            self._unread: Generator[Batch] = self._units.batches()
        else:
            decoder = decoder_of(decode, device)
            self._unread = pilot_rows(listing, self.most_rows, replace(options, decoder=decoder))
        self._read: list[Batch] = []
        self.first = next(iter(self))

    @property
    def took_all(self) -> bool:
        """Whether every row was read, once the batches are exhausted."""
        return self.reads_units or sum(map(len, self._read)) == self._listing.rows

    @property
    def reads_units(self) -> bool:
        """Whether the batches are those of the main pass, so that it can use what was forwarded."""
        return self._units is not None

    def more(self, rows: int, decode: str, device: torch.device) -> Generator[Batch]:
        """Batches of so many rows spread over the data set, the pilot's own among them or not; not kept."""
        return pilot_rows(self._listing, rows, replace(self._options, decoder=decoder_of(decode, device)))

    def close(self) -> None:
        """Stop reading."""
        self._unread.close()

    def __iter__(self) -> Iterator[Batch]:
        position = 0
        while True:
            while position < len(self._read):
                yield self._read[position]
                position += 1
            self._check()
            batch = next(self._unread, None)
            if batch is None:
                return
            self._read.append(batch)

    def by_unit(self, cached: Iterable[CachedBatch]) -> dict[str, CachedUnit]:
        """The units by id, from all batches as they were forwarded, in order; nothing where `cached` is empty or the
        pilot did not read units."""
        batches = list(cached)
        if self._units is None or not batches:
            return {}
        remaining = iter(batches)
        return {
            unit.id: CachedUnit(
                batches=tuple(_next_rows(remaining, rows)),
                bad=tuple(stream.bad),
                filtered=stream.filtered,
                unlabelled=stream.unlabelled,
                bytes_read=stream.bytes_read,
            )
            for unit, stream, rows in self._units.read
        }


def _next_rows(batches: Iterator[CachedBatch], rows: int) -> Iterator[CachedBatch]:
    """The next batches, until they have `rows` rows."""
    while rows > 0:
        batch = next(batches)
        rows -= len(batch.batch)
        yield batch


class PilotMeter:
    """How far a pilot is, for the progress: rows of passes, of which the number is known roughly. One thread counts,
    another may read `share`."""

    def __init__(self) -> None:
        self._rows_of_pass = 0
        self._passes = 1
        self._rows = 0
        self._pass = 0

    def begin(self, rows: int) -> None:
        """The first pass begins, over about so many rows; also where it begins anew with a smaller batch."""
        self._rows_of_pass, self._passes, self._rows, self._pass = rows, 1, 0, 0

    def expect(self, passes: int) -> None:
        """There will be about so many passes in all."""
        self._passes = passes

    def next_pass(self) -> None:
        self._pass, self._rows = self._pass + 1, 0

    def add(self, rows: int) -> None:
        """So many more rows of the pass are done."""
        self._rows += rows

    @property
    def share(self) -> float:
        """From 0 to 0.99: the share of the passes, all counted alike."""
        of_pass = self._rows / self._rows_of_pass if self._rows_of_pass else 0.0
        return min(0.99, (self._pass + min(1.0, of_pass)) / self._passes)
