"""A network with batch norm for the study: nine convolutions, four of them in front of a sum, on MNIST's digits."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions with batch norm beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Identity() if stride == 1 and channels == out else _projection(channels, out, stride)

    def forward(self, maps: Tensor) -> Tensor:
        first = self.relu1(self.norm1(self.conv1(maps)))
        joined: Tensor = self.relu2(self.norm2(self.conv2(first)) + self.shortcut(maps))
        return joined


def _projection(channels: int, out: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def digit_resnet() -> nn.Module:
    """Images (n, 1, 28, 28) to logits (n, 10): maps 14 x 14 with 16 channels, then 7 x 7 with 32."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 2, 2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 32, 1),
        Block(32, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
