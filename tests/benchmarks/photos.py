"""Photographs to measure with: generated ones that compress as photographs do, or real ones from Parquet files.

Generated: 1/f noise, the spectrum of natural images (Field 1987), as JPEGs of 500 x 375. At 108 KB on average they
are as large as those of ImageNet (110 KB).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WIDTH, HEIGHT = 500, 375
ROW_GROUP = 32
FILE_ROWS = 128


def write_photos(
    folder: Path,
    count: int,
    *,
    source: Path | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    file_rows: int = FILE_ROWS,
) -> Path:
    """Parquet files with columns `image` (JPEG) and `id` (int64): the first `count` of `source`, over and over where
    it has fewer, else generated ones of `size` (width, height)."""
    folder.mkdir(parents=True)
    held = list(_read(source, count)) if source is not None else list(_generated(count, size))
    images = [held[i % len(held)] for i in range(count)]
    for first in range(0, count, file_rows):
        part = images[first : first + file_rows]
        ids = range(first, first + len(part))
        table = pa.table({"image": pa.array(part, pa.binary()), "id": pa.array(ids, pa.int64())})
        pq.write_table(table, folder / f"part-{first // file_rows:05d}.parquet", row_group_size=ROW_GROUP)
    return folder


def _read(source: Path, count: int) -> Iterator[bytes]:
    """JPEGs of a column `image`, binary or a struct with `bytes`."""
    left = count
    for file in sorted(source.glob("**/*.parquet")):
        for value in pq.read_table(file, columns=["image"])["image"].to_pylist():
            if not left:
                return
            left -= 1
            yield value["bytes"] if isinstance(value, dict) else value
    if left == count:
        raise ValueError(f"--photos {source}: holds no Parquet file with a column image")


def _generated(count: int, size: tuple[int, int], different: int = 64) -> Iterator[bytes]:
    """At most `different` ones: making one takes as long as decoding ten."""
    random = np.random.default_rng(0)
    for _ in range(min(count, different)):
        sink = io.BytesIO()
        Image.fromarray(_natural(random, *size)).save(sink, "JPEG", quality=90)
        yield sink.getvalue()


def _natural(random: np.random.Generator, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Noise with amplitudes falling as 1/f, channels that go together."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(random.standard_normal((3, height, width)))
    planes = np.fft.irfft2(noise / frequency, s=(height, width))
    grey = planes[:1] + 0.2 * planes
    levels = 128 + 45 * (grey - grey.mean()) / grey.std()
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8).transpose(1, 2, 0))
