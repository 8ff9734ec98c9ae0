"""MNIST's idx files: a header of big-endian sizes, then the values.

Source: the description on the page of the MNIST database (LeCun, Cortes, Burges).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pcace_dist.datasets.paths import Skipped, identity_of, parent_of, utf8_name
from pcace_dist.datasets.walk import Walked
from pcace_dist.errors import DatasetError
from pcace_dist.packing.source import IMAGE_TYPE, Request, Row, Source, is_one_file
from pcace_dist.storage.files import Storage, StoredFile

IMAGES = "-images-idx3-ubyte"
LABELS = "-labels-idx1-ubyte"

GZIP = b"\x1f\x8b"
KINDS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(data: bytes, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """The array in the bytes of an idx file, gzipped or plain. Raises DatasetError that names the file `name`."""
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            raise DatasetError(f"{name}: broken gzip file") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in KINDS or len(data) < 4 + 4 * data[3]:
        raise DatasetError(f"{name}: not an idx file")
    dtype, axes = np.dtype(KINDS[data[2]]), data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, dtype=">u4", count=axes, offset=4))
    start = 4 + 4 * axes
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(data) - start != expected:
        raise DatasetError(f"{name}: {len(data) - start} bytes of values where the header says {expected}")
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)


def open_idx(walked: Walked, request: Request) -> Source:
    """MNIST idx files, gzipped or plain: images as PNG, and labels; with more than one set, also a column `split`."""
    source, storage = request.path, request.storage
    files = [found_file.file for found_file in walked.files]
    by_name = {idx_stem(f.url): f for f in files}
    is_one = is_one_file(files, source)
    if is_one:  # the other file lies beside it
        beside = storage.list(parent_of(source))
        by_name = {
            idx_stem(f.url): f
            for f in beside
            if idx_stem(f.url).partition("-")[0] == idx_stem(source).partition("-")[0]
        }
    names = sorted(name.removesuffix(IMAGES) for name in by_name if name.endswith(IMAGES))
    if not names:
        raise DatasetError(f"{source}: holds no idx images (like train{IMAGES}.gz)")
    for name in names:
        if name + LABELS not in by_name:
            raise DatasetError(f"{source}: no {name}{LABELS} beside {name}{IMAGES}")
    sets, sizes = [], []
    for name in names:
        idx_set = IdxSet(utf8_name(name), by_name[name + IMAGES].url, by_name[name + LABELS].url)
        images, labels = idx_set.read(storage)
        if len(images) != len(labels):
            raise DatasetError(f"{source}: {len(images)} images but {len(labels)} labels in {name}")
        sets.append(replace(idx_set, count=len(images)))
        sizes += [images[0].size if len(images) else 0] * len(images)
    fields = [pa.field("image", IMAGE_TYPE), pa.field("label", pa.int64())]
    fields += [pa.field("split", pa.string())] if len(sets) > 1 else []
    used = [by_name[name + suffix] for name in names for suffix in (IMAGES, LABELS)]
    return Source(
        "mnist",
        pa.schema(fields),
        identity_of(used, source),
        sizes,
        lambda start, stop: IdxSlice(tuple(sets), start, stop),
        notes=walked.notes,
        left_out=walked.left_out if is_one else (*walked.left_out, *_no_idx(walked, used)),
    )


def _no_idx(walked: Walked, used: Sequence[StoredFile]) -> Iterator[Skipped]:
    urls = {file.url for file in used}
    for found in walked.files:
        if found.file.url not in urls:
            yield Skipped(found.key, "not an idx file of the images and labels")


@dataclass(frozen=True)
class IdxSet:
    """A file of images, the file of their labels, and their number."""

    name: str
    images: str
    labels: str
    count: int = 0

    def read(self, storage: Storage) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return _read_idx(self.images, 3, "images", storage), _read_idx(self.labels, 1, "labels", storage)


@dataclass(frozen=True)
class IdxSlice:
    """Images `start` to `stop` of all sets, one set after another."""

    sets: tuple[IdxSet, ...]
    start: int
    stop: int

    def rows(self, storage: Storage) -> Iterator[Row | Skipped]:
        before = 0
        for idx_set in self.sets:
            first, last = max(0, self.start - before), min(idx_set.count, self.stop - before)
            before += idx_set.count
            if first >= last:
                continue
            images, labels = idx_set.read(storage)
            extra = {"split": idx_set.name} if len(self.sets) > 1 else {}
            for index in range(first, last):
                buffer = io.BytesIO()
                Image.fromarray(images[index]).save(buffer, "PNG")
                cells = {"label": int(labels[index]), **extra}
                yield Row(f"{idx_set.name}/{index:05d}.png", buffer.getvalue(), cells)


def _read_idx(url: str, axes: int, content: str, storage: Storage) -> np.ndarray[Any, Any]:
    array = read_idx(storage.read_bytes(url), url)
    if array.ndim != axes or array.dtype.itemsize != 1:
        raise DatasetError(f"{url}: not {content} of MNIST's kind")
    return array


def idx_stem(url: str) -> str:
    return url.rpartition("/")[2].removesuffix(".gz").replace(".idx", "-idx")
