"""From decoded images to a model's input: scaled to 0..1, minus the mean, divided by the standard deviation. And what
images a model takes, where nothing says it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

USUAL_SIDES = (224, 256, 32, 28, 64, 96, 128, 299, 384)  # of images that networks are made for, in the order of trial


def image_channels(model: nn.Module) -> int:
    """1 where the first convolution takes grey images, else 3."""
    convolutions = (module.in_channels for module in model.modules() if isinstance(module, _ConvNd))
    return 1 if next(convolutions, 3) == 1 else 3


class Normalise:
    """Converts batches (B, C, H, W) to float32: uint8 is divided by 255, floats stay; then (x - mean) / std.

    The same bits as torchvision's v2 ToDtype(float32, scale=True) and Normalize(mean, std).
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu") -> None:
        if len(mean) != len(std) or any(value <= 0 for value in std):
            raise ValueError(f"mean {tuple(mean)}, std {tuple(std)}: one of each per image channel, std above 0")
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        scaled = images.to(torch.float32)
        if not images.is_floating_point():
            scaled = scaled.mul_(1.0 / torch.iinfo(images.dtype).max)
        return scaled.sub(self.mean).div_(self.std)
