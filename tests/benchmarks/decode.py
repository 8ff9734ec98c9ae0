"""Reading and decoding against bare decoding, on one core: photographs, small PNGs, and photographs of 12 megapixels.

Bare: the image's bytes lie in memory, torchvision decodes, resizes and crops, the result is dropped. Ours: from the
Parquet file to finished batches with fold keys, in a worker's threads. Files are as `pcace pack` writes them: images
not compressed, pages with checksums; and once as pyarrow does by default, in snappy. Of the large photographs the
decoder alone is measured: at a half, a quarter or an eighth against whole.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, PngImagePlugin

from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.images import ImageSpec, decode, image_size, scale_of
from pcace_dist.datasets.listing import list_dataset
from pcace_dist.datasets.loader import LoaderOptions, UnitReader
from pcace_dist.datasets.units import make_units
from pcace_dist.statistics.folds import FOLD_HASH, fold_hash, key_of_value
from pcace_dist.storage.files import Storage
from pcace_dist.worker.allocator import keep_memory
from tests.benchmarks.harness import Answer, Settings, Value, take_turns, timed
from tests.benchmarks.main_pass import bare_decode, stored
from tests.benchmarks.photos import write_photos
from tests.datasets.test_images import photograph

TITLE = "from the file to batches against bare decoding, one core (ms an image)"
RESNET = ImageSpec(resize=256, crop=224)
DIGITS = ImageSpec(mode="L")
ROW_GROUP_BYTES = 16 << 20
PACKED = {"compression": "NONE", "use_dictionary": False, "write_page_checksum": True}  # as packing/shards.py

Works = dict[str, Callable[[], float]]


def ask(settings: Settings) -> Answer:
    """Photographs in both layouts, digits, and what decoding at a fraction gains and costs."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    keep_memory()
    photos = stored(write_photos(settings.scratch / "photos", settings.pick(64, 256), source=settings.photos))
    digits = _digits(settings.pick(512, 4096))
    layouts: dict[str, tuple[bool, dict[str, Any]]] = {
        "contiguous": (False, PACKED),
        "channels-last": (True, PACKED),
        "channels-last, snappy": (True, {}),
    }
    works: dict[str, tuple[Sequence[bytes], Works]] = {
        f"photographs, {name}": (
            photos,
            {
                "bare": timed(lambda: dropped(bare_photo, photos)),
                "ours": timed(reading(settings.scratch / name, photos, RESNET, channels_last=last, written=written)),
            },
        )
        for name, (last, written) in layouts.items()
    }
    works["28 x 28 PNG"] = (
        digits,
        {
            "bare": timed(lambda: dropped(bare_png, digits)),
            "ours": timed(reading(settings.scratch / "digits", digits, DIGITS, channels_last=True)),
        },
    )
    large = [encoded(photograph(4000, 3000, seed), "JPEG", quality=90) for seed in range(2)]
    works["4000 x 3000 JPEG, decoder alone"] = (
        large,
        {
            "bare": timed(lambda: dropped(bare_photo, large)),
            "ours": timed(lambda: dropped(partial(decode, spec=RESNET), large)),
        },
    )
    lines = {case: _line(images, turns, settings.repeats) for case, (images, turns) in works.items()}
    return Answer(lines, notes=[_difference(data) for data in large])


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _digits(count: int) -> list[bytes]:
    """Blobs of 28 x 28 that pack into as many bytes as MNIST's digits."""
    random = np.random.default_rng(0)
    blobs = (np.outer(*(np.hanning(28) ** random.uniform(1, 6) for _ in range(2))) for _ in range(count))
    return [encoded(Image.fromarray((255 * blob).astype(np.uint8)), "PNG") for blob in blobs]


def bare_photo(data: bytes) -> object:
    return bare_decode(data, "RGB", True)


def bare_png(data: bytes) -> object:
    return np.asarray(PngImagePlugin.PngImageFile(io.BytesIO(data)))


def dropped(work: Callable[[bytes], object], images: Sequence[bytes]) -> None:
    """Each image in turn, none kept."""
    for data in images:
        work(data)


def reading(
    folder: Path,
    images: Sequence[bytes],
    spec: ImageSpec,
    *,
    channels_last: bool,
    written: Mapping[str, Any] = MappingProxyType(PACKED),
) -> Callable[[], None]:
    """From a Parquet file of these images to batches; in row groups of the size that `pcace pack` gives them.

    `written`: options of pyarrow's writer."""
    folder.mkdir()
    rows = max(1, ROW_GROUP_BYTES * len(images) // sum(map(len, images)))
    table = pa.table({"image": pa.array(images, pa.binary())})
    pq.write_table(table, folder / "a.parquet", row_group_size=rows, **written)
    data = DatasetSpec(path=[str(folder)])
    (unit,) = make_units(list_dataset(data, Storage({})), len(images))
    height, width = decode(images[0], spec).shape[-2:]
    shape = (height, width)  # of the plan

    def work() -> None:
        with UnitReader(
            LoaderOptions(
                data,
                spec,
                Storage({}),
                batch_size=32,
                fold_bytes=fold_hash(FOLD_HASH),
                fold_value=key_of_value,
                channels_last=channels_last,
                image_shape=shape,
            )
        ) as reader:
            found = sum(len(batch) for batch in reader.batches(unit))
        if found != len(images):
            raise RuntimeError(f"{found} of {len(images)} images came")

    return work


def _line(images: Sequence[bytes], works: Works, repeats: int) -> dict[str, Value]:
    samples = take_turns(works, repeats)
    return {
        "images": len(images),
        "KB": sum(map(len, images)) / len(images) / 1000,
        "bare": samples.milliseconds("bare", len(images)),
        "ours": samples.milliseconds("ours", len(images)),
        "of bare": samples.ratio("bare", "ours"),
    }


def _difference(data: bytes) -> str:
    """How far decoding at a fraction is from the whole image."""
    whole, scaled = (decode(data, replace(RESNET, scaled_decode=how)).int() for how in (False, True))
    apart = (whole - scaled).abs()
    width, height = image_size(data)
    return (
        f"{width} x {height} decoded at 1/{scale_of(height, width, RESNET)}: mean difference from the whole "
        f"{float(apart.float().mean()):.2f}, largest {int(apart.max())} of 255"
    )
