"""From the bytes of one image to a uint8 tensor of the model's geometry. A pure function of the bytes; no
I/O, no threads.

The first bytes decide the decoder, never a name: JPEG goes to torchvision's libjpeg-turbo (which takes a
truncated file for an error), the others to Pillow's class for that very format. torchvision's PNG decoder is
not used: a single flipped bit ends the whole process there. All limits are checked before a pixel is
decoded.

Conventions: the first frame of an animation; alpha is dropped; 16-bit grey keeps the high byte, as 16-bit
colour does; EXIF orientation is not applied; grey of a colour JPEG is its luma channel. These are
torchvision's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision.io  # noqa: F401 - registers torch.ops.image
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from pcace_dist.errors import RowError

TORCHVISION_MODE = {"L": 1, "RGB": 3}
PNG_END = b"IEND\xaeB`\x82"
# Start-of-frame markers hold the size; C4, C8 and CC are tables and reserved.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class ImageSpec:
    """What the model takes in: the job's model.input (geometry part) and limits.

    `resize` int: the shorter side, aspect kept; (h, w): exact. `crop`: centre crop, int or (h, w).
    torchvision's meaning.
    """

    mode: str = "RGB"
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    max_pixels: int = 178_956_970
    max_bytes: int = 67_108_864


def decode(data: bytes | None, spec: ImageSpec) -> torch.Tensor:
    """Decode and bring to size: uint8 (C, H, W), C = 3 for mode RGB, 1 for L; not always contiguous.

    Raises RowError("decode", reason) for a null, empty, oversized, truncated or broken image and for what is
    none.
    """
    if data is None:
        raise RowError("decode", "image is null")
    if not data:
        raise RowError("decode", "image is empty")
    if len(data) > spec.max_bytes:
        raise RowError("decode", f"{len(data)} bytes are beyond limits.bytes {spec.max_bytes}")
    image = _decode_jpeg(data, spec) if data.startswith(b"\xff\xd8\xff") else _decode_pillow(data, spec)
    return _to_size(image, spec)


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the header, without decoding. Raises RowError if there is no such header."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(data)
    return _open_pillow(data)[1].size


def _decode_jpeg(data: bytes, spec: ImageSpec) -> torch.Tensor:
    _check_pixels(*_jpeg_size(data), spec)
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # bytearray: torch wants memory it may write to
    try:
        image: torch.Tensor = torch.ops.image.decode_jpeg(buffer, TORCHVISION_MODE[spec.mode], False)
    except RuntimeError as error:
        reason = re.sub(r"^.*\.cpp:\d+, ", "", str(error).splitlines()[0])
        raise _broken("JPEG", reason) from None
    return image


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk the marker segments up to the start of frame."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            raise RowError("decode", "broken JPEG (no frame header)")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise RowError("decode", "truncated JPEG")


def _decode_pillow(data: bytes, spec: ImageSpec) -> torch.Tensor:
    kind, image = _open_pillow(data)
    _check_pixels(*image.size, spec)
    try:
        image.load()
        return _as_tensor(image, spec.mode)
    except RowError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise _broken(kind, str(error)) from None


def _open_pillow(data: bytes) -> tuple[str, ImageFile.ImageFile]:
    """Open by the first bytes. The format's own class reads the header only, and knows no global pixel
    limit.
    """
    for kind, (matches, factory) in PILLOW.items():
        if matches(data):
            if kind == "PNG" and data.rfind(PNG_END) < 0:  # Pillow forgives a missing end
                raise RowError("decode", "truncated PNG")
            try:
                return kind, factory(io.BytesIO(data))
            except Exception as error:  # as above
                raise _broken(kind, str(error)) from None
    raise RowError("decode", "not an image")


PILLOW: dict[str, tuple[Callable[[bytes], bool], Callable[[io.BytesIO], ImageFile.ImageFile]]] = {
    "PNG": (lambda d: d.startswith(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    "GIF": (lambda d: d.startswith((b"GIF87a", b"GIF89a")), GifImagePlugin.GifImageFile),
    "WebP": (lambda d: d.startswith(b"RIFF") and d[8:12] == b"WEBP", WebPImagePlugin.WebPImageFile),
    "BMP": (lambda d: d.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
    "TIFF": (lambda d: d.startswith((b"II*\0", b"MM\0*")), TiffImagePlugin.TiffImageFile),
    "PNM": (
        lambda d: d[:1] == b"P" and d[1:2] in b"123456" and d[2:3].isspace(),
        PpmImagePlugin.PpmImageFile,
    ),
}


def _as_tensor(image: Image.Image, mode: str) -> torch.Tensor:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise RowError("decode", "32-bit pixels are not supported")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # the palette's transparency becomes alpha, which is dropped next
    if image.mode != mode:
        image = image.convert(mode)
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, len(image.getbands())).permute(2, 0, 1)


def _to_size(image: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    if spec.resize is not None:
        height, width = resized(image.shape[1], image.shape[2], spec.resize)
        if height * width > spec.max_pixels:
            raise RowError(
                "decode",
                f"{width}x{height} pixels after model.input.resize are beyond limits.pixels {spec.max_pixels}",
            )
        mode = InterpolationMode(spec.interpolation)
        image = functional.resize(image, [height, width], interpolation=mode, antialias=spec.antialias)
    if spec.crop is not None:
        crop = [spec.crop, spec.crop] if isinstance(spec.crop, int) else list(spec.crop)
        image = functional.center_crop(image, crop)
    return image


def resized(height: int, width: int, size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) after a resize: the shorter side becomes `size`, the longer is cut to whole pixels."""
    if not isinstance(size, int):
        return size[0], size[1]
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def _check_pixels(width: int, height: int, spec: ImageSpec) -> None:
    if width * height > spec.max_pixels:
        raise RowError("decode", f"{width}x{height} pixels are beyond limits.pixels {spec.max_pixels}")
    if width * height == 0:
        raise RowError("decode", "image has no pixels")


def _broken(kind: str, text: str) -> RowError:
    text = text.strip().splitlines()[0][:120] if text.strip() else "cannot be decoded"
    if re.search("truncated|incomplete|premature", text, re.IGNORECASE):
        return RowError("decode", f"truncated {kind}")
    return RowError("decode", f"broken {kind} ({text})")
