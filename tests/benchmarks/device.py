"""Forward, tap and statistics of ResNet-18 and ResNet-50 on whatever device there is, and nvJPEG on a GPU.

    python -m tests.benchmarks.device [--networks resnet18 resnet50] [--device cuda] [--quick] [--json device.json]

For a borrowed GPU box: no Ray, no cloud or job libraries, only torch, torchvision, numpy and pyarrow. Random weights
and random axes serve: what is done does not depend on their values. One layer and all; forward and tapped forward take
turns. Milliseconds are of one image, ratios are those of the goals: the bare forward pass / the same with the tap, and
with tap, codes and Gram (CPU 0.97 for one layer and 0.85 for all, GPU in bfloat16 0.95 and 0.80).

Then JPEGs: decoding alone, and all the way to a batch on the device (decoded, 256, 224), by the processor's threads
with a copy out of pinned memory (model.input.decode: cpu) and on the device (gpu). With it goes what tests cannot see
without a GPU: images that are not what torchvision's transforms make of them on that device, images whose bits differ
alone and in a run, verdicts on broken files that differ (all three must be 0), and how far nvJPEG's pixels are from
libjpeg-turbo's, in steps of 255. At last each network is fed from a Parquet file in both ways, against itself alone.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms import v2

from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.decoded_rows import RUN_ROWS, BatchBuffer
from pcace_dist.datasets.device_images import DeviceDecoder, decode_jpegs
from pcace_dist.datasets.images import ImageSpec, buffer_of, pixels
from pcace_dist.datasets.listing import list_dataset
from pcace_dist.datasets.loader import LoaderOptions, UnitReader
from pcace_dist.datasets.units import make_units
from pcace_dist.errors import RowError
from pcace_dist.models.device import to_device
from pcace_dist.models.forward import Forward
from pcace_dist.models.precision import choose_numerics
from pcace_dist.models.settings import set_deterministic
from pcace_dist.statistics.folds import key_of_bytes, key_of_value
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import LayerCodes, LayerPlan, make_layer_plan
from pcace_dist.storage.files import Storage

LAST = {"resnet18": "layer4.1.conv2", "resnet50": "layer4.2.conv2"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COMPONENTS, KNOTS, FOLDS = 5, 9, 16
INPUT = ImageSpec(resize=256, crop=224)
SHAPE = (3, 224, 224)

Entry = dict[str, Any]


def layers_of(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)]


def plans(forward: Forward, images: Tensor) -> dict[str, LayerPlan]:
    """A plan of random axes for every layer, with knots from these images."""
    made: dict[str, LayerPlan] = {}

    def receive(name: str, maps: Tensor, shape: tuple[int, ...]) -> None:
        _, channels, pixels = maps.shape
        weights = torch.randn((channels, pixels, COMPONENTS), device=maps.device) / pixels
        rest = torch.ones((channels, COMPONENTS), device=maps.device)
        axes = (weights, 0 * rest, rest > 0, rest)
        blank = torch.zeros((*rest.shape, KNOTS), device=maps.device)
        grid = torch.ones(channels, dtype=torch.float64, device=maps.device)
        probe = LayerPlan(name, shape, channels, weights, 0 * rest, blank, rest, rest > 0, rest, grid, grid)
        made[name] = make_layer_plan(name, shape, axes, *probe.project(maps), KNOTS)

    forward(images, receive)
    return {name: plan.to(forward.device) for name, plan in made.items()}


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, from an idle device to an idle device."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(name: str, device: torch.device, *, batch: int, batches: int, repeats: int, rows: int) -> list[Entry]:
    """A network, one layer and all of it."""
    model = torchvision.models.get_model(name, weights=None).eval()
    numerics = choose_numerics("auto", device, model)
    images = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    if device.type == "cuda":
        images = images.pin_memory()
    found = []
    for label, layers in (("1 layer", [LAST[name]]), ("all layers", layers_of(model))):
        forward = Forward(model, device, batch, MEAN, STD, layers, numerics)
        held = plans(forward, images)
        entry: Entry = {"case": f"{name}, {label}", "precision": numerics.precision, "batch": batch}
        entry |= _rates(forward, held, images, batches=batches, repeats=repeats, rows=rows)
        found.append(entry)
    return found


def _rates(
    forward: Forward, held: Mapping[str, LayerPlan], images: Tensor, *, batches: int, repeats: int, rows: int
) -> Entry:
    device, projected = forward.device, dict[str, tuple[Tensor, Tensor]]()

    def receive(name: str, maps: Tensor, _: tuple[int, ...]) -> None:
        projected[name] = held[name].project(maps)

    def bare() -> None:
        for _ in range(batches):
            forward(images)

    def tapped() -> None:
        for _ in range(batches):
            forward(images, receive)

    def codes() -> dict[str, LayerCodes]:
        return {name: held[name].encode(*pair) for name, pair in projected.items()}

    bare()
    tapped()
    pairs = [(timed(bare, device), timed(tapped, device)) for _ in range(repeats)]
    codes()
    encode = median(timed(codes, device) for _ in range(repeats)) / len(images)
    add = _add_row(codes(), rows, device)
    plain, with_tap = (median(column) / (batches * len(images)) for column in zip(*pairs, strict=True))
    values = sum(plan.channels * plan.pixels for plan in held.values())
    entry: Entry = {
        "channels": sum(plan.channels for plan in held.values()),
        "forward, ms": 1e3 * plain,
        "tap, ms": 1e3 * (with_tap - plain),
        "codes, ms": 1e3 * encode,
        "Gram, ms": 1e3 * add,
        "tap, ns a map value": 1e9 * (with_tap - plain) / values,
        "images a second": 1 / (with_tap + encode + add),
        "with tap": median(one / other for one, other in pairs),
        "with all": plain / (with_tap + encode + add),
    }
    if device.type == "cuda":
        entry["peak GiB"] = torch.cuda.max_memory_allocated(device) / 2**30
    return entry


def _add_row(codes: Mapping[str, LayerCodes], rows: int, device: torch.device) -> float:
    """Seconds of adding one row to the Grams of all layers, `rows` at a time as at the end of units."""
    folds = torch.arange(rows, device=device) % FOLDS
    target = torch.randint(0, 249, (rows, 1), dtype=torch.uint8, device=device)
    fixed = torch.zeros((rows, 1), dtype=torch.int16, device=device)
    total = 0.0
    for one in codes.values():
        many = one.take(torch.arange(rows) % one.rows)
        gram = Gram(one.codes.shape[1], COMPONENTS, 1, KNOTS, FOLDS, device=device)

        def add(gram: Gram = gram, many: LayerCodes = many) -> None:
            gram.update(many.codes, many.means, target, fixed, folds)

        add()
        total += timed(add, device)
    return total / rows


def jpegs(images: int) -> list[bytes]:
    """JPEGs of 500 x 375, eight different ones in turn."""
    smooth = nn.functional.interpolate(255 * torch.rand((8, 3, 24, 32)), (375, 500), mode="bicubic", antialias=True)
    noisy = (smooth + 12 * torch.randn_like(smooth)).clamp(0, 255).to(torch.uint8)
    files = [bytes(torch.ops.image.encode_jpeg(one, 90).numpy()) for one in noisy]
    return [files[i % 8] for i in range(images)]


def decoding(device: torch.device, files: Sequence[bytes], *, repeats: int) -> list[Entry]:
    """Decoding alone: on one core and, on a GPU, with nvJPEG."""
    images = len(files)
    data = [buffer_of(one) for one in files]
    size = sum(map(len, files)) / images
    where = [torch.device("cpu")] + ([device] if device.type == "cuda" else [])
    found = []
    for one in where:

        def work(one: torch.device = one) -> object:
            return decode_jpegs(data, 3, one)

        work()
        seconds = median(timed(work, one) for _ in range(repeats)) / images
        kind = "nvJPEG" if one.type == "cuda" else "one core"
        found.append(
            {"case": f"JPEG, {kind}", "bytes": size, "decode, ms": 1e3 * seconds, "images a second": 1 / seconds}
        )
    return found


def inputs(device: torch.device, files: Sequence[bytes], *, threads: Sequence[int], repeats: int) -> list[Entry]:
    """From files to a batch on the device, in both ways of `model.input.decode`."""
    decoder = DeviceDecoder(device)
    found = []
    for count in threads:
        with ThreadPoolExecutor(count) as pool:
            step = max(1, min(RUN_ROWS, len(files) // count))
            runs = [range(start, min(start + step, len(files))) for start in range(0, len(files), step)]

            def by_processor(pool: ThreadPoolExecutor = pool, runs: Sequence[range] = runs) -> None:
                buffer = BatchBuffer(len(files), SHAPE, channels_last=True, pinned=device.type == "cuda")

                def one(run: range) -> None:
                    for i in run:
                        buffer.put(i, pixels(files[i], INPUT))

                list(pool.map(one, runs))
                to_device(buffer.images, device)

            def on_device(pool: ThreadPoolExecutor = pool, runs: Sequence[range] = runs) -> None:
                with decoder.holding():
                    buffer = BatchBuffer(len(files), SHAPE, channels_last=True, device=decoder.device)

                def one(run: range) -> None:
                    with decoder.working():
                        for i, image in zip(run, decoder.images([files[i] for i in run], INPUT), strict=True):
                            assert isinstance(image, Tensor)
                            buffer.put(i, image)

                list(pool.map(one, runs))

            for way, work in (("cpu", by_processor), (_gpu(device), on_device)):
                work()
                seconds = median(timed(work, device) for _ in range(repeats)) / len(files)
                case = f"input, decode: {way}, {count} thread{'s' if count > 1 else ''}"
                found.append({"case": case, "to a batch, ms": 1e3 * seconds, "images a second": 1 / seconds})
    return found


def fed(name: str, device: torch.device, files: Sequence[bytes], *, batch: int, batches: int) -> list[Entry]:
    """A network fed from a Parquet file in both ways, against itself alone: reading, decoding and copies beside it."""
    model = torchvision.models.get_model(name, weights=None).eval()
    forward = Forward(model, device, batch, MEAN, STD, (), choose_numerics("auto", device, model))
    images = torch.zeros((batch, *SHAPE), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    forward(images)
    bare = timed(lambda: [forward(images) for _ in range(batches)], device) / (batches * batch)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        rows = [files[i % len(files)] for i in range(batch * batches)]
        pq.write_table(pa.table({"image": pa.array(rows, pa.binary())}), f"{folder}/a.parquet", row_group_size=64)
        spec = DatasetSpec(path=[folder])
        (unit,) = make_units(list_dataset(spec, Storage()), len(rows))
        for way, decoder in (("cpu", None), (_gpu(device), DeviceDecoder(device))):
            options = LoaderOptions(
                spec,
                INPUT,
                Storage(),
                batch_size=batch,
                fold_bytes=key_of_bytes,
                fold_value=key_of_value,
                image_shape=SHAPE[1:],
                threads=os.cpu_count() or 1,
                channels_last=True,
                pinned=device.type == "cuda",
                decoder=decoder,
            )
            with UnitReader(options) as reader:

                def work(reader: UnitReader = reader) -> None:
                    for one in reader.batches(unit):
                        forward(one.images)

                work()
                seconds = timed(work, device) / len(rows)
            entry: Entry = {"case": f"{name} fed, decode: {way}", "ms": 1e3 * seconds, "images a second": 1 / seconds}
            found.append(entry | {"of the network alone": bare / seconds})
    return found


def _gpu(device: torch.device) -> str:
    return "gpu" if device.type == "cuda" else "gpu (but on this processor)"


def pictures(device: torch.device, files: Sequence[bytes]) -> Entry:
    """What the device's pixels are like; the first three must be 0."""
    some = [*files[:8], *(bytes(torch.ops.image.encode_jpeg(one, 90).numpy()) for one in _other_sizes())]
    broken = [some[0][:share] for share in (50, 5_000, len(some[0]) - 1)] + [b"", b"junk"]
    decoder = DeviceDecoder(device)
    with decoder.working():
        found = decoder.images([*some, *broken], INPUT)
        alone = _good([decoder.images([one], INPUT)[0] for one in some])
        whole = [decode_jpegs([buffer_of(one)], 3, decoder.device)[0] for one in some]
    good, refused = _good(found[: len(some)]), found[len(some) :]
    transforms = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    allowed = 1 if device.type == "cpu" else 0  # torchvision resizes bytes as bytes on processors only
    from_libjpeg = torch.cat(
        [_steps(image, torch.from_numpy(pixels(one, INPUT))) for image, one in zip(good, some, strict=True)]
    )
    return {
        "case": "input, pixels",
        "not torchvision's": sum(
            int(_steps(image, transforms(one)).max()) > allowed for image, one in zip(good, whole, strict=True)
        ),
        "other bits alone": sum(not torch.equal(image, one) for image, one in zip(good, alone, strict=True)),
        "other verdicts": sum(_reason(one) != _verdict(data) for one, data in zip(refused, broken, strict=True)),
        "steps from libjpeg, mean": float(from_libjpeg.float().mean()),
        "steps from libjpeg, largest": int(from_libjpeg.max()),
    }


