"""Images that are no images: float32 arrays as a model takes them, stored as NumPy stores an array (`model.input.mode:
tensor`). Pure functions of bytes and arrays; nothing in such bytes is ever executed.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

from pcace_dist.datasets.formats import ARRAY_BEGIN, Encoded
from pcace_dist.errors import RowError

Floats = np.ndarray[Any, np.dtype[np.float32]]

AXES = 3
LEVELS = 255


def encode_array(array: Floats) -> bytes:
    """The bytes of a .npy file with this array, float32 (C, H, W)."""
    stream = io.BytesIO()
    npy.write_array(stream, np.ascontiguousarray(array, np.dtype("<f4")), (1, 0), allow_pickle=False)
    return stream.getvalue()


def decode_array(data: Encoded, channels: int, most_pixels: int) -> Floats:
    """The array of a .npy file, float32 (C, H, W).

    Raises RowError for other bytes, types and axes, another number of channels, and more pixels than `most_pixels`.
    """
    content = bytes(data)
    if not content.startswith(ARRAY_BEGIN):
        raise RowError("decode", "not an array of NumPy (.npy), which model.input.mode tensor takes")
    shape, start = _header(content)
    if len(shape) != AXES or shape[0] != channels:
        raise RowError("decode", f"shape {shape}, where ({channels}, H, W) is wanted; model.input.mean has {channels}")
    if not 0 < shape[1] * shape[2] <= most_pixels:
        raise RowError("decode", f"shape {shape}: no pixels, or beyond limits.pixels {most_pixels}")
    numbers, wanted = len(content) - start, 4 * math.prod(shape)
    if numbers != wanted:
        raise RowError("decode", f"{numbers} bytes of numbers, where shape {shape} has {wanted}")
    return np.frombuffer(content, "<f4", offset=start).reshape(shape).copy()  # torch warns of read-only memory


def _header(content: bytes) -> tuple[tuple[int, ...], int]:
    """The array's shape, and where its numbers begin."""
    stream = io.BytesIO(content)
    try:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError("a .npy file of another version than 1.0")
        shape, in_columns, dtype = npy.read_array_header_1_0(stream)
    except (ValueError, EOFError) as error:
        raise RowError("decode", f"array: {str(error).splitlines()[0]}") from None
    if dtype != np.dtype("<f4") or in_columns:
        order = " in columns" if in_columns else ""
        raise RowError("decode", f"array of {dtype}{order}, where float32 in rows is wanted")
    return shape, stream.tell()


def as_picture(image: Tensor) -> Tensor:
    """An image for people, uint8 (1 or 3, H, W), of one as it is decoded, uint8 or float (C, H, W).

    Floats are stretched from each image's least to its greatest value; of other numbers of channels, the first 3 or 1
    are shown.
    """
    shown = image if image.shape[0] in (1, 3) else image[: 3 if image.shape[0] > AXES else 1]
    if not shown.is_floating_point():
        return shown
    shown = shown.nan_to_num()
    low, high = shown.amin(), shown.amax()
    return ((shown - low) * (LEVELS / (high - low).clamp_min(1e-12))).round().byte()
