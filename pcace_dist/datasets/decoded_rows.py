"""Decoded rows: a slice of one row group whose images are decoded straight into the memory of a batch.

Everything but the pixels is read column by column, not row by row. No threads, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch.utils.dlpack import from_dlpack

from pcace_dist.datasets.columns import DatasetSpec, kept_columns
from pcace_dist.datasets.device_images import DeviceDecoder
from pcace_dist.datasets.formats import Encoded
from pcace_dist.datasets.groups import group_of
from pcace_dist.datasets.images import ImageSpec, Pixels, pixels
from pcace_dist.datasets.row_groups import RowGroup
from pcace_dist.datasets.rows import BadRow, RowRef
from pcace_dist.datasets.values.labels import NOT_WHOLE
from pcace_dist.errors import RowError

ROWS_BYTES = 1 << 20  # encoded images of a slice; with 256 KiB, the overhead was 5 % of decoding photographs
DEVICE_ROWS_BYTES = 16 << 20  # the same where a device decodes many images at a time
RUN_ROWS = 64
VIEWED = 4096  # mean bytes of an image, from which images are viewed in Arrow's memory and not copied

T = TypeVar("T")


class BatchBuffer:
    """The memory of one batch: `images` uint8 or another type (rows, C, H, W), on the host, or on the device that
    decodes."""

    def __init__(
        self,
        rows: int,
        shape: tuple[int, int, int],
        *,
        dtype: torch.dtype = torch.uint8,
        channels_last: bool = False,
        pinned: bool = False,
        device: torch.device | None = None,
    ) -> None:
        channels, height, width = self.shape = shape
        size = (rows, height, width, channels) if channels_last else (rows, *shape)
        memory = torch.empty(size, dtype=dtype, pin_memory=pinned, device=device)
        self.images = memory.permute(0, 3, 1, 2) if channels_last else memory
        # on the host numpy copies: a copy by torch would start its own threads
        self._array: Pixels | None = self.images.numpy() if device is None else None

    def put(self, row: int, image: Pixels | torch.Tensor) -> None:
        """Store one image (C, H, W) of the buffer's shape."""
        if self._array is not None:
            self._array[row] = image
        else:
            self.images[row].copy_(torch.as_tensor(image))

    def put_rows(self, row: int, other: BatchBuffer, start: int, stop: int) -> None:
        """Store rows [start, stop) of another buffer of the same kind."""
        if self._array is not None and other._array is not None:
            self._array[row : row + stop - start] = other._array[start:stop]
        else:
            self.images[row : row + stop - start].copy_(other.images[start:stop])


@dataclass(frozen=True)
class Folds:
    """The functions that compute fold keys: from an image's bytes, or from a row's value of `fold_by`."""

    of_bytes: Callable[[Encoded], int]
    of_value: Callable[[Any], int]


@dataclass(frozen=True, eq=False)
class Misfit:
    """A good image whose size (height, width) differs from the others'."""

    ref: RowRef
    size: tuple[int, int]


@dataclass(eq=False)
class DecodedRows:
    """The good rows of a slice, in order, and the rows that were set aside.

    The images are the rows of `buffer` from `start` on. labels: -1 where null; values: float64 by column, NaN where
    null, then the columns of vectors, None where null. Columns that the job does not need are empty.
    """

    buffer: BatchBuffer | None
    start: int
    refs: list[RowRef]
    fold_keys: list[int]
    labels: list[int] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)
    values: list[np.ndarray[Any, Any]] = field(default_factory=list)
    kept: list[Mapping[str, Any]] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    misfit: Misfit | None = None
    mislabelled: tuple[RowRef, str] | None = None

    def __len__(self) -> int:
        return len(self.refs)


