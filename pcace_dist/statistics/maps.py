"""Converts activation maps of any layout and precision to float32 with each channel's positions contiguous.

Pure: tensors in, tensors out. Products over the positions of a map need that layout. Maps that have it are passed on
unchanged. Channels-last maps are transposed in blocks (by channel_shuffle, several times as fast as a strided copy).
bfloat16 is transposed as pairs of channels in 32 bits and widened afterwards, which is exact.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import channel_shuffle

EVERY, EVEN, ODD = slice(None), slice(0, None, 2), slice(1, None, 2)
_UPPER_HALF = -65536  # the mask 0xffff0000 as int32
_TILE = 1 << 17  # pairs transposed at a time: they stay in the CPU's cache


def by_channel(maps: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Maps (B, C, D) in one or two parts: (channels, float32 (B, these channels, D) with a contiguous last dimension).

    Exact for float32 and bfloat16. A part may share memory with the one before: use it at once.
    """
    turned = maps.transpose(1, 2)  # (B, D, C)
    if maps.stride(2) == 1 or maps.shape[2] == 1 or maps.device.type != "cpu" or not turned.is_contiguous():
        yield EVERY, maps.to(torch.float32).contiguous() if maps.dtype != torch.float32 else maps
    elif maps.dtype == torch.bfloat16 and maps.shape[1] % 2 == 0 and sys.byteorder == "little":
        yield from _halves(turned)
    else:
        yield EVERY, _turn(turned.float())


def _turn(rows: Tensor) -> Tensor:
    """Transposes (B, D, C), contiguous, to (B, C, D), contiguous."""
    count, positions, channels = rows.shape
    size = positions * channels
    shuffled = channel_shuffle(rows.as_strided((1, size, 1, count), (count * size, 1, count * size, size)), positions)
    return shuffled.as_strided((count, channels, positions), (size, positions, 1))


def _halves(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """bfloat16 (B, D, C): first the even channels, then the odd ones, each float32 (B, C / 2, D).

    The upper 16 bits of a float32 are a bfloat16. On a little-endian machine, the even channel of a pair is the lower
    half.
    """
    count, positions, channels = rows.shape
    pairs = rows.view(torch.float32)  # only moved, never used in arithmetic
    even = torch.empty((count, channels // 2, positions), dtype=torch.int32)
    odd = torch.empty_like(even)
    step = max(1, _TILE // max(1, positions * channels // 2))
    for start in range(0, count, step):
        part = slice(start, start + step)
        moved = _turn(pairs[part]).view(torch.int32)
        torch.bitwise_left_shift(moved, 16, out=even[part])
        torch.bitwise_and(moved, _UPPER_HALF, out=odd[part])
    yield EVEN, even.view(torch.float32)
    yield ODD, odd.view(torch.float32)
