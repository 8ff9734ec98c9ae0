"""The pilot's batches: read while the first of them are forwarded, and kept for further passes. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace

import torch

from pcace_dist.datasets.device_images import decoder_of
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import Batch, LoaderOptions, WholeUnits, pilot_rows, takes_all
from pcace_dist.datasets.units import make_units, rows_per_unit
from pcace_dist.statistics.folds import key_of_bytes, key_of_value
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
        check: Callable[[], None],
    ) -> None:
        """batch: rows that are read at a time. `check` is called before every batch. Raises DatasetError."""
        self._check = check
        self._listing = listing
        self._units: WholeUnits | None = None
        self.most_rows = min(listing.rows, CHECK_ROWS if has_plan else spec.statistics.pilot)
        self._options = options = LoaderOptions(
            spec.dataset,
            spec.images,
            spec.storage,
            batch_size=batch,
            threads=spec.threads,
            fold_bytes=key_of_bytes,
            fold_value=key_of_value,
        )
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
