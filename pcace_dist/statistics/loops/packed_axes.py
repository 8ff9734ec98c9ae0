"""Axes in the order in which the loop over channels-last maps reads them. Pure tensors: no I/O, no Numba."""

from __future__ import annotations

import torch
from torch import Tensor

LANES = 16  # channels that the loop takes at once; processors with narrower vectors take several for them


def pack(weights: Tensor) -> Tensor:
    """Weights (C, D, p), C at least LANES, as (blocks of channels, D, p, LANES), contiguous. Where C is no multiple of
    LANES, the last block begins further to the left: it has channels that the one before has too."""
    channels = _firsts(len(weights))[:, None] + torch.arange(LANES)
    return weights[channels].permute(0, 2, 3, 1).contiguous()


def unpack(axes: Tensor, count: int, channels: slice) -> Tensor:
    """The weights (these channels, D, p) of `count` channels of which `pack` made axes."""
    wanted = torch.arange(count)[channels]
    blocks = wanted // LANES
    return axes[blocks, :, :, wanted - _firsts(count)[blocks]]


def _firsts(count: int) -> Tensor:
    """The first channel of every block."""
    return torch.arange(0, count, LANES).clamp(max=count - LANES)
