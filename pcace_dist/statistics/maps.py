"""Activation maps in whatever layout and precision the model gives, as float32 with each channel's positions in a row.

Pure: tensors in, tensors out. Products over the positions of a map need that layout. Maps that have it are handed on
as they are. Channels-last maps are turned round with a blocked transpose (that of channel_shuffle, several times as
fast as a strided copy); bfloat16 is turned as pairs of channels in 32 bits and widened afterwards, which is exact.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import channel_shuffle

EVERY, EVEN, ODD = slice(None), slice(0, None, 2), slice(1, None, 2)
_UPPER_HALF = -65536  # the mask 0xffff0000 as int32
_TILE = 1 << 17  # pairs turned at a time: they stay in the processor's cache


def by_channel(maps: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Maps (B, C, D) as pairs of (which channels, float32 (B, those, D) whose last dimension is contiguous).

    Exact for float32 and bfloat16. What is yielded may share memory with what was yielded before: use it at once.
    """
    turned = maps.transpose(1, 2)  # (B, D, C)
    if maps.stride(2) == 1 or maps.shape[2] == 1 or maps.device.type != "cpu" or not turned.is_contiguous():
        yield EVERY, maps.to(torch.float32).contiguous() if maps.dtype != torch.float32 else maps
    elif maps.dtype == torch.bfloat16 and maps.shape[1] % 2 == 0 and sys.byteorder == "little":
        yield from _halves(turned)
    else:
        yield EVERY, _turn(turned.float())


def _turn(rows: Tensor) -> Tensor:
    """(B, D, C), contiguous, as (B, C, D), contiguous."""
    count, positions, channels = rows.shape
    whole = positions * channels
    shuffled = channel_shuffle(
        rows.as_strided((1, whole, 1, count), (count * whole, 1, count * whole, whole)), positions
    )
    return shuffled.as_strided((count, channels, positions), (whole, positions, 1))


def _halves(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """bfloat16 (B, D, C): first the even channels, then the odd ones, each float32 (B, C / 2, D).

    The upper 16 bits of a float32 are a bfloat16. On a little-endian machine the even channel of a pair lies in the
    lower half.
    """
    count, positions, channels = rows.shape
    pairs = rows.view(torch.float32)  # moved only, never computed with
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
