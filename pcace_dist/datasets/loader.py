"""Batches of decoded images in row order. Threads read and decode them ahead of the device.

There is a stream for each unit: one thread reads row groups, a pool shared by all streams decodes small slices of rows,
and one thread puts the results, in order, into batches. Every queue is bounded, and closing one wakes every thread that
waits for it. The result does not depend on the number of threads. The functions that compute fold keys are options; no
Ray, no models, no statistics.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pcace_dist.datasets.bounded_queue import BoundedQueue
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.decoded_rows import (
    DEVICE_ROWS_BYTES,
    ROWS_BYTES,
    BatchBuffer,
    DecodedRows,
    Folds,
    cut,
    decode_rows,
    first_shape,
    gather_images,
)
from pcace_dist.datasets.device_images import DeviceDecoder
from pcace_dist.datasets.formats import Encoded
from pcace_dist.datasets.images import ImageSpec
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.row_groups import RowGroup, count_kept, read_row_groups
from pcace_dist.datasets.rows import BadRow, RowRef
from pcace_dist.datasets.units import RowGroupRef, Unit, listed_row_groups
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Storage

AHEAD_BYTES = 64 << 20  # while a larger row group is decoded, the next one is not read
READ_AHEAD = 2  # batches of a unit that are kept ready
BUFFERS = 2 * (2 * READ_AHEAD + 1) + 2  # for two units: buffers being filled, being assembled, ready; and two in use
READERS = 4  # simultaneous reads: for the current unit and the next one
PILOT_ROW_GROUPS = 256
PILOT_BYTES = 2**30

Source = Callable[[], Iterator["RowGroup | BadRow"]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows that go through the model together.

    images: uint8 or, of mode tensor, float32 (n, C, H, W), contiguous unless channels_last was asked for, on the host
    unless a device decodes; refs: n; labels: int64 (n,), -1 where null, or None; groups: n values of group_by (None is
    a value) or None; columns: by name float64 (n,), NaN where null, or (n,) of vectors float64 (E,), None where null;
    fold_keys: uint64 (n,); kept: n mappings of the kept columns, or None.
    """

    images: torch.Tensor
    refs: tuple[RowRef, ...]
    labels: np.ndarray[Any, np.dtype[np.int64]] | None
    groups: tuple[Any, ...] | None
    columns: dict[str, np.ndarray[Any, Any]]
    fold_keys: np.ndarray[Any, np.dtype[np.uint64]]
    kept: tuple[Mapping[str, Any], ...] | None = None

    def __len__(self) -> int:
        return len(self.refs)

    def split(self, size: int) -> Iterator[Batch]:
        """The same rows in batches of `size`; the last one has the remaining rows."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield Batch(
                images=self.images[rows],
                refs=self.refs[rows],
                labels=None if self.labels is None else self.labels[rows],
                groups=None if self.groups is None else self.groups[rows],
                columns={name: values[rows] for name, values in self.columns.items()},
                fold_keys=self.fold_keys[rows],
                kept=None if self.kept is None else self.kept[rows],
            )


@dataclass(frozen=True)
class LoaderOptions:
    """What a loader reads, and how.

    `fold_bytes(image bytes)` or, with dataset.fold_by, `fold_value(value)` gives a row's fold key. `image_shape`
    (H, W) is the plan's: images of another size are set aside. At most `read_ahead` batches of each submitted
    unit are decoded in advance, and one row group is read while another is decoded. `pinned`: batches are in
    page-locked memory, from which a GPU copies without the CPU. `decoder`: images are decoded on its device, and
    batches are there; their pixels are complete, and code that reads them on a stream must record it
    (models.device.to_device does). `strict`: images that differ in size are a DatasetError.
    """

    dataset: DatasetSpec
    images: ImageSpec
    storage: Storage
    batch_size: int
    fold_bytes: Callable[[Encoded], int]
    fold_value: Callable[[Any], int]
    image_shape: tuple[int, int] | None = None
    threads: int = 1
    read_ahead: int = READ_AHEAD
    channels_last: bool = False
    pinned: bool = False
    decoder: DeviceDecoder | None = None
    strict: bool = False


class UnitReader:
    """Reads units ahead of the device."""

    def __init__(self, options: LoaderOptions) -> None:
        self.spec, self.image_spec, self.storage = options.dataset, options.images, options.storage
        self.strict = options.strict
        self.batch_size, self.read_ahead = options.batch_size, options.read_ahead
        self.threads = options.threads
        self.folds = Folds(options.fold_bytes, options.fold_value)
        self.image_shape = options.image_shape
        self.channels_last, self.pinned = options.channels_last, options.pinned
        self.decoder = options.decoder
        self.decoders = ThreadPoolExecutor(options.threads, thread_name_prefix="pcace-decode")
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="pcace-read")
        self._streams: dict[str, UnitStream] = {}

    def submit(self, unit: Unit) -> UnitStream:
        """Begin to read and decode `unit`. Returns the same stream until it is exhausted or discarded."""
        stream = self._streams.get(unit.id)
        if stream is None or stream.closed:
            stream = self._streams[unit.id] = UnitStream(
                self,
                lambda: read_row_groups(unit.row_groups, self.spec, self.storage),
                name=unit.id[:8],
                shape=self.image_shape,
                strict=self.strict,
                on_close=lambda: self._streams.pop(unit.id, None),
            )
        return stream

    def stream(self, unit: Unit) -> UnitStream:
        """The stream of `unit`, which is submitted if it is not yet."""
        return self.submit(unit)

    def batches(self, unit: Unit) -> Iterator[Batch]:
        """The batches of `unit`; short for submit(unit).batches()."""
        return self.submit(unit).batches()

    def discard(self, unit: Unit) -> None:
        """Stop reading `unit` and forget what was read. Does not wait."""
        stream = self._streams.get(unit.id)
        if stream is not None:
            stream.close()

    def close(self) -> None:
        """Discard all units and end all threads."""
        streams = list(self._streams.values())
        for stream in streams:
            stream.close()
        self.decoders.shutdown(wait=True, cancel_futures=True)
        for stream in streams:
            stream.join()
        self.readers.shutdown(wait=True)

    def __enter__(self) -> UnitReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UnitStream:
    """One unit that is being read: its batches, and the rows that were set aside.

    `bad`, `filtered` (rows that the filter removed), `unlabelled` (left out for want of a label), `bytes_read` and
    `seconds` {read, decode (summed over threads), wait (of the consumer)} are complete when batches() is exhausted.
    """

    def __init__(
        self,
        reader: UnitReader,
        source: Source,
        *,
        name: str = "",
        shape: tuple[int, int] | None = None,
        strict: bool = False,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        self.bad: list[BadRow] = []
        self.filtered = 0
        self.unlabelled = 0
        self.bytes_read = 0
        self.seconds = {"read": 0.0, "decode": 0.0, "wait": 0.0}
        self._reader, self._source, self._strict = reader, source, strict
        self._shape = None if shape is None else (reader.image_spec.image_channels, *shape)
        self._on_close = on_close
        self._lock = threading.Lock()
        self._runs: BoundedQueue[Future[DecodedRows] | BadRow] = BoundedQueue(reader.read_ahead * reader.batch_size)
        self._ready: BoundedQueue[Batch] = BoundedQueue(reader.read_ahead)
        self._threads = [
            threading.Thread(target=target, name=f"pcace-{role}-{name}", daemon=True)
            for role, target in (("feed", self._feed), ("batch", self._assemble))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def bad_rows(self) -> int:
        """The number of rows set aside, including those of whole row groups."""
        return sum(bad.rows for bad in self.bad)

    @property
    def closed(self) -> bool:
        """True once the batches are exhausted or the stream was closed."""
        return self._ready.closed

    def batches(self) -> Iterator[Batch]:
        """Batches in row order, all full but the last. Raises the error of any of its threads. Leaving the loop closes
        the stream.
        """
        try:
            while True:
                start = time.perf_counter()
                batch = self._ready.get()
                self.seconds["wait"] += time.perf_counter() - start
                if batch is None:
                    return
                yield batch
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading and decoding; does not wait for the threads to notice."""
        self._runs.close()
        self._ready.close()
        self._on_close()

    def join(self, timeout: float = 60) -> None:
        """Wait for the stream's threads to end."""
        for thread in self._threads:
            thread.join(timeout)

    def _feed(self) -> None:
        """Thread: submits slices of row groups to the decoding pool, at most as many rows as read_ahead allows."""
        try:
            at = 0
            buffer: BatchBuffer | None = None
            for row_group in self._row_groups():
                if isinstance(row_group, BadRow):
                    self._runs.put(row_group)
                    continue
                self.filtered += row_group.filtered
                self.unlabelled += row_group.unlabelled
                self.bytes_read += row_group.bytes_read
                if self._shape is None:
                    self._shape = first_shape(row_group, self._reader.spec, self._reader.image_spec)
                for rows in self._cut(row_group, at):
                    count = rows.stop - rows.start
                    if not self._runs.reserve(count):
                        return
                    start = at % self._reader.batch_size
                    if (start == 0 or buffer is None) and self._shape is not None:
                        buffer = self._new_buffer()
                    self._runs.put(self._reader.decoders.submit(self._decode, row_group, rows, buffer, start), count)
                    at += count
            self._runs.finish()
        except BaseException as error:
            self._runs.finish(error)

    def _cut(self, row_group: RowGroup, at: int) -> Iterator[slice]:
        reader = self._reader
        run_bytes = ROWS_BYTES if reader.decoder is None else DEVICE_ROWS_BYTES
        return cut(row_group, reader.spec.image, reader.batch_size, at, reader.threads, run_bytes)

    def _row_groups(self) -> Iterator[RowGroup | BadRow]:
        """The source's row groups. Each is read while the previous one is decoded, unless that one is very large."""
        row_groups = self._source()

        def following() -> RowGroup | BadRow | None:
            start = time.perf_counter()
            try:
                return next(row_groups, None)
            finally:
                self.seconds["read"] += time.perf_counter() - start

        ahead = self._reader.readers.submit(following)
        try:
            while (row_group := ahead.result()) is not None and not self._runs.closed:
                is_large = isinstance(row_group, RowGroup) and row_group.bytes_read > AHEAD_BYTES
                if not is_large:
                    ahead = self._reader.readers.submit(following)
                yield row_group
                if is_large:
                    ahead = self._reader.readers.submit(following)
        finally:
            with contextlib.suppress(BaseException):
                ahead.result()  # it holds an open file

    def _new_buffer(self) -> BatchBuffer:
        assert self._shape is not None
        reader = self._reader
        if reader.decoder is None:
            return BatchBuffer(
                reader.batch_size,
                self._shape,
                dtype=reader.image_spec.dtype,
                channels_last=reader.channels_last,
                pinned=reader.pinned,
            )
        with reader.decoder.holding():
            device = reader.decoder.device
            return BatchBuffer(reader.batch_size, self._shape, channels_last=reader.channels_last, device=device)

    def _working(self) -> contextlib.AbstractContextManager[None]:
        """The context for everything that a thread does with pixels."""
        decoder = self._reader.decoder
        return contextlib.nullcontext() if decoder is None else decoder.working()

    def _decode(self, group: RowGroup, rows: slice, buffer: BatchBuffer | None, start: int) -> DecodedRows:
        """Pool: decodes one slice of rows."""
        if self._ready.closed:
            return DecodedRows(buffer, start, [], [])
        start_time = time.perf_counter()
        reader = self._reader
        with self._working():
            run = decode_rows(group, rows, reader.spec, reader.image_spec, reader.folds, buffer, start, reader.decoder)
        with self._lock:
            self.seconds["decode"] += time.perf_counter() - start_time
        return run

    def _assemble(self) -> None:
        """Thread: puts decoded slices, in order, into batches."""
        size = self._reader.batch_size
        parts: list[tuple[DecodedRows, int, int]] = []
        count = 0
        try:
            while (item := self._runs.get()) is not None:
                if isinstance(item, BadRow):
                    self.bad.append(item)
                    continue
                run = self._checked(item.result())
                start = 0
                while start < len(run):
                    stop = min(len(run), start + size - count)
                    parts.append((run, start, stop))
                    count += stop - start
                    start = stop
                    if count == size:
                        self._ready.put(self._batch(parts))
                        parts, count = [], 0
            if parts:
                self._ready.put(self._batch(parts))
            self._ready.finish()
        except CancelledError:
            self._ready.close()
        except BaseException as error:
            self._ready.finish(error)
            self._runs.close()

    def _checked(self, run: DecodedRows) -> DecodedRows:
        if self._strict and run.misfit is not None:
            (height, width), ref = run.misfit.size, run.misfit.ref
            assert self._shape is not None
            raise DatasetError(
                f"model.input: images differ in size ({width}x{height} in {ref.id},"
                f" {self._shape[2]}x{self._shape[1]} before); set model.input.resize or model.input.crop"
            )
        if self._strict and run.mislabelled is not None:
            ref, reason = run.mislabelled
            spec = self._reader.spec
            raise DatasetError(f"dataset.label {spec.label}: {reason} ({ref.id}); {spec.labelling.remedy}")
        self.bad.extend(run.bad)
        return run

    def _batch(self, parts: Sequence[tuple[DecodedRows, int, int]]) -> Batch:
        spec = self._reader.spec

        def joined(column: Callable[[DecodedRows], Sequence[Any]]) -> list[Any]:
            return [value for run, start, stop in parts for value in column(run)[start:stop]]

        columns = {
            name: np.concatenate([run.values[i][start:stop] for run, start, stop in parts])
            for i, name in enumerate((*spec.columns, *spec.vectors))
        }
        with self._working():
            images = gather_images(parts, self._new_buffer)
        return Batch(
            images=images,
            refs=tuple(joined(lambda run: run.refs)),
            labels=None if spec.label is None else np.array(joined(lambda run: run.labels), dtype=np.int64),
            groups=None if spec.group_by is None else tuple(joined(lambda run: run.groups)),
            columns=columns,
            fold_keys=np.array(joined(lambda run: run.fold_keys), dtype=np.uint64),
            kept=tuple(joined(lambda run: run.kept)) if spec.keep else None,
        )


