"""Forward, tap and statistics of ResNet-18 and ResNet-50 on whatever device there is, and nvJPEG on a GPU.

    python -m tests.benchmarks.device [--networks resnet18 resnet50] [--device cuda] [--quick] [--json device.json]

For a borrowed GPU box: no Ray, no cloud or job libraries, only torch, torchvision, numpy and pyarrow. Random weights
and random axes serve: what is done does not depend on their values. One layer and all; forward and tapped forward take
turns. Milliseconds are of one image, ratios are those of the goals: the bare forward pass / the same with the tap, and
with tap, codes and Gram (CPU 0.97 for one layer and 0.85 for all, GPU in bfloat16 0.95 and 0.80).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pcace_dist.models.forward import Forward
from pcace_dist.models.precision import choose_numerics
from pcace_dist.models.settings import set_deterministic
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import LayerCodes, LayerPlan, make_layer_plan

LAST = {"resnet18": "layer4.1.conv2", "resnet50": "layer4.2.conv2"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COMPONENTS, KNOTS, FOLDS = 5, 9, 16

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


def decoding(device: torch.device, *, images: int, repeats: int) -> list[Entry]:
    """JPEGs of 500 x 375 on one core and, on a GPU, with nvJPEG."""
    from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

    smooth = nn.functional.interpolate(255 * torch.rand((8, 3, 24, 32)), (375, 500), mode="bicubic", antialias=True)
    noisy = (smooth + 12 * torch.randn_like(smooth)).clamp(0, 255).to(torch.uint8)
    data: list[Tensor] = [encode_jpeg(noisy[i % 8], quality=90) for i in range(images)]
    size = sum(len(one) for one in data) / images
    where = [torch.device("cpu")] + ([device] if device.type == "cuda" else [])
    found = []
    for one in where:

        def work(one: torch.device = one) -> object:
            return decode_jpeg(data, ImageReadMode.RGB, device=one)

        work()
        seconds = median(timed(work, one) for _ in range(repeats)) / images
        kind = "nvJPEG" if one.type == "cuda" else "one core"
        found.append(
            {"case": f"JPEG, {kind}", "bytes": size, "decode, ms": 1e3 * seconds, "images a second": 1 / seconds}
        )
    return found


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
    found += decoding(device, images=256 if gpu else 32, repeats=2 if asked.quick else 5)
    print("\n".join(json.dumps(entry) for entry in found[-1 - gpu :]), flush=True)
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