def _good(found: Sequence[Tensor | RowError]) -> list[Tensor]:
    for one in found:
        if isinstance(one, RowError):
            raise one
    return [one for one in found if isinstance(one, Tensor)]


def _other_sizes() -> list[Tensor]:
    sizes = [(300, 300), (256, 256), (480, 640), (257, 911)]
    return [
        torch.nn.functional.interpolate(255 * torch.rand((1, 3, 12, 12)), size)[0].to(torch.uint8) for size in sizes
    ]


def _steps(one: Tensor, other: Tensor) -> Tensor:
    return (one.cpu().int() - other.cpu().int()).abs().flatten()


def _reason(found: object) -> str:
    return found.reason if isinstance(found, RowError) else ""


def _verdict(data: bytes) -> str:
    try:
        pixels(data, INPUT)
    except RowError as error:
        return error.reason
    return ""


def facts(device: torch.device) -> Entry:
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"case": "device", "kind": f"{device.type}: {kind}, torch {torch.__version__}"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.device", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=sorted(LAST), default=sorted(LAST))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="images in a pass (128 on a GPU, 16 on a processor)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    set_deterministic(1)
    torch.manual_seed(0)
    gpu = device.type == "cuda"
    found = [facts(device)]
    print(json.dumps(found[0]), flush=True)
    for name in asked.networks:
        found += measure(
            name,
            device,
            batch=asked.batch or (128 if gpu else 16),
            batches=(16 if gpu else 2) if not asked.quick else 1,
            repeats=2 if asked.quick else 5,
            rows=4096 if gpu else 512,
        )
        print("\n".join(json.dumps(entry) for entry in found[-2:]), flush=True)
    files, repeats = jpegs(256 if gpu else 32), 2 if asked.quick else 5
    cores = os.cpu_count() or 1
    threads = [cores] if asked.quick else sorted({1, 4, cores})
    rest = decoding(device, files, repeats=repeats)
    rest += inputs(device, files, threads=threads, repeats=repeats)
    rest.append(pictures(device, files))
    for name in asked.networks:
        batch, batches = asked.batch or (128 if gpu else 16), (4 if asked.quick else 16) if gpu else 2
        rest += fed(name, device, files, batch=batch, batches=batches)
    print("\n".join(json.dumps(entry) for entry in rest), flush=True)
    found += rest
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
