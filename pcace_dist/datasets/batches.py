"""Batches of decoded images, read and decoded ahead of the device in threads, in row order.

A stream per unit: one thread reads row groups, a pool shared by all streams decodes small runs of rows, one
thread puts the results, in order, into batches. Every queue is bounded, and closing one wakes whoever waits
for it. The result does not depend on the number of threads. How folds are computed comes in as functions; no
Ray, no models, no statistics.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import torch

from pcace_dist.datasets.images import ImageSpec, decode
from pcace_dist.datasets.listing import DatasetSpec, Listing, kept_columns
from pcace_dist.datasets.reader import RETRY, Retry, RowGroup, count_kept, read_pieces
from pcace_dist.datasets.rows import BadRow, RowRef
from pcace_dist.datasets.storage import Storage
from pcace_dist.datasets.units import Piece, Unit, pieces_of
from pcace_dist.errors import DatasetError, RowError

CHUNK_BYTES = 256 * 1024  # of encoded images in one decoding task: some milliseconds of work
CHUNK_ROWS = 64
PILOT_ROW_GROUPS = 256
PILOT_BYTES = 2**30

T = TypeVar("T")
Source = Callable[[], Iterator["RowGroup | BadRow"]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows that go through the model together.

    images: uint8 (n, C, H, W), contiguous unless channels_last was asked for; refs: n; labels: int64 (n,),
    -1 where null, or None; groups: n values of group_by (None is a value) or None; columns: float64 (n,) by
    name, NaN where null; fold_keys: uint64 (n,); kept: n mappings of the kept columns, or None.
    """

    images: torch.Tensor
    refs: tuple[RowRef, ...]
    labels: np.ndarray[Any, np.dtype[np.int64]] | None
    groups: tuple[Any, ...] | None
    columns: dict[str, np.ndarray[Any, np.dtype[np.float64]]]
    fold_keys: np.ndarray[Any, np.dtype[np.uint64]]
    kept: tuple[Mapping[str, Any], ...] | None = None

    def __len__(self) -> int:
        return len(self.refs)


@dataclass(slots=True)
class _Row:
    """One decoded row."""

    ref: RowRef
    image: np.ndarray[Any, np.dtype[np.uint8]]
    fold_key: int
    label: int | None
    group: Any
    values: list[float]
    kept: Mapping[str, Any] | None


