"""Channels-last maps times the axes, in a compiled loop: PyTorch has no operation that multiplies them where they lie.

Pure: tensors in, tensors out. Every channel's sum goes over its positions in one fixed order, with one rounding for
each product and sum (FMA), so its bits depend neither on the rows beside it nor on how wide the processor's vectors
are. Compiled by Numba when it is first used, for processors only; where Numba is missing, `able` says no and the maps
are turned round instead (maps.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError

TILE = 64  # positions that are summed on their own before they are added to the rest; the bits depend on it
FEWEST_CHANNELS = 64  # below, vectors are half empty, and turning is as fast
FEWEST_VALUES = 50_000  # of one image's map; below, the gain does not pay for loading the compiler
_BITS = {torch.bfloat16: (torch.int16, np.uint16, 16), torch.float32: (torch.int32, np.uint32, 0)}


def version() -> str:
    """What compiles the loop, for the numeric class; "none" where there is nothing."""
    if not _there():
        return "none"
    from importlib.metadata import version as installed

    return f"numba {installed('numba')}"


def large(channels: int, positions: int) -> bool:
    """Whether a layer is large enough for the loop, and the loop can be compiled."""
    return channels >= FEWEST_CHANNELS and positions > 1 and channels * positions >= FEWEST_VALUES and _there()


def able(maps: Tensor) -> bool:
    """Whether maps (B, C, D) are for the loop: of a large layer, channels-last on a processor, in float32 or bfloat16.
    Does not depend on how many rows there are."""
    if maps.device.type != "cpu" or maps.dtype not in _BITS or not large(*maps.shape[1:]):
        return False
    return maps.stride(2) != 1 and maps.transpose(1, 2).is_contiguous()


def axes_of(weights: Tensor) -> Tensor:
    """A plan's weights (C, D, p) as `products` takes them: (D, p, C), contiguous; a view where they lie so already."""
    return weights.permute(1, 2, 0).contiguous()


def products(maps: Tensor, axes: Tensor) -> Tensor:
    """Sums over the positions of maps (B, C, D) times axes (D, p, C), and last of the maps alone: float32 (B, p+1, C).

    Works with as many threads as torch's own operations. Only for maps that `able` accepts.
    """
    stored, bits, shift = _BITS[maps.dtype]
    values = maps.transpose(1, 2).view(stored).numpy().view(bits)  # (B, D, C)
    sums = torch.zeros((len(maps), axes.shape[1] + 1, maps.shape[1]), dtype=torch.float32)
    loop, weights, out = _compiled(), axes.numpy(), sums.numpy()
    threads = min(torch.get_num_threads(), len(maps))
    if threads == 1:
        loop(values, shift, weights, out, TILE)
    else:
        parts = [slice(len(maps) * i // threads, len(maps) * (i + 1) // threads) for i in range(threads)]
        list(_pool(threads).map(lambda part: loop(values[part], shift, weights, out[part], TILE), parts))
    return sums


@lru_cache(maxsize=1)
def _there() -> bool:
    return sys.byteorder == "little" and find_spec("numba") is not None


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="pcace-tap")


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., None]:
    """The loop as machine code; kept on disk where there is a place for it, so that it is compiled once."""
    try:
        import numba  # here: a third of a second, and where maps are never channels-last nobody needs it
    except ImportError as error:
        raise StatisticsError(f"numba is installed, but cannot be imported: {error}; install it anew") from error

    settings: dict[str, Any] = {"fastmath": {"contract"}, "nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **settings)(_loop)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return numba.njit(**settings)(_loop)  # type: ignore[no-any-return]


def _loop(maps: np.ndarray, shift: int, axes: np.ndarray, out: np.ndarray, tile: int) -> None:
    """out (B, p+1, C), zeros before, from the bits of maps (B, D, C), which become float32's when shifted up.

    A tile's axes stay in the second cache for all images. Written for the compiler: only loops over channels without
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
