"""Six models as people bring them: small, with random weights, and images that lie in folders or in Parquet files."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _body(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())


class Price(nn.Module):
    """A regression: one number for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = _body(1), nn.Linear(12, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))[:, 0]  # type: ignore[no-any-return]


class Masks(nn.Module):
    """A segmentation as torchvision's: a mapping with maps of four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes = _body(2), nn.Conv2d(12, 4, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.classes(self.body(images))}


class Embedding(nn.Module):
    """An embedding of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.projection = _body(3), nn.Linear(12, 6)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.projection(self.body(images).mean((2, 3))), dim=1)
