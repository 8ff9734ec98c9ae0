"""Rows that are in memory: images and labels of any iterable, packed as they come. Each is read once.

Tensors are stored as the model takes them (datasets/decoding/tensors.py), images as PNG. A shard is named by its place
and its content, so that packing the same rows again finds them there.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import Dataset

from pcace_dist.datasets.decoding.tensors import encode_array
from pcace_dist.errors import DatasetError
from pcace_dist.packing.shards import SHARD_BYTES, PackTask, ShardLimits, layout_of, write_task
from pcace_dist.packing.source import IMAGE_TYPE, Row, Source
from pcace_dist.storage.files import Storage, split

LABEL, VALUE = "label", "value"  # columns: of classes, of numbers
COLUMNS = {int: (LABEL, pa.int64()), str: (LABEL, pa.string()), float: (VALUE, pa.float64())}
TAKEN = "(image, label) pairs, or batches of them, are taken, from any iterable, Dataset or DataLoader"
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
CHANNELS = (1, 3, 4)  # of uint8 arrays
BATCHED = 4  # axes
NO_IMAGE = {"bytes": {"dtype": "binary", "_type": "Value"}, "path": {"dtype": "string", "_type": "Value"}}

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class MemoryRows:
    """The rows of an iterable. The first says what all are.

    as_images: whether they are PIL images or uint8 arrays; else they are float tensors of `shape` (C, H, W). label: the
    type of the labels, int, str or float; None where there are none.
    """

    pairs: Iterator[Pair]
    as_images: bool
    shape: tuple[int, ...]
    label: type | None

    @classmethod
    def of(cls, dataset: Iterable[Any] | Dataset[Any], *, as_images: bool) -> MemoryRows:
        """Raises DatasetError for an iterable without rows, or whose first row is not taken."""
        pairs = pairs_of(dataset)
        first = next(pairs, None)
        if first is None:
            raise DatasetError(f"dataset: gives no rows; {TAKEN}")
        label = _label(first[1], 0)
        shape = () if as_images else _array(first[0], 0).shape
        return cls(chain([first], pairs), as_images, shape, None if label is None else type(label))

    @property
    def column(self) -> str | None:
        """The column with the labels."""
        return None if self.label is None else COLUMNS[self.label][0]

    @property
    def source(self) -> Source:
        fields = [pa.field("image", IMAGE_TYPE)] + ([] if self.label is None else [pa.field(*COLUMNS[self.label])])
        features = {} if self.as_images else {"image": NO_IMAGE}
        return Source("memory", pa.schema(fields), (), (), lambda *_: self, counted=False, features=features)

    def rows(self, storage: Storage) -> Iterator[Row]:  # noqa: ARG002 (the interface's)
        """Raises DatasetError for a row that is not as the first."""
        for number, (image, label) in enumerate(self.pairs):
            data = encode_image(image, number) if self.as_images else encode_array(self._same(image, number))
            cell = self._checked(label, number)
            yield Row(str(number), data, {} if self.column is None else {self.column: cell})

    def _same(self, image: Any, number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        array = _array(image, number)
        if array.shape != self.shape:
            raise DatasetError(
                f"dataset: row {number} is of shape {array.shape}, the first of {self.shape}; bring all to one size"
            )
        return array

    def _checked(self, value: Any, number: int) -> int | float | str | None:
        label = _label(value, number)
        if label is None or type(label) is self.label:
            return label
        if self.label is float and isinstance(label, int):
            return float(label)
        raise DatasetError(f"dataset: the label of row {number} is {label!r}, the first row's is {self._kind}")

    @property
    def _kind(self) -> str:
        return "None" if self.label is None else f"of type {self.label.__name__}"


def pack_rows(rows: MemoryRows, dest: str, storage: Storage, on_row: Callable[[], object] = lambda: None) -> list[str]:
    """Write the rows as shards into `dest` and return the shards' paths, in order. Raises DatasetError, OSError."""
    local = split(dest)[0] == "file"
    if local:
        os.makedirs(dest, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=dest if local else None) as scratch:
        layout = layout_of(rows.source, ShardLimits(), None)
        task = PackTask("shard", 0, 0, divide_bytes=SHARD_BYTES)
        written = write_task(task, rows, layout, scratch, storage, on_row)
        return [_kept(f"{scratch}/{shard.name}", dest, number, storage) for number, shard in enumerate(written.shards)]