def pilot_rows(
    listing: Listing,
    rows: int,
    options: LoaderOptions,
    *,
    max_row_groups: int = PILOT_ROW_GROUPS,
    max_bytes: int = PILOT_BYTES,
) -> Generator[Batch]:
    """Batches with about `rows` rows in all, spread evenly over all rows that the filter keeps; a function of the
    listing. The images are on the host, even if a device decodes them, because the pilot keeps all of them.

    At most `max_row_groups` row groups, of about `max_bytes` in all, are read. Bad rows are left out.
    Raises DatasetError if the filter keeps no row, no image can be decoded, or images differ in size.
    """
    spec, storage = options.dataset, options.storage
    row_groups = listed_row_groups(listing)
    kept = _count_kept_in_threads(row_groups, spec, storage, options.threads)
    if not sum(kept):
        raise _keeps_nothing(spec)
    groups = _most_groups(listing, row_groups, max_row_groups, max_bytes)
    positions = {row_groups[index]: at for index, at in spread(kept, rows, groups).items()}

    def source() -> Iterator[RowGroup | BadRow]:
        yield from read_row_groups(tuple(positions), spec, storage, lambda ref, counting: counting[positions[ref]])

    with UnitReader(options) as reader:
        stream = UnitStream(reader, source, name="pilot", strict=True)
        try:
            count = 0
            for batch in stream.batches():
                count += len(batch)
                yield batch if options.decoder is None else replace(batch, images=batch.images.cpu())
            if not count:
                raise _nothing_usable(stream.bad)
        finally:
            stream.close()


