"""Coverage of effects' intervals and of their ranks', the axes drawn anew in every repetition: table 16 of
docs/method-tables.md.

    python -m tests.statistics.effects.coverage [--repeats 300] [--only classes]

Last come the channels of examples/mnist's conv2, rows drawn with replacement from its 5,000 images, each digit with an
axis of its own; the truth is the effect over all of them with the mean gradients of all.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from examples.mnist.model import mnist_cnn
from pcace_dist.statistics.order.ranks import rank_channels
from tests.digits import MNIST
from tests.statistics.effects.planted_effects import (
    FOLDS,
    SETTINGS,
    World,
    effects_of,
    plan_of,
    true_effects,
    world,
)

Floats: TypeAlias = npt.NDArray[np.float64]

PILOT = 2048
CASES = [
    *((setting, rows, 64) for setting in SETTINGS for rows in (200, 1_000, 10_000)),
    ("interacting", 10_000, 16),
    ("interacting", 10_000, 256),
    ("classes", 10_000, 16),
    ("hidden", 100_000, 64),
    ("classes", 100_000, 64),
]


@dataclass(frozen=True)
class Coverage:
    """Shares of the repetitions: of intervals that hold the effect, mean and lowest over channels; of those without the
    axes' noise; of rank intervals that hold all ranks that ties allow."""

    interval: float
    worst: float
    given_axis: float
    ranks: float
    worst_rank: float
    width: float


def measure(setting: str, rows: int, images: int, repeats: int, seed: int = 0) -> Coverage:
    """Coverage of one case."""
    return covered(
        true_effects(setting), lambda repeat: world(setting, rows, seed + 1_000 * repeat + rows), images, repeats
    )


def covered(truth: Floats, draw: Callable[[int], World], images: int, repeats: int) -> Coverage:
    """Coverage over `repeats` draws. The pilot is the first rows of each, and the axes' images are its first."""
    best = np.array([1 + (truth > own + 1e-9).sum() for own in truth])
    last = np.array([(truth >= own - 1e-9).sum() for own in truth])
    held, given, ranked, widths = [], [], [], []
    for repeat in range(repeats):
        data = draw(repeat)
        plan = plan_of(data.take(slice(0, PILOT)), images=images)
        found = effects_of(plan, data)
        if (found.status != "ok").any():
            continue  # a class without enough images
        held.append((found.low <= truth + 1e-9) & (truth <= found.high + 1e-9))
        widths.append(found.high - found.low)
        ranks = rank_channels(found.effect, found.pseudo, np.ones(len(truth), bool))
        ranked.append((ranks.low <= best) & (ranks.high >= last))
        plan.layers[0].noise.zero_()
        alone = effects_of(plan, data)
        given.append((alone.low <= truth + 1e-9) & (truth <= alone.high + 1e-9))
    cover, order = np.mean(held, 0), np.mean(ranked, 0)
    numbers = (cover.mean(), cover.min(), np.mean(given), order.mean(), order.min(), np.mean(widths))
    return Coverage(*map(float, numbers))


NETWORK = "conv2 of examples/mnist"
NETWORK_CASES = [(rows, images) for rows in (200, 1_000, 10_000) for images in (16, 64)]


def network() -> World:
    """All images of the example: maps behind relu2, own logits, labels, gradients."""
    model = mnist_cnn().double().eval()
    model.load_state_dict(load_file(MNIST / "weights.safetensors"))
    table = pa.concat_tables([pq.read_table(path) for path in sorted((MNIST / "data").glob("*.parquet"))])
    stored = table["image"].combine_chunks()
    blobs = stored.field("bytes").to_pylist() if pa.types.is_struct(stored.type) else stored.to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(blob)).convert("L")) for blob in blobs])
    parts = nn.Sequential(*model.children())
    images = (torch.from_numpy(pixels)[:, None].double() / 255 - 0.1307) / 0.3081
    labels = torch.from_numpy(table["label"].to_numpy().copy())
    maps = parts[:5](images).detach().requires_grad_()
    logits = parts[5:](maps).gather(1, labels[:, None])[:, 0]
    (gradients,) = torch.autograd.grad(logits.sum(), maps)
    flat = [part.flatten(2).float() for part in (maps.detach(), gradients)]
    return World(flat[0], logits.detach().numpy(), labels.numpy(), flat[1], np.zeros(len(labels), np.int64))


def measure_network(every: World, rows: int, images: int, repeats: int) -> Coverage:
    """Coverage over draws with replacement."""
    axes = torch.stack([every.gradients[every.keys == key].double().mean(0) for key in range(every.count)])
    apart = every.maps.double() - every.maps.double().mean(0)
    along = (apart * axes[torch.from_numpy(every.keys)]).sum(2).numpy()
    truth = (along * (every.y - every.y.mean())[:, None]).mean(0) / every.y.var()
    random = np.random.default_rng(rows + images)

    def draw(_: int) -> World:
        drawn = every.take(random.integers(0, len(every.y), rows))
        return replace(drawn, folds=random.integers(0, FOLDS, rows))

    return covered(truth, draw, images, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--only", choices=SETTINGS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| setting | n | axis of | covered | worst channel | given the axis | ranks | worst | mean width |")
    print("|---|---|---|---|---|---|---|---|---|")
    for setting, rows, images in CASES:
        if arguments.only in (None, setting):
            got = measure(setting, rows, images, arguments.repeats)
            _tell(setting, rows, images, got)
    if arguments.only is None:
        every = network()
        for rows, images in NETWORK_CASES:
            _tell(NETWORK, rows, images, measure_network(every, rows, images, arguments.repeats))


def _tell(setting: str, rows: int, images: int, got: Coverage) -> None:
    shares = (got.interval, got.worst, got.given_axis, got.ranks, got.worst_rank)
    told = " | ".join(f"{100 * share:.1f}%" for share in shares)
    print(f"| {setting} | {rows:,} | {images} | {told} | {got.width:.3f} |", flush=True)


if __name__ == "__main__":
    main()
