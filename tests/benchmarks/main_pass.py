"""The main pass against its limit: decoding an image plus one bare forward pass, in turn.

The limit is written here without the engine: JPEGs that lie in memory, decoded and brought to size one by one with
torchvision, then normalised and forwarded in batches of the plan's size by the same model in the plan's precision. A
ratio of 1 means that reading, tapping and the statistics cost nothing. Effects are off, but for one case: what they
cost is the question `effects`. On a processor everything runs on one core; with a GPU decoding runs beside it, and the
limit is the slower of the two.
"""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from tests.benchmarks.harness import Answer, Settings, Value, take_turns, timed
from tests.benchmarks.jobs import Job, Ready, digits, network, ready
from tests.benchmarks.photos import write_photos

TITLE = "main pass against decode + bare forward (ms an image; ratios: higher is better, limit 1)"
PRECISIONS = ("auto", "float32")
ONCE = ("ResNet-50, 1 layer", "ResNet-50, all 53")  # in the machine's precision only: they take minutes


def ask(settings: Settings) -> Answer:
    """MNIST CNN, ResNet-18 and ResNet-50, one layer and all, on the processor and on a GPU where there is one."""
    lines: dict[str, dict[str, Value]] = {}
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        if device == "cpu" and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        seen: set[tuple[str, str]] = set()
        for name, images, make in _cases(settings, device):
            for precision in PRECISIONS[:1] if settings.quick or name in ONCE else PRECISIONS:
                found = ready(make(settings.scratch / f"{len(lines)}-{device}-{precision}", precision))
                used = found.facts.precision
                if (name, used) in seen:  # the machine chooses float32: measured once
                    continue
                seen.add((name, used))
                lines[f"{name}, {used}, {device}"] = measure(found, images, settings.repeats)
                del found
    return Answer(
        lines, notes=("decode and forward: written without the engine; of forward: the bare pass / main pass",)
    )


def _cases(settings: Settings, device: str) -> list[tuple[str, list[bytes], Callable[[Path, str], Job]]]:
    """Name, images, and the job for an output and a precision."""
    many = 1 if device == "cpu" else 16
    gpus = {"max": 1, "gpus": int(device == "cuda")}
    photos = write_photos(settings.scratch / f"photos-{device}", many * settings.pick(32, 96), source=settings.photos)
    fewer = write_photos(settings.scratch / f"fewer-{device}", many * settings.pick(16, 48), source=settings.photos)
    example = digits(Path("unused"))["dataset"]["path"]

    def of(name: str, layers: str | None, data: Path) -> Callable[[Path, str], Job]:
        return lambda output, precision: network(
            output,
            data,
            name,
            layers,
            statistics={"pilot": 32},
            workers=gpus,
            compute={"precision": precision, "batch": 16 if device == "cpu" else 128},
        )

    def small(gradient: str) -> Callable[[Path, str], Job]:
        return lambda output, precision: digits(
            output, workers=gpus, compute={"precision": precision}, effect={"gradient": gradient}
        )

    cases = [
        ("MNIST CNN, 3 layers", stored(Path(example)), small("off")),
        ("with effects: MNIST CNN, 3 layers", stored(Path(example)), small("mean")),
        ("ResNet-18, 1 layer", stored(photos), of("resnet18", None, photos)),
        ("ResNet-18, all 20", stored(photos), of("resnet18", "all", photos)),
    ]
    if not settings.quick:
        cases += [
            ("ResNet-50, 1 layer", stored(fewer), of("resnet50", None, fewer)),
            ("ResNet-50, all 53", stored(fewer), of("resnet50", "all", fewer)),
        ]
    return cases


def measure(found: Ready, images: Sequence[bytes], repeats: int) -> dict[str, Value]:
    """One case: decode, bare forward and the main pass in turn, after a round that does not count."""
    spec, facts, device = found.engine.spec, found.facts, found.engine.device
    sized = spec.images.resize is not None
    mean, std = spec.model.input.mean, spec.model.input.std
    model = in_precision(found.engine.model, facts.precision)
    uint8 = torch.stack([bare_decode(data, spec.images.mode, sized) for data in images])
    batches = torch.split(uint8, facts.batch)

    def forward() -> None:
        for batch in batches:
            bare_forward(model, batch.to(device), mean, std, facts.precision)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def main_pass() -> None:
        found.main_pass()
        if device.type == "cuda":
            torch.cuda.synchronize()

    main_seconds = timed(main_pass)

    def main_then_flush() -> float:
        seconds = main_seconds()
        found.engine.flush()
        return seconds

    samples = take_turns(
        {
            "decode": timed(lambda: [bare_decode(data, spec.images.mode, sized) for data in images]),
            "forward": timed(forward),
            "main pass": main_then_flush,
        },
        repeats,
        warm=1,
    )
    count = len(images)
    line: dict[str, Value] = {"images": count}
    line |= {name: samples.milliseconds(name, count) for name in samples.seconds}
    if device.type == "cuda":
        return line | {"of forward": samples.ratio("forward", "main pass")}
    return line | {
        "of the limit": samples.ratio(("decode", "forward"), "main pass"),
        "of forward": samples.ratio("forward", "main pass"),
    }


# -- the limit


def stored(folder: Path) -> list[bytes]:
    """The images of Parquet files, as they are stored."""
    values = pq.read_table(folder, columns=["image"])["image"].to_pylist()
    return [value["bytes"] if isinstance(value, dict) else value for value in values]


def bare_decode(data: bytes, mode: str, sized: bool) -> Tensor:
    """uint8 (C, H, W); `sized`: the shorter side to 256, then the middle 224 x 224, as ImageNet's are given."""
    if data.startswith(b"\xff\xd8"):
        # torchvision.io.decode_jpeg is this with a warning for every image
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image: Tensor = torch.ops.image.decode_jpeg(buffer, 3 if mode == "RGB" else 1, False)
    else:
        pixels = np.array(Image.open(io.BytesIO(data)).convert(mode))
        image = torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)
    if sized:
        image = functional.center_crop(functional.resize(image, [256], antialias=True), [224, 224])
    return image


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """The model as one would run it bare: in bfloat16 with channels last, in float32 as it is."""
    if precision != "bfloat16":
        return model
    return copy.deepcopy(model).to(torch.bfloat16).to(memory_format=torch.channels_last)


@torch.inference_mode()
def bare_forward(
    model: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float], precision: str
) -> Tensor:
    """Outputs of uint8 images (n, C, H, W), normalised and forwarded, nothing else."""
    inputs = functional.normalize(images.float().div_(255), list(mean), list(std), inplace=True)
    if precision == "bfloat16":
        inputs = inputs.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    outputs: Tensor = model(inputs)
    return outputs