class UnitReader:
    """Reads units ahead of the device.

    `fold_bytes(image bytes)` or, with spec.fold_by, `fold_value(value)` gives a row's fold key. `image_shape`
    (H, W) is the plan's: images of another size are set aside. `read_ahead` batches of each submitted unit
    are decoded at most before they are asked for.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        image_spec: ImageSpec,
        storage: Storage,
        *,
        batch_size: int,
        fold_bytes: Callable[[bytes], int],
        fold_value: Callable[[Any], int],
        image_shape: tuple[int, int] | None = None,
        threads: int = 1,
        read_ahead: int = 2,
        channels_last: bool = False,
        retry: Retry = RETRY,
    ) -> None:
        self.spec, self.image_spec, self.storage = spec, image_spec, storage
        self.batch_size, self.read_ahead, self.retry = batch_size, read_ahead, retry
        self.fold_bytes, self.fold_value, self.image_shape = fold_bytes, fold_value, image_shape
        self.channels_last = channels_last
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pcace-decode")
        self._streams: dict[str, UnitStream] = {}

    def submit(self, unit: Unit) -> UnitStream:
        """Begin to read and decode `unit`; the same stream as long as it is not exhausted or discarded."""
        stream = self._streams.get(unit.id)
        if stream is None or stream.closed:
            stream = self._streams[unit.id] = UnitStream(
                self,
                lambda: read_pieces(unit.pieces, self.spec, self.storage, self.retry),
                name=unit.id[:8],
                shape=self.image_shape,
                on_close=lambda: self._streams.pop(unit.id, None),
            )
        return stream

    def stream(self, unit: Unit) -> UnitStream:
        """The stream of `unit`, submitted before or now."""
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
        self._pool.shutdown(wait=True, cancel_futures=True)
        for stream in streams:
            stream.join()

    def __enter__(self) -> UnitReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UnitStream:
    """One unit on its way: its batches, and after them what was set aside.

    `bad`, `filtered` (rows that the filter removed), `bytes_read` and `seconds` {read, decode (summed over
    threads), wait (of whoever iterates)} are complete when batches() is exhausted.
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
        self.bytes_read = 0
        self.seconds = {"read": 0.0, "decode": 0.0, "wait": 0.0}
        self._reader, self._source, self._shape, self._strict = reader, source, shape, strict
        self._on_close = on_close
        self._lock = threading.Lock()
        self._chunks: _Channel[Future[list[_Row | BadRow]] | BadRow] = _Channel(reader.read_ahead * reader.batch_size)
        self._ready: _Channel[Batch] = _Channel(reader.read_ahead)
        self._threads = [
            threading.Thread(target=target, name=f"pcace-{role}-{name}", daemon=True)
            for role, target in (("read", self._read), ("batch", self._assemble))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def bad_rows(self) -> int:
        """Rows set aside, those of whole row groups included."""
        return sum(bad.rows for bad in self.bad)

    @property
    def closed(self) -> bool:
        """True once the batches are exhausted or the stream was closed."""
        return self._ready.closed

    def batches(self) -> Iterator[Batch]:
        """Batches in row order, all full but the last. Raises what a thread raised. Leaving the loop closes
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
        self._chunks.close()
        self._ready.close()
        self._on_close()

    def join(self, timeout: float = 60) -> None:
        """Wait for the stream's threads to end."""
        for thread in self._threads:
            thread.join(timeout)

    def _read(self) -> None:
        """Thread: row groups into the decoding pool, no more rows at a time than read_ahead allows."""
        try:
            parts = self._source()
            while True:
                start = time.perf_counter()
                part = next(parts, None)
                self.seconds["read"] += time.perf_counter() - start
                if part is None or self._chunks.closed:
                    break
                if isinstance(part, BadRow):
                    self._chunks.put(part)
                    continue
                self.filtered += part.filtered
                self.bytes_read += part.bytes_read
                for rows in _runs(part, self._reader):
                    if not self._chunks.reserve(rows.stop - rows.start):
                        break
                    self._chunks.put(self._reader._pool.submit(self._decode, part, rows), rows.stop - rows.start)
            self._chunks.finish()
        except BaseException as error:
            self._chunks.finish(error)

    def _decode(self, group: RowGroup, rows: slice) -> list[_Row | BadRow]:
        """Pool: one run of rows."""
        if self._ready.closed:
            return []
        start = time.perf_counter()
        decoded = _decode_run(group, rows, self._reader)
        with self._lock:
            self.seconds["decode"] += time.perf_counter() - start
        return decoded

    def _assemble(self) -> None:
        """Thread: decoded runs, in order, into batches."""
        held: list[_Row] = []
        try:
            while (item := self._chunks.get()) is not None:
                for row in [item] if isinstance(item, BadRow) else item.result():
                    good = self._checked(row)
                    if good is not None:
                        held.append(good)
                    if len(held) == self._reader.batch_size:
                        self._ready.put(_batch(held, self._reader.spec, self._reader.channels_last))
                        held = []
            if held:
                self._ready.put(_batch(held, self._reader.spec, self._reader.channels_last))
            self._ready.finish()
        except CancelledError:
            self._ready.close()
        except BaseException as error:
            self._ready.finish(error)
            self._chunks.close()

    def _checked(self, row: _Row | BadRow) -> _Row | None:
        if isinstance(row, BadRow):
            self.bad.append(row)
            return None
        height, width = row.image.shape[1:]
        if self._shape is None:
            self._shape = (height, width)
        if self._shape == (height, width):
            return row
        sizes = f"{width}x{height}", f"{self._shape[1]}x{self._shape[0]}"
        if self._strict:
            raise DatasetError(
                f"model.input: images differ in size ({sizes[0]} in {row.ref.file} row {row.ref.row},"
                f" {sizes[1]} before);"
                " set model.input.resize or model.input.crop"
            )
        reason = f"size {sizes[0]} is not the plan's {sizes[1]}; set model.input.resize or model.input.crop"
        self.bad.append(BadRow.of(row.ref, RowError("decode", reason)))
        return None


def pilot_rows(
    listing: Listing,
    spec: DatasetSpec,
    rows: int,
    *,
    image_spec: ImageSpec,
    storage: Storage,
    batch_size: int,
    fold_bytes: Callable[[bytes], int],
    fold_value: Callable[[Any], int],
    threads: int = 1,
    max_row_groups: int = PILOT_ROW_GROUPS,
    max_bytes: int = PILOT_BYTES,
    retry: Retry = RETRY,
) -> Iterator[Batch]:
    """Batches of about `rows` rows spread evenly over all rows that the filter keeps; a function of the
    listing.

    At most `max_row_groups` row groups, and about `max_bytes` of them, are read. Bad rows are left out.
    Raises DatasetError if the filter keeps no row, no image can be decoded, or images differ in size.
    """
    pieces = [piece for file in listing.files for piece in pieces_of(file)]
    kept = _count_kept_in_threads(pieces, spec, storage, retry, threads)
    if not sum(kept):
        raise DatasetError(f"dataset.filter: {dict(spec.filter)} keeps no rows")
    bytes_per_group = sum(file.size for file in listing.files) / len(pieces)
    groups = min(max_row_groups, max(32, int(max_bytes / bytes_per_group)))
    chosen = {pieces[index]: at for index, at in spread(kept, rows, groups).items()}

    def source() -> Iterator[RowGroup | BadRow]:
        for part in read_pieces(tuple(chosen), spec, storage, retry):
            if isinstance(part, BadRow):
                yield part
                continue
            at = chosen[part.piece]
            yield RowGroup(part.piece, part.table.take(at), part.rows[at], 0, part.bytes_read)

    with UnitReader(
        spec,
        image_spec,
        storage,
        batch_size=batch_size,
        fold_bytes=fold_bytes,
        fold_value=fold_value,
        threads=threads,
        retry=retry,
    ) as reader:
        stream = UnitStream(reader, source, name="pilot", strict=True)
        try:
            count = 0
            for batch in stream.batches():
                count += len(batch)
                yield batch
            if not count:
                raise DatasetError(
                    f"dataset.image: none of the pilot's images can be used; the first: {_told(stream.bad)}"
                )
        finally:
            stream.close()


def spread(counts: Sequence[int], rows: int, max_groups: int) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Choose `rows` rows evenly over row groups of `counts` rows: {index of the group: positions in it}.

    If that touches more than `max_groups` groups, as many evenly chosen ones of these give all the rows.
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
    inside = at - (ends - sizes)[group]
    return {int(g): inside[group == g] for g in np.unique(group)}


def _even(total: int, wanted: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`wanted` of 0..total-1 (all, if there are fewer), at the middles of equal parts."""
    wanted = min(total, wanted)
    return (np.arange(wanted, dtype=np.int64) * 2 + 1) * total // (2 * wanted)


def _count_kept_in_threads(
    pieces: Sequence[Piece], spec: DatasetSpec, storage: Storage, retry: Retry, threads: int
) -> list[int]:
    if not spec.filter:
        return [piece.rows for piece in pieces]
    by_file: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_file.setdefault(piece.url, []).append(piece)
    with ThreadPoolExecutor(max(threads, 8), thread_name_prefix="pcace-filter") as pool:
        counts = pool.map(lambda part: count_kept(part, spec, storage, retry), by_file.values())
        return [count for part in counts for count in part]


def _told(bad: Sequence[BadRow]) -> str:
    if not bad:
        return "there is none"
    first = bad[0]
    where = f"row group {first.row_group}" if first.row is None else f"row {first.row}"
    return f"{first.file} {where}: {first.reason}"


def _runs(group: RowGroup, reader: UnitReader) -> Iterator[slice]:
    """Cut a row group into runs of rows that take some milliseconds to decode."""
    count = len(group.rows)
    if not count:
        return
    mean = group.table.column(reader.spec.image).nbytes / count
    step = int(min(CHUNK_ROWS, reader.batch_size, max(1, CHUNK_BYTES // (mean + 1))))
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def _decode_run(group: RowGroup, rows: slice, reader: UnitReader) -> list[_Row | BadRow]:
    spec, piece = reader.spec, group.piece
    table = group.table.slice(rows.start, rows.stop - rows.start)
    count = table.num_rows
    at = group.rows[rows].tolist()
    ids = [f"{piece.key}#{row}" for row in at] if spec.id is None else [str(v) for v in _list(table, spec.id)]
    labels = [None] * count if spec.label is None else _list(table, spec.label)
    groups = [None] * count if spec.group_by is None else [_group(v) for v in _list(table, spec.group_by)]
    columns = [_floats(table.column(name)) for name in spec.columns]
    folds = None if spec.fold_by is None else _list(table, spec.fold_by)
    kept = table.select(kept_columns(spec, table.schema)).to_pylist() if spec.keep else None
    done: list[_Row | BadRow] = []
    for i, data in enumerate(_list(table, spec.image)):
        ref = RowRef(piece.key, piece.row_group, at[i], ids[i])
        try:
            image = decode(data, reader.image_spec).numpy()
            if not reader.channels_last:  # here, in the pool, while the pixels are in the cache
                image = np.ascontiguousarray(image)
        except RowError as error:
            done.append(BadRow.of(ref, error))
            continue
        fold = reader.fold_bytes(data) if folds is None else reader.fold_value(folds[i])
        values = [float(column[i]) for column in columns]
        done.append(_Row(ref, image, fold, labels[i], groups[i], values, None if kept is None else kept[i]))
    return done


def _list(table: pa.Table, name: str) -> list[Any]:
    values: list[Any] = table.column(name).to_pylist()
    return values


def _group(value: Any) -> Any:
    """A NaN equals nothing, so as a group it counts as null."""
    return None if isinstance(value, float) and value != value else value


def _floats(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = column.cast(pa.float64(), safe=False).to_pylist()
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _batch(rows: Sequence[_Row], spec: DatasetSpec, channels_last: bool) -> Batch:
    channels, height, width = rows[0].image.shape
    if channels_last:
        images = np.empty((len(rows), height, width, channels), dtype=np.uint8).transpose(0, 3, 1, 2)
    else:
        images = np.empty((len(rows), channels, height, width), dtype=np.uint8)
    for i, row in enumerate(rows):
        images[i] = row.image  # by numpy: a torch copy would start a thread team of its own here
    labels = (
        None if spec.label is None else np.array([-1 if r.label is None else r.label for r in rows], dtype=np.int64)
    )
    values = np.array([r.values for r in rows], dtype=np.float64).reshape(len(rows), len(spec.columns))
    return Batch(
        images=torch.from_numpy(images),
        refs=tuple(row.ref for row in rows),
        labels=labels,
        groups=None if spec.group_by is None else tuple(row.group for row in rows),
        columns={name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(spec.columns)},
        fold_keys=np.array([row.fold_key for row in rows], dtype=np.uint64),
        kept=tuple(row.kept or {} for row in rows) if spec.keep else None,
    )


class _Channel(Generic[T]):
    """A bounded queue that can be finished by the sender (with an error, if need be) and closed by the
    receiver.

    Items have weights; the sender waits while more than `capacity` are held. get() returns None at the end.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[tuple[T, int]] = deque()
        self._weight = 0
        self._finished = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        return self._closed

    def reserve(self, weight: int) -> bool:
        """Wait until an item of this weight fits; False if the channel was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._weight or self._weight + weight <= self._capacity)
            return not self._closed

    def put(self, item: T, weight: int = 1) -> bool:
        """Add an item when it fits; False if the channel was closed."""
        fits = self.reserve(weight)
        with self._changed:
            if fits and not self._closed:
                self._items.append((item, weight))
                self._weight += weight
                self._changed.notify_all()
                return True
        if isinstance(item, Future):
            item.cancel()
        return False

    def get(self) -> T | None:
        """The next item; None at the end or when closed. Raises the sender's error after the items before
        it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._finished or self._items)
            if self._closed:
                return None
            if self._items:
                item, weight = self._items.popleft()
                self._weight -= weight
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None

    def finish(self, error: BaseException | None = None) -> None:
        """No more items; receivers get `error` after the last."""
        with self._changed:
            self._finished, self._error = True, self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        """Drop all items and wake everybody."""
        with self._changed:
            self._closed = True
            for item, _ in self._items:
                if isinstance(item, Future):
                    item.cancel()
            self._items.clear()
            self._weight = 0
            self._changed.notify_all()
