"""The main pass against its limit: decoding an image plus one bare forward pass, on one core, interleaved and repeated.

    python -m tests.benchmarks [--repeats 3] [--photos 96] [--json benchmarks.json]

A ratio of 1 means that reading, tapping and the statistics cost nothing. One process, pinned to one core, no Ray:
what is measured is the body of a worker.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

from pcace_dist.datasets.batches import Batch, UnitReader
from pcace_dist.datasets.images import ImageSpec
from pcace_dist.datasets.listing import DatasetSpec, Listing, list_dataset
from pcace_dist.datasets.storage import Storage
from pcace_dist.datasets.units import Unit, make_units
from pcace_dist.models.forward import Forward
from pcace_dist.models.layers import conv_layers
from pcace_dist.models.targets import TargetSpec
from pcace_dist.service.engine import Engine
from pcace_dist.service.spec import StatisticSpec, WorkSpec
from pcace_dist.service.store import LocalStore
from pcace_dist.statistics.folds import fold_of_bytes

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """Milliseconds of an image, medians over the repeats; `of_limit` is the median of the ratios pair by pair."""

    case: str
    images: int
    decode: float
    forward: float
    main_pass: float
    of_limit: float
    of_forward: float


def write_photos(folder: Path, count: int) -> None:
    """JPEGs of 500x375: smoothed noise, so that they are about as large as photographs."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        noise = Image.fromarray(random.integers(0, 256, (375, 500, 3), dtype=np.uint8))
        sink = io.BytesIO()
        noise.filter(ImageFilter.GaussianBlur(2)).save(sink, "JPEG", quality=92)
        images.append(sink.getvalue())
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"image": pa.array(images, pa.binary())}), folder / "part-00000.parquet", row_group_size=32)


def mnist(folder: Path) -> WorkSpec:
    return WorkSpec(
        dataset=DatasetSpec(path=(str(ROOT / "examples/mnist/data"),), label="label"),
        images=ImageSpec(mode="L"),
        storage=Storage({}),
        factory="examples.mnist.model:mnist_cnn",
        kwargs={},
        weights=str(ROOT / "examples/mnist/weights.safetensors"),
        mean=(0.1307,),
        std=(0.3081,),
        layers=("conv1", "conv2", "conv3"),
        targets=(TargetSpec("logit", "label"),),
        statistics=StatisticSpec(pilot=512),
        output=str(folder),
        python_path=(str(ROOT),),
    )


def resnet(folder: Path, photos: Path) -> WorkSpec:
    return WorkSpec(
        dataset=DatasetSpec(path=(str(photos),)),
        images=ImageSpec(mode="RGB", resize=256, crop=224),
        storage=Storage({}),
        factory="torchvision:resnet18",
        kwargs={},
        weights="random",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        layers=("layer4.1.conv2",),
        targets=(TargetSpec("logit", "predicted"),),
        statistics=StatisticSpec(pilot=64),
        output=str(folder),
        batch=16,
    )


def reader(spec: WorkSpec, batch: int) -> UnitReader:
    return UnitReader(
        spec.dataset,
        spec.images,
        spec.storage,
        batch_size=batch,
        fold_bytes=lambda data: fold_of_bytes(data, spec.statistics.folds),
        fold_value=lambda _: 0,
    )


def decode(spec: WorkSpec, units: Sequence[Unit], batch: int) -> list[Batch]:
    with reader(spec, batch) as ahead:
        return [held for unit in units for held in ahead.batches(unit)]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(case: str, spec: WorkSpec, listing: Listing, repeats: int) -> Result:
    """One case: decode, bare forward and the main pass in turn, `repeats` times after a warm-up."""
    units = make_units(listing, 1024)
    engine = Engine(spec, "bench", LocalStore(spec.output))
    plan, check = engine.pilot(listing)
    engine.begin(plan, check, 1)
    batch = int(str(plan.facts["batch"]))
    bare = Forward(engine.model, "cpu", batch, spec.mean, spec.std, ())
    batches = decode(spec, units, batch)
    images = sum(len(held) for held in batches)
    rows = []
    for repeat in range(repeats + 1):
        row = (
            seconds(lambda: decode(spec, units, batch)),
            seconds(lambda: [bare(held.images) for held in batches]),
            seconds(lambda: [engine.process(unit) for unit in units]),
        )
        engine.flush()
        if repeat:
            rows.append([1000 * value / images for value in row])
    decoding, forward, whole = (median(column) for column in zip(*rows, strict=True))
    return Result(
        case,
        images,
        round(decoding, 3),
        round(forward, 3),
        round(whole, 3),
        round(median((d + f) / w for d, f, w in rows), 3),
        round(median(f / w for _, f, w in rows), 3),
    )


def run(repeats: int, photos: int) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_photos(base / "photos", photos)
        digits, network = mnist(base / "a"), resnet(base / "b", base / "photos")
        from torchvision.models import resnet18

        every = replace(network, layers=tuple(conv_layers(resnet18())), output=str(base / "c"))
        cases = [
            ("MNIST CNN, 3 layers", digits),
            ("ResNet-18, 1 layer", network),
            ("ResNet-18, all 20", every),
        ]
        return [measure(name, spec, list_dataset(spec.dataset, spec.storage), repeats) for name, spec in cases]


def show(results: Sequence[Result]) -> None:
    table = Table(title="main pass on one core (ms an image; ratios: higher is better)", title_justify="left", box=None)
    for name in ("case", "images", "decode", "bare forward", "main pass", "of the limit", "of the bare forward"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for result in results:
        table.add_row(*(str(value) for value in asdict(result).values()))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"))
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    results = run(arguments.repeats, arguments.photos)
    show(results)
    arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
