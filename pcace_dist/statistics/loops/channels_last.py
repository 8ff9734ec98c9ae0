"""Multiplies channels-last maps by the axes in a compiled loop: PyTorch has no operation for this without a copy.

Pure: tensors in, tensors out. Every channel is summed over its positions in one fixed order, with one rounding for each
product and sum (FMA). So its bits depend neither on other rows nor on the width of the CPU's vectors. Numba compiles
the loop when it is first used, for CPUs only. Without Numba, `supports` is False and the maps are transposed instead
(maps.py).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pcace_dist.statistics.loops.compiled import has_numba, in_slices, machine_code

TILE = 64  # positions that are summed separately before they are added to the total; the bits depend on it
FEWEST_CHANNELS = 64  # with fewer, vectors are half empty, and transposing is as fast
FEWEST_VALUES = 50_000  # in one image's map; with fewer, the gain is less than the time to load the compiler
_BITS = {torch.bfloat16: (torch.int16, np.uint16, 16), torch.float32: (torch.int32, np.uint32, 0)}


def is_large(channels: int, positions: int) -> bool:
    """Whether a layer is large enough for the loop, and the loop can be compiled."""
    return channels >= FEWEST_CHANNELS and positions > 1 and channels * positions >= FEWEST_VALUES and has_numba()


def supports(maps: Tensor) -> bool:
    """Whether the loop takes maps (B, C, D): a large layer, channels-last on a CPU, in float32 or bfloat16. Does not
    depend on the number of rows."""
    if maps.device.type != "cpu" or maps.dtype not in _BITS or not is_large(*maps.shape[1:]):
        return False
    return maps.stride(2) != 1 and maps.transpose(1, 2).is_contiguous()


def axes_of(weights: Tensor) -> Tensor:
    """A plan's weights (C, D, p) in the layout for `project`: (D, p, C), contiguous; a view where possible."""
    return weights.permute(1, 2, 0).contiguous()


def project(maps: Tensor, axes: Tensor) -> Tensor:
    """Sums over the positions of maps (B, C, D) times axes (D, p, C), then of the maps alone: float32 (B, p+1, C).

    Uses as many threads as torch's own operations. Only for maps that `supports` accepts.
    """
    stored, bits, shift = _BITS[maps.dtype]
    values = maps.transpose(1, 2).view(stored).numpy().view(bits)  # (B, D, C)
    sums = torch.zeros((len(maps), axes.shape[1] + 1, maps.shape[1]), dtype=torch.float32)
    loop, weights, out = machine_code(_loop), axes.numpy(), sums.numpy()
    in_slices(lambda rows: loop(values[rows], shift, weights, out[rows], TILE), len(maps))
    return sums


def _loop(maps: np.ndarray, shift: int, axes: np.ndarray, out: np.ndarray, tile: int) -> None:
    """Adds to out (B, p+1, C), which holds zeros, from the bits of maps (B, D, C); shifted up, these are float32.

    A tile's axes stay in the L2 cache for all images. Written for the compiler: only loops over channels without
    offsets become vector instructions.
    """
    images, positions, channels = maps.shape
    components = axes.shape[1]
    bits = np.empty(channels, np.uint32)
    row = bits.view(np.float32)
    sums = np.empty((components + 1, channels), np.float32)
    for start in range(0, positions, tile):
        stop = min(positions, start + tile)
        for image in range(images):
            sums[:] = 0
            for position in range(start, stop):
                for c in range(channels):
                    bits[c] = np.uint32(maps[image, position, c]) << np.uint32(shift)
                for c in range(channels):
                    sums[components, c] += row[c]
                for k in range(components):
                    for c in range(channels):
                        sums[k, c] += row[c] * axes[position, k, c]
            for k in range(components + 1):
                for c in range(channels):
                    out[image, k, c] += sums[k, c]
