"""The positions at which an effect's axis is constant: those of small maps, blocks of large ones.

A map of more than 14 positions along an axis is summed over blocks of equal edges first, so that an axis of 64 channels
of 112 x 112 takes 50 KB and not 3.2 MB. Pure: tensors in, tensors out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

MOST = 14  # positions of an axis along each of the last two dimensions of a map


def block_edges(shape: Sequence[int]) -> tuple[int, int]:
    """Edges of the blocks for maps of these positions; 1, 1 where every position counts for itself: vectors, tokens,
    and maps of at most 14 x 14."""
    if len(shape) < 2:
        return 1, 1
    height, width = (-(-size // MOST) for size in shape[-2:])
    return height, width


def block_count(shape: Sequence[int]) -> int:
    """Number of blocks of maps of these positions."""
    if len(shape) < 2:
        return prod(shape)
    (height, width), edges = shape[-2:], block_edges(shape)
    return prod(shape[:-2]) * -(-height // edges[0]) * -(-width // edges[1])


def block_sums(maps: Tensor, shape: Sequence[int]) -> Tensor:
    """Sums over the blocks of maps (B, C, D) whose positions have this shape: (B, C, blocks), in the maps' dtype; the
    maps themselves where there are no blocks. Channels-last maps stay channels-last."""
    edges = block_edges(shape)
    if edges == (1, 1):
        return maps
    planes = maps.reshape(*maps.shape[:2], *shape)  # a view
    if len(shape) > 2:  # each plane of a volume for itself
        planes = planes.movedim(1, -3).flatten(0, -4)
    sums = avg_pool2d(planes, edges, ceil_mode=True, divisor_override=1)
    if len(shape) > 2:
        sums = sums.reshape(len(maps), *shape[:-2], *sums.shape[1:]).movedim(-3, 1)
    return sums.flatten(2)


@lru_cache(maxsize=64)
def block_sizes(shape: tuple[int, ...]) -> Tensor:
    """Positions in each block, float32 (blocks,)."""
    return block_sums(torch.ones(1, 1, prod(shape)), shape)[0, 0]


def spread(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """Values of blocks (C, blocks) at each of their positions: (C, D)."""
    height, width = block_edges(shape)
    if (height, width) == (1, 1):
        return blocks
    counts = (*shape[:-2], -(-shape[-2] // height), -(-shape[-1] // width))
    planes = blocks.reshape(len(blocks), *counts).repeat_interleave(height, -2).repeat_interleave(width, -1)
    return planes[..., : shape[-2], : shape[-1]].flatten(1)