def _kept(path: str, dest: str, number: int, storage: Storage) -> str:
    """Move a shard to its name, unless it is there."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    url = f"{dest.rstrip('/')}/{number:05d}-{digest[:16]}.parquet"
    if storage.stat(url) is None:
        storage.put_file(path, url)
    return url


# -- rows


def pairs_of(dataset: Iterable[Any] | Dataset[Any]) -> Iterator[Pair]:
    """Image and label of each row; None where there is no label. Batches are taken apart."""
    for item in _iterated(dataset):
        yield from _pairs(*_pair(item))


def _iterated(dataset: Any) -> Iterable[Any]:
    if hasattr(dataset, "__iter__"):
        return cast(Iterable[Any], dataset)
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):  # map-style: it need not end by IndexError
        return map(dataset.__getitem__, range(len(dataset)))
    raise DatasetError(f"dataset: is {type(dataset).__name__}, which cannot be iterated over; {TAKEN}")


def _pair(item: Any) -> Pair:
    if isinstance(item, Mapping):
        keys = ", ".join(map(str, item))
        raise DatasetError(
            f"dataset: gives mappings (keys {keys}); {TAKEN}: for example "
            '((row["image"], row["label"]) for row in dataset)'
        )
    if not isinstance(item, tuple | list):
        return item, None
    if len(item) not in (1, 2):
        raise DatasetError(f"dataset: gives {type(item).__name__}s of {len(item)} values; {TAKEN}")
    return item[0], item[1] if len(item) == 2 else None


def _pairs(images: Any, labels: Any) -> Iterator[Pair]:
    """The rows of a batch, or the one row."""
    if len(getattr(images, "shape", ())) != BATCHED:
        yield images, labels
        return
    if labels is not None and len(labels) != len(images):
        raise DatasetError(f"dataset: a batch has {len(images)} images and {len(labels)} labels")
    yield from zip(images, repeat(None) if labels is None else labels, strict=False)


def _array(image: Any, number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A float tensor or array as float32 (C, H, W)."""
    tensor = torch.from_numpy(image) if isinstance(image, np.ndarray) else image
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        raise DatasetError(
            f"dataset: row {number} is {_said(image)}; float tensors (C, H, W) are taken as they are, and images with "
            "`input`, which says what the model takes: for example input={'resize': 256, 'crop': 224}, or 'auto'"
        )
    if tensor.dim() != BATCHED - 1:
        shape = tuple(tensor.shape)
        raise DatasetError(f"dataset: row {number} is of shape {shape}, where (C, H, W) is wanted; {TAKEN}")
    return tensor.detach().to("cpu", torch.float32).numpy()


def encode_image(image: Any, number: int) -> bytes:
    """The PNG of a PIL image, or of a uint8 array (H, W), (H, W, C) or tensor (C, H, W)."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(_pixels(image, number))
    stream = io.BytesIO()
    (picture if picture.mode in PNG_MODES else picture.convert("RGB")).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _pixels(image: Any, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    array = image.permute(1, 2, 0).numpy() if isinstance(image, torch.Tensor) and image.dim() == 3 else image
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise DatasetError(
            f"dataset: row {number} is {_said(image)}; with `input`, PIL images, uint8 arrays (H, W, C) and uint8 "
            "tensors (C, H, W) are taken; leave `input` out for tensors that the model takes as they are"
        )
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in CHANNELS):
        raise DatasetError(f"dataset: row {number} is of shape {image.shape}, where (H, W) or (H, W, C) is wanted")
    return np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array)


def _said(image: Any) -> str:
    kind = type(image).__name__
    return f"{image.dtype} {kind}" if hasattr(image, "dtype") else f"a {kind}"


def _label(value: Any, number: int) -> int | float | str | None:
    """A label as Python has it."""
    if hasattr(value, "item"):
        shape = tuple(getattr(value, "shape", ()))
        if shape not in ((), (1,)):
            raise DatasetError(f"dataset: the label of row {number} is of shape {shape}; one value a row is taken")
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, int | float | str):
        return value
    raise DatasetError(
        f"dataset: the label of row {number} is a {type(value).__name__}; a class (int, str), a number (float) or None "
        "is taken"
    )