class WholeUnits:
    """All rows of all units, for a pilot that uses every row: the same batches as in the main pass, in the same order.

    `read`, complete when `batches` is exhausted: each unit with its stream and the number of rows in its batches.
    """

    def __init__(self, units: Sequence[Unit], options: LoaderOptions) -> None:
        self._units = units
        self._reader = UnitReader(replace(options, strict=True))
        self.read: list[tuple[Unit, UnitStream, int]] = []

    def batches(self) -> Generator[Batch]:
        """The batches, once. Raises DatasetError if the filter keeps no row, no image can be decoded, or images differ
        in size."""
        with self._reader as reader:
            for unit, following in zip(self._units, (*self._units[1:], None), strict=True):
                stream, rows = reader.submit(unit), 0
                for batch in stream.batches():
                    if reader.image_shape is None:
                        height, width = (int(n) for n in batch.images.shape[-2:])
                        reader.image_shape = height, width
                    if following is not None:
                        reader.submit(following)
                    yield batch
                    rows += len(batch)
                self.read.append((unit, stream, rows))
        if not any(rows for _, _, rows in self.read):
            bad = [row for _, stream, _ in self.read for row in stream.bad]
            raise _nothing_usable(bad) if bad else _keeps_nothing(self._reader.spec)


def takes_all(listing: Listing, rows: int) -> bool:
    """Whether `pilot_rows` reads every row."""
    row_groups = listed_row_groups(listing)
    return 0 < listing.rows <= rows and len(row_groups) <= _most_groups(
        listing, row_groups, PILOT_ROW_GROUPS, PILOT_BYTES
    )


