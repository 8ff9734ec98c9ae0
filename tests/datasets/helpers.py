"""Small real files for the tests of the data room: images of all kinds, shards, a storage that fails on order."""

from __future__ import annotations

import io
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.images import ImageSpec
from pcace_dist.datasets.listing import Listing, list_dataset
from pcace_dist.datasets.loader import Batch, LoaderOptions, UnitReader
from pcace_dist.storage.files import Storage, StoredFile
from pcace_dist.storage.retry import Patience


def picture(seed: int, width: int = 12, height: int = 10, mode: str = "RGB") -> Image.Image:
    """A random picture."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int, width: int = 12, height: int = 10, mode: str = "RGB") -> bytes:
    return encoded(picture(seed, width, height, mode))


def shard(
    path: Path,
    images: Sequence[bytes | None],
    *,
    row_group: int = 4,
    struct: bool = True,
    **columns: Any,
) -> Path:
    """A Parquet file with these images and columns."""
    if struct:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        cells = [None if data is None else {"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
        column = pa.array(cells, kind)
    else:
        column = pa.array(images, pa.binary())
    arrays = {name: v if isinstance(v, pa.Array) else pa.array(v) for name, v in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": column, **arrays}), path, row_group_size=row_group)
    return path


def dataset(root: Path, files: int = 3, rows: int = 10, row_group: int = 4) -> Path:
    """Shards with labels 0..9 in turn, a unique name, a street per three rows and a float `no2`; images of 12 x 10."""
    for f in range(files):
        at = range(f * rows, (f + 1) * rows)
        shard(
            root / f"part-{f:05d}.parquet",
            [png(i) for i in at],
            row_group=row_group,
            label=[i % 10 for i in at],
            name=[f"n{i}" for i in at],
            street=[i // 3 for i in at],
            no2=[i / 2 for i in at],
        )
    return root


def spec_of(path: Path | str, **changes: Any) -> DatasetSpec:
    return DatasetSpec(path=[str(path)], **changes)


def listed(path: Path | str, **changes: Any) -> tuple[DatasetSpec, Listing]:
    spec = spec_of(path, **changes)
    return spec, list_dataset(spec, Storage())


def reader_of(spec: DatasetSpec, storage: Storage | None = None, **changes: Any) -> UnitReader:
    settings: dict[str, Any] = {
        "batch_size": 4,
        "fold_bytes": lambda data: len(data) % 16,
        "fold_value": lambda value: 0 if value is None else int(value) % 16,
        **changes,
    }
    images = settings.pop("image_spec", ImageSpec())
    return UnitReader(LoaderOptions(spec, images, storage or Storage(), **settings))


def ids(batches: Sequence[Batch]) -> list[str]:
    return [ref.id for batch in batches for ref in batch.refs]


def our_threads(others: Collection[int | None] = ()) -> list[str]:
    """Names of threads of the data room that are alive, but for those of others: whole jobs that other tests ran in
    this process leave some until they are collected."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("pcace-") and thread.ident not in others
    ]


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def patience(seconds: float = 900.0, *, begun: bool = True) -> Patience:
    """A patience that takes no time."""
    clock = Clock()
    return Patience(seconds, begun, clock=clock, sleep=clock.sleep)


class FailingStorage(Storage):
    """Fails the first `times` reads of files whose path ends with `name`."""

    def __init__(self, times: int, name: str = "", error: Exception | None = None, seconds: float = 900.0) -> None:
        super().__init__(patience=patience(seconds))
        self.times, self.name = times, name
        self.error = error or OSError("connection reset by peer")
        self.reads = 0

    def _read(self, file: StoredFile, start: int, length: int) -> bytes:
        self.reads += 1
        if file.url.endswith(self.name) and self.times > 0:
            self.times -= 1
            raise self.error
        return super()._read(file, start, length)


class GarblingStorage(Storage):
    """Gives zeros for the first `times` reads of row groups (not of footers) of files whose path ends with `name`."""

    def __init__(self, times: int, name: str = "") -> None:
        super().__init__(patience=patience())
        self.times, self.name = times, name

    def _read(self, file: StoredFile, start: int, length: int) -> bytes:
        data = super()._read(file, start, length)
        if file.url.endswith(self.name) and start + length < file.size and self.times > 0:
            self.times -= 1
            return bytes(length)
        return data
