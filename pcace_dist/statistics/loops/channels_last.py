"""Multiplies channels-last maps by the axes in a compiled loop: PyTorch has no operation for this without a copy.

Pure: tensors in, tensors out. Every channel is summed over its positions in one fixed order, with one rounding for each
product and sum (FMA). So its bits depend neither on other rows nor on the width of the CPU's vectors. Numba compiles
the loop (register_blocks.py) when it is first used, for CPUs only. Without Numba, `supports` is False and the maps are
transposed instead (maps.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from pcace_dist.statistics.loops.compiled import compiler, has_numba, in_slices, machine_code

TILE = 64  # positions that are summed separately before they are added to the total; the bits depend on it
FEWEST_CHANNELS = 64  # with fewer, vectors are half empty, and transposing is as fast
FEWEST_VALUES = 50_000  # in one image's map; with fewer, the gain is less than the time to load the compiler
_PRECISIONS = (torch.bfloat16, torch.float32)


def is_large(channels: int, positions: int) -> bool:
    """Whether a layer is large enough for the loop, and the loop can be compiled."""
    return channels >= FEWEST_CHANNELS and positions > 1 and channels * positions >= FEWEST_VALUES and has_numba()


def supports(maps: Tensor) -> bool:
    """Whether the loop takes maps (B, C, D): a large layer, channels-last on a CPU, in float32 or bfloat16. Does not
    depend on the number of rows."""
    if maps.device.type != "cpu" or maps.dtype not in _PRECISIONS or not is_large(*maps.shape[1:]):
        return False
    (images, channels, positions), strides = maps.shape, maps.stride()
    return strides[1:] == (1, channels) and (images <= 1 or strides[0] == channels * positions)


def project(maps: Tensor, axes: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Components, maps (B, C, D) times packed axes (packed_axes.py) minus offsets (C, p), float32 (B, C, p), and the
    maps' means, float32 (B, C).

    Uses as many threads as torch's own operations. Only for maps that `supports` accepts. What it asks of torch runs
    between two layers of a model, when none of torch's own code is in the cache: arrays are NumPy's.
    """
    images, channels, positions = maps.shape
    rows = maps.transpose(1, 2)  # (B, D, C)
    values = rows.numpy() if maps.dtype == torch.float32 else rows.view(torch.int16).numpy().view(np.uint16)
    weights, offset, count = axes.numpy(), offsets.numpy(), axes.shape[2]
    sums = np.zeros((images, count + 1, channels), np.float32)
    components, means = np.empty((images, channels, count), np.float32), np.empty((images, channels), np.float32)
    add_sums, finish = _loops(count)

    def work(part: slice) -> None:
        add_sums(values[part], weights, sums[part], TILE)
        finish(sums[part], offset, np.float32(positions), components[part], means[part])

    in_slices(work, images)
    return torch.from_numpy(components), torch.from_numpy(means)


@cache
def _loops(components: int) -> tuple[Callable[..., None], Callable[..., None]]:
    compiler()
    from pcace_dist.statistics.loops.register_blocks import add_sums, slots_of

    return partial(machine_code(add_sums), slots=slots_of(components)), machine_code(_finish, fused=False)


def _finish(
    sums: np.ndarray, offsets: np.ndarray, positions: np.float32, components: np.ndarray, means: np.ndarray
) -> None:
    """Components and means of sums (B, p+1, C) over the positions: of the products, then of the maps alone."""
    images, last, channels = sums.shape[0], sums.shape[1] - 1, sums.shape[2]
    for image in range(images):
        for channel in range(channels):
            for component in range(last):
                components[image, channel, component] = sums[image, component, channel] - offsets[channel, component]
            means[image, channel] = sums[image, last, channel] / positions
