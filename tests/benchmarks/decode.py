"""Reading and decoding against bare decoding, on one core: photographs, small PNGs, and photographs of 12 megapixels.

    python -m tests.benchmarks.decode [--repeats 5]

Bare: the image's bytes lie in memory, torchvision decodes, resizes and crops, the result is dropped. Ours: from the
Parquet file to finished batches with fold keys, in a worker's threads. Interleaved; prints, asserts nothing.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, PngImagePlugin
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from pcace_dist.datasets.batches import UnitReader
from pcace_dist.datasets.images import ImageSpec, decode, scale_of
from pcace_dist.datasets.listing import DatasetSpec, list_dataset
from pcace_dist.datasets.storage import Storage
from pcace_dist.datasets.units import make_units
from pcace_dist.service.allocator import keep_memory
from pcace_dist.statistics.folds import key_of_bytes, key_of_value
from tests.datasets.test_images import photograph

RESNET = ImageSpec(resize=256, crop=224)
DIGITS = ImageSpec(mode="L")


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def bare_photo(data: bytes) -> None:
    image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    functional.center_crop(functional.resize(image, [256], antialias=True), [224, 224])


def bare_png(data: bytes) -> None:
    np.asarray(PngImagePlugin.PngImageFile(io.BytesIO(data)))


def reading(folder: Path, images: Sequence[bytes], spec: ImageSpec, *, channels_last: bool) -> Callable[[], None]:
    """From a Parquet file of these images to batches."""
    folder.mkdir()
    pq.write_table(pa.table({"image": pa.array(images, pa.binary())}), folder / "a.parquet", row_group_size=256)
    data = DatasetSpec(path=(str(folder),))
    (unit,) = make_units(list_dataset(data, Storage({})), len(images))

    def work() -> None:
        with UnitReader(
            data,
            spec,
            Storage({}),
            batch_size=32,
            fold_bytes=key_of_bytes,
            fold_value=key_of_value,
            channels_last=channels_last,
        ) as reader:
            assert sum(len(batch) for batch in reader.batches(unit)) == len(images)

    return work


def micros(work: Callable[[], object], images: int) -> float:
    start = time.perf_counter()
    work()
    return 1e6 * (time.perf_counter() - start) / images


def compare(name: str, images: Sequence[bytes], bare: Callable[[], object], ours: Callable[[], object], n: int) -> None:
    pairs = [(micros(bare, len(images)), micros(ours, len(images))) for _ in range(n + 1)][1:]
    one, two = (median(column) for column in zip(*pairs, strict=True))
    print(f"{name:34s} bare {one:9.1f} us   ours {two:9.1f} us   ratio {median(b / o for b, o in pairs):.3f}")


def difference(data: bytes) -> tuple[float, int, int]:
    """Mean and largest difference of scaled decoding from the whole image, of 255; and the scale."""
    whole, scaled = (decode(data, replace(RESNET, scaled_decode=how)).int() for how in (False, True))
    apart = (whole - scaled).abs()
    size = Image.open(io.BytesIO(data)).size
    return float(apart.float().mean()), int(apart.max()), scale_of(size[1], size[0], RESNET)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.decode", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    keep_memory()
    photos = [encoded(photograph(500, 375, seed), "JPEG", quality=85) for seed in range(256)]
    random = np.random.default_rng(0)
    blobs = [np.outer(*(np.hanning(28) ** random.uniform(1, 6) for _ in range(2))) for _ in range(2048)]
    digits = [encoded(Image.fromarray((255 * blob).astype(np.uint8)), "PNG") for blob in blobs]
    large = [encoded(photograph(4000, 3000, seed), "JPEG", quality=90) for seed in range(2)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, last in (("contiguous", False), ("channels-last", True)):
            ours = reading(folder / label, photos, RESNET, channels_last=last)
            compare(f"500x375 JPEG, {label}", photos, lambda: deque(map(bare_photo, photos), 0), ours, repeats)
        ours = reading(folder / "digits", digits, DIGITS, channels_last=True)
        compare("28x28 PNG", digits, lambda: deque(map(bare_png, digits), 0), ours, repeats)
    compare(
        "4000x3000 JPEG, scaled, decode only",
        large,
        lambda: deque(map(bare_photo, large), 0),
        lambda: [decode(data, RESNET) for data in large],
        repeats,
    )
    for data in large:
        mean, most, scale = difference(data)
        print(f"4000x3000 at 1/{scale}: mean difference {mean:.2f}, largest {most} of 255")


if __name__ == "__main__":
    main()