def _most_groups(listing: Listing, row_groups: Sequence[RowGroupRef], max_row_groups: int, max_bytes: int) -> int:
    bytes_per_group = sum(file.size for file in listing.files) / len(row_groups)
    return min(max_row_groups, max(32, int(max_bytes / bytes_per_group)))


def _keeps_nothing(spec: DatasetSpec) -> DatasetError:
    if spec.labelling.leave_out:
        kept = f" that dataset.filter {dict(spec.filter)} keeps" if spec.filter else ""
        return DatasetError(f"dataset.label {spec.label}: no row{kept} has a label: each is null, NaN or -1")
    return DatasetError(f"dataset.filter: {dict(spec.filter)} keeps no rows")


def _nothing_usable(bad: Sequence[BadRow]) -> DatasetError:
    return DatasetError(f"dataset.image: none of the pilot's images can be used; the first: {_told(bad)}")


def spread(counts: Sequence[int], rows: int, max_groups: int) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Choose `rows` rows evenly over row groups of `counts` rows: {index of the row group: positions in it}.

    If these lie in more than `max_groups` row groups, only so many of the row groups, evenly chosen, are used.
    """
    sizes = np.asarray(counts, dtype=np.int64)
    groups = np.arange(len(sizes))
    chosen = _spread_over(sizes, rows)
    if len(chosen) > max_groups:
        groups = np.array(sorted(chosen))[_even(len(chosen), max_groups)]
        chosen = _spread_over(sizes[groups], rows)
    return {int(groups[index]): at for index, at in chosen.items()}


def _spread_over(sizes: np.ndarray[Any, np.dtype[np.int64]], rows: int) -> dict[int, Any]:
    ends = np.cumsum(sizes)
    at = _even(int(ends[-1]), rows)
    group = np.searchsorted(ends, at, side="right")
    within_group = at - (ends - sizes)[group]
    return {int(g): within_group[group == g] for g in np.unique(group)}


def _even(total: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`count` of the numbers 0..total-1 (all, if there are fewer): the middles of equal intervals."""
    count = min(total, count)
    return (np.arange(count, dtype=np.int64) * 2 + 1) * total // (2 * count)


def _count_kept_in_threads(
    row_groups: Sequence[RowGroupRef], spec: DatasetSpec, storage: Storage, threads: int
) -> list[int]:
    if not spec.filter and not spec.labelling.leave_out:
        return [ref.rows for ref in row_groups]
    by_file: dict[str, list[RowGroupRef]] = {}
    for ref in row_groups:
        by_file.setdefault(ref.url, []).append(ref)
    with ThreadPoolExecutor(max(threads, 8), thread_name_prefix="pcace-filter") as pool:
        counts = pool.map(lambda part: count_kept(part, spec, storage), by_file.values())
        return [count for part in counts for count in part]


def _told(bad: Sequence[BadRow]) -> str:
    if not bad:
        return "there is none"
    first_bad = bad[0]
    where = f"row group {first_bad.row_group}" if first_bad.row is None else f"row {first_bad.row}"
    return f"{first_bad.file} {where}: {first_bad.reason}"
