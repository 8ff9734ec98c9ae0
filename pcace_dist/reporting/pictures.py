"""Small pictures as data: thumbnails, activation maps to lay over them, axes. Arrays in, bytes out; no I/O."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pcace_dist.datasets.decoding.thumbnail import thumbnail

Bytes = npt.NDArray[np.uint8]

PICTURE_BYTES = 9 << 20  # of all thumbnails of a page
SIZES = (224, 192, 160, 128, 112, 96, 80, 64)
BYTES_PER_PIXEL = 0.32  # of a WebP photograph at this quality, about
BLURRED = 16  # pixels of the longer side
MAP_SIDE = 32  # pixels of an activation map at most
LEVELS = 32  # of a map's palette


def thumbnail_side(count: int, shape: tuple[int, int]) -> int:
    """The longer side with which `count` images of a shape fit into PICTURE_BYTES."""
    for side in SIZES:
        pixels = side * side * min(shape) / max(shape)
        if count * pixels * BYTES_PER_PIXEL <= PICTURE_BYTES:
            return min(side, max(shape))
    return min(SIZES[-1], max(shape))


def blurred_side(shape: tuple[int, int]) -> int:
    """The longer side of an image of which little is to be made out: BLURRED pixels, or a quarter of a small image."""
    return max(1, min(BLURRED, max(shape) // 4))


def shrink_map(values: torch.Tensor, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | None:
    """A map (D,) with its shape as float32 (h, w), at most MAP_SIDE pixels; None for a vector.

    Tokens (one axis) become one row; of three axes, the first is averaged.
    """
    if not shape:
        return None
    shrunk = values.float().reshape(shape)
    if shrunk.dim() == 1:
        shrunk = shrunk.unsqueeze(0)
    while shrunk.dim() > 2:
        shrunk = shrunk.mean(0)
    if max(shrunk.shape) > MAP_SIDE:
        size = [max(1, min(side, round(side * MAP_SIDE / max(shrunk.shape)))) for side in shrunk.shape]
        shrunk = torch.nn.functional.interpolate(shrunk[None, None], size=size, mode="area")[0, 0]
    return np.asarray(shrunk.cpu().numpy(), np.float32)


def heat_png(values: npt.NDArray[np.floating], low: float, high: float) -> bytes:
    """A map as a PNG to lay over its image: transparent at `low`, bright at `high`."""
    levels = _levels(values, low, high)
    ramp = np.linspace(0, 1, LEVELS)
    colours = np.stack([255 * np.ones(LEVELS), 70 + 160 * ramp**1.5, 40 * (1 - ramp)], 1).round().astype(np.uint8)
    return _palette_png(levels, colours, (225 * ramp**0.8).round().astype(np.uint8))


def signed_png(values: npt.NDArray[np.floating]) -> bytes:
    """Signed values as a PNG: blue below zero, red above, light at zero."""
    reach = float(np.abs(values).max()) or 1.0
    levels = _levels(values, -reach, reach)
    ramp = np.linspace(-1, 1, LEVELS)[:, None]
    blue, red, middle = np.array([[33, 102, 172]]), np.array([[178, 24, 43]]), np.array([[247, 247, 247]])
    colours = np.where(ramp < 0, middle + (blue - middle) * -ramp, middle + (red - middle) * ramp)
    return _palette_png(levels, colours.round().astype(np.uint8), None)


def rgb_image(pixels: npt.NDArray[np.floating]) -> bytes:
    """Values 0 to 1, (C, H, W), as WebP."""
    image = torch.from_numpy(np.clip(np.asarray(pixels) * 255, 0, 255).round().astype(np.uint8))
    return thumbnail(image, max(image.shape[1:]))


def _levels(values: npt.NDArray[np.floating], low: float, high: float) -> Bytes:
    span = high - low if high > low else 1.0
    scaled = np.clip((np.nan_to_num(values, nan=low) - low) / span, 0, 1)
    return np.asarray((scaled * (LEVELS - 1)).round(), np.uint8)


def _palette_png(levels: Bytes, colours: Bytes, alpha: Bytes | None) -> bytes:
    picture = Image.fromarray(levels, mode="P")
    picture.putpalette(colours.reshape(-1).tolist())
    sink = io.BytesIO()
    options = {} if alpha is None else {"transparency": alpha.tobytes()}
    picture.save(sink, "PNG", optimize=True, bits=5 if LEVELS <= 32 else 8, **options)
    return sink.getvalue()
