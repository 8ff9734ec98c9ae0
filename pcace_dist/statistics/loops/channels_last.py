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
    return maps.stride(2) != 1 and maps.transpose(1, 2).is_contiguous()


def project(maps: Tensor, axes: Tensor) -> Tensor:
    """Sums over the positions of maps (B, C, D) times packed axes (packed_axes.py), then of the maps alone: float32
    (B, p+1, C).

    Uses as many threads as torch's own operations. Only for maps that `supports` accepts.
    """
    rows = maps.transpose(1, 2)  # (B, D, C)
    values = rows.numpy() if maps.dtype == torch.float32 else rows.view(torch.int16).numpy().view(np.uint16)
    sums = torch.zeros((len(maps), axes.shape[2] + 1, maps.shape[1]), dtype=torch.float32)
    loop, weights, out = _loop(axes.shape[2]), axes.numpy(), sums.numpy()
    in_slices(lambda images: loop(values[images], weights, out[images], TILE), len(maps))
    return sums


@cache
def _loop(components: int) -> Callable[..., None]:
    compiler()
    from pcace_dist.statistics.loops.register_blocks import add_sums, slots_of

    return partial(machine_code(add_sums), slots=slots_of(components))
