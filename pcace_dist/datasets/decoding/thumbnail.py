"""An image for people: as Pillow has it, small for a page (WebP), and as a data URL."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from pcace_dist.datasets.decoding.tensors import as_picture

QUALITY = 78
SMALL = 64  # images up to this size are stored without loss


def as_image(image: torch.Tensor) -> Image.Image:
    """An image as it is decoded, (C, H, W), in grey or RGB (see `as_picture`)."""
    pixels = as_picture(image).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def thumbnail(image: torch.Tensor, side: int) -> bytes:
    """An image as it is decoded, (C, H, W), as WebP, with a longer side of at most `side` pixels; small images without
    loss."""
    picture = as_image(image).convert("RGB")
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    if max(picture.size) <= SMALL:
        picture.save(sink, "WEBP", lossless=True, method=3)
    else:
        picture.save(sink, "WEBP", quality=QUALITY, method=3)
    return sink.getvalue()


def data_url(data: bytes) -> str:
    """Bytes of a PNG or WebP file as a data URL."""
    kind = "png" if data.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