def cut(
    group: RowGroup, image: str, batch_size: int, at: int, threads: int = 1, run_bytes: int = ROWS_BYTES
) -> Iterator[slice]:
    """Slices of a row group, for the decoding threads. `at`: position of its first row in the unit.

    A slice takes some milliseconds and never spans two batches; a full batch has at least one slice for each thread.
    The length of the slices does not affect the result.
    """
    count = len(group.rows)
    if not count:
        return
    mean = group.table.column(image).nbytes / count
    step = int(max(1, min(RUN_ROWS, batch_size // threads, run_bytes // (mean + 1))))
    start = 0
    while start < count:
        room = batch_size - (at + start) % batch_size
        stop = min(count, start + step, start + room)
        yield slice(start, stop)
        start = stop


def first_shape(group: RowGroup, spec: DatasetSpec, image_spec: ImageSpec) -> tuple[int, int, int] | None:
    """Shape (C, H, W) of the first image that can be decoded; None where there is none."""
    for data in group.table.column(spec.image):
        try:
            channels, height, width = pixels(data.as_py(), image_spec).shape
        except RowError:
            continue
        return channels, height, width
    return None


def decode_rows(
    group: RowGroup,
    rows: slice,
    spec: DatasetSpec,
    image_spec: ImageSpec,
    folds: Folds,
    buffer: BatchBuffer | None,
    start: int,
    decoder: DeviceDecoder | None = None,
) -> DecodedRows:
    """Decode some rows into `buffer` from row `start` on. Without a buffer every row is set aside.

    With a `decoder`, images are decoded on its device, where `buffer` must be too; call this inside `decoder.working`.
    """
    table = group.table.slice(rows.start, rows.stop - rows.start)
    refs = _refs(group, rows, table, spec)
    fold_values = None if spec.fold_by is None else _list(table, spec.fold_by)
    decoded = DecodedRows(buffer, start, [], [])
    good: list[int] = []
    at = start
    labels, no_class = (None, {}) if spec.label is None else spec.labelling.indices(table.column(spec.label))
    mistakes = [i for i, reason in no_class.items() if spec.labelling.needed or NOT_WHOLE in reason]
    decoded.mislabelled = (refs[mistakes[0]], no_class[mistakes[0]]) if mistakes else None
    files = encoded_images(table.column(spec.image))
    images = _on_host(files, image_spec) if decoder is None else decoder.images(files, image_spec)
    for i, (data, image) in enumerate(zip(files, images, strict=True)):
        if isinstance(image, RowError):
            decoded.bad.append(BadRow.of(refs[i], image))
            continue
        if spec.labelling.needed and i in no_class:
            decoded.bad.append(BadRow.of(refs[i], RowError("target", no_class[i])))
            continue
        if buffer is None or image.shape != buffer.shape:
            _set_aside(decoded, refs[i], image.shape, buffer)
            continue
        buffer.put(at, image)
        at += 1
        good.append(i)
        assert data is not None
        decoded.fold_keys.append(folds.of_bytes(data) if fold_values is None else folds.of_value(fold_values[i]))
    all_good = len(good) == len(refs)

    def usable(values: list[T]) -> list[T]:
        return values if all_good else [values[i] for i in good]

    decoded.refs = usable(refs)
    if labels is not None:
        decoded.labels = usable(labels.tolist())
    if spec.group_by is not None:
        decoded.groups = [group_of(value) for value in usable(_list(table, spec.group_by))]
    decoded.values = [_floats(table.column(name))[good] for name in spec.columns]
    decoded.values += [_vectors(table.column(name))[good] for name in spec.vectors]
    if spec.keep:
        decoded.kept = usable(table.select(kept_columns(spec, table.schema)).to_pylist())
    return decoded


def _on_host(files: Iterable[Encoded | None], spec: ImageSpec) -> Iterator[Pixels | RowError]:
    """Each image in turn, or the reason why it is set aside."""
    for data in files:
        try:
            yield pixels(data, spec)
        except RowError as error:
            yield error


def encoded_images(column: pa.ChunkedArray) -> list[Encoded | None]:
    """The images as stored, None for nulls; views of Arrow's memory where copies would cost more."""
    if column.nbytes < VIEWED * len(column):
        copies: list[Encoded | None] = column.to_pylist()
        return copies
    return [image for chunk in column.chunks for image in _views(chunk)]


def _views(chunk: pa.Array) -> list[Encoded | None]:
    _, offsets, data = chunk.buffers()
    if data is None:
        copies: list[Encoded | None] = chunk.to_pylist()
        return copies
    offset_type = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
    ends = np.frombuffer(offsets, offset_type)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
    # by DLPack: numpy marks Arrow's buffer as read-only, and torch warns of such memory
    content = from_dlpack(pa.Array.from_buffers(pa.uint8(), data.size, [None, data])).numpy().data
    valid = chunk.is_valid().to_pylist() if chunk.null_count else [True] * len(chunk)
    return [content[ends[i] : ends[i + 1]] if valid[i] else None for i in range(len(chunk))]


def _refs(group: RowGroup, rows: slice, table: pa.Table, spec: DatasetSpec) -> list[RowRef]:
    key, row_group = group.ref.key, group.ref.row_group
    row_numbers = group.rows[rows].tolist()
    ids = (
        [f"{key}#{row}" for row in row_numbers] if spec.id is None else [str(value) for value in _list(table, spec.id)]
    )
    return [RowRef(key, row_group, row, name) for row, name in zip(row_numbers, ids, strict=True)]


def _set_aside(decoded: DecodedRows, ref: RowRef, shape: Sequence[int], buffer: BatchBuffer | None) -> None:
    """Set aside an image whose size is not the plan's."""
    size = (shape[1], shape[2])
    expected = size if buffer is None else buffer.shape[1:]
    decoded.misfit = decoded.misfit or Misfit(ref, size)
    reason = (
        f"size {size[1]}x{size[0]} is not the plan's {expected[1]}x{expected[0]}; "
        "set model.input.resize or model.input.crop"
    )
    decoded.bad.append(BadRow.of(ref, RowError("decode", reason)))


def _list(table: pa.Table, name: str) -> list[Any]:
    values: list[Any] = table.column(name).to_pylist()
    return values


def _floats(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = column.cast(pa.float64(), safe=False).to_pylist()
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _vectors(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.object_]]:
    """For each row its vector, float64 (E,) with NaN for nulls in it, or None where the row is null."""
    vectors = np.empty(len(column), dtype=object)
    for row, scalar in enumerate(column):
        if scalar.is_valid:
            vectors[row] = scalar.values.to_numpy(zero_copy_only=False).astype(np.float64)
    return vectors


def gather_images(parts: Sequence[tuple[DecodedRows, int, int]], make: Callable[[], BatchBuffer]) -> torch.Tensor:
    """The images of rows [start, stop) of each part. A view where they fill a buffer from its beginning without gaps;
    else a copy (some rows were set aside).
    """
    buffer, count = parts[0][0].buffer, 0
    for run, start, stop in parts:
        if run.buffer is not buffer or run.start + start != count:
            break
        count += stop - start
    else:
        assert buffer is not None
        return buffer.images[:count]
    copy, count = make(), 0
    for run, start, stop in parts:
        assert run.buffer is not None
        copy.put_rows(count, run.buffer, run.start + start, run.start + stop)
        count += stop - start
    return copy.images[:count]
