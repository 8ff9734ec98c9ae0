"""What channels see, by intervention: draw the same street with one thing changed, and compare the channel.

Every picture of a made-up city can be drawn again with other traffic, other trees or another sky, and everything else
unchanged. The *total effect* of a factor on a quantity a is E (a - a')^2 / (2 var a), where a' is a with only that
factor from another panorama (Sobol's index, by Jansen's estimate): 0 if a does not depend on the factor, 1 if it
depends on nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from examples.street.city import FACTORS, City, Floats, pictures
from examples.street.scene import SIZE, Pixels, draw
from examples.street.train import normalise

PART = 250  # pictures forwarded at once


def images_of(city: City, size: int = SIZE) -> Tensor:
    """The city's pictures as a reader decodes them: uint8 (n, 3, size, size)."""
    return _tensor([np.asarray(Image.open(io.BytesIO(data))) for data in pictures(city, size=size)])


def drawn(city: City) -> Tensor:
    """The city's pictures as they were drawn, without JPEG, which mixes neighbouring pixels."""
    return _tensor([draw(city.factors(row), city.key(row)) for row in range(len(city))])


def _tensor(images: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def redrawn(city: City, factor: str, *, seed: int = 0) -> City:
    """The same city with one factor taken from other panoramas; the views of a panorama stay together."""
    _, panorama, counts = np.unique(city.panorama, return_inverse=True, return_counts=True)
    if len(set(counts.tolist())) != 1:
        raise ValueError("every panorama must have as many views as the others")
    rows = np.argsort(panorama, kind="stable").reshape(len(counts), -1)
    order = np.random.default_rng(seed).permutation(len(rows))  # a cycle through all: no panorama keeps its own
    source = np.empty(len(city), np.int64)
    source[rows[order]] = rows[np.roll(order, 1)]
    return replace(city, **{factor: getattr(city, factor)[source]})


@torch.inference_mode()
def seen(model: nn.Module, images: Tensor, layer: str) -> tuple[Floats, Tensor]:
    """Predictions float64 (n,) and activation maps (n, C, H, W) of a layer."""
    maps_of_parts: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, maps: maps_of_parts.append(maps.clone()))
    try:
        outputs = [model(normalise(part))[:, 0].double() for part in torch.split(images, PART)]
    finally:
        handle.remove()
    return torch.cat(outputs).numpy(), torch.cat(maps_of_parts)


def total_effects(
    model: nn.Module, city: City, layer: str, factors: Sequence[str] = FACTORS, *, size: int = SIZE
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Total effect of each factor on the prediction, and on the mean of each channel's map (C,)."""
    output, maps = seen(model, images_of(city, size), layer)
    means = maps.mean((2, 3)).double().numpy()
    on_output: dict[str, float] = {}
    on_channels: dict[str, Floats] = {}
    for factor in factors:
        other_output, other_maps = seen(model, images_of(redrawn(city, factor), size), layer)
        on_output[factor] = float(np.square(output - other_output).mean() / (2 * output.var()))
        change = np.square(means - other_maps.mean((2, 3)).double().numpy()).mean(0)
        on_channels[factor] = change / np.maximum(2 * means.var(0), 1e-12)
    return on_output, on_channels
