"""From the bytes of one image to a uint8 tensor of the model's geometry. A pure function of the bytes; no
I/O, no threads.

The first bytes decide the decoder, never a name: JPEG goes to torchvision's libjpeg-turbo (which takes a
truncated file for an error), the others to Pillow's class for that very format. torchvision's PNG decoder is
not used: a single flipped bit ends the whole process there. All limits are checked before a pixel is
decoded.

Two short cuts, both a function of the file alone. A plain PNG (8 bits, no palette, no alpha, nothing but
pixels) goes straight to Pillow's inflater: the same pixels without the format's class around them. A JPEG
that stays at least four times as large as `resize` asks for is decoded at 1/2, 1/4 or 1/8 (libjpeg's scaled
inverse DCT), unless `scaled_decode` is off; docs/pipeline.md says how far that is from the whole image.

Conventions: the first frame of an animation; alpha is dropped; 16-bit grey keeps the high byte, as 16-bit
colour does; EXIF orientation is not applied; grey of a colour JPEG is its luma channel. These are
torchvision's.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torchvision.io  # noqa: F401 - registers torch.ops.image
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from pcace_dist.errors import RowError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (C, H, W)
Encoded: TypeAlias = bytes | memoryview
"""A file's bytes. A JPEG is decoded where it lies from a view that could be written to: torch warns of other memory."""

TORCHVISION_MODE = {"L": 1, "RGB": 3}  # also the channels that it gives
JPEG_BEGIN = b"\xff\xd8\xff"
PNG_END = b"IEND\xaeB`\x82"
PNG_BEGIN = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
PNG_HEADER = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, compression, filtering, interlacing
PLAIN_PNG = {(8, 0, 0, 0, 0): "L", (8, 2, 0, 0, 0): "RGB"}
PNG_START = 8  # the first chunk begins after the signature
PNG_DATA = 33  # and the second after the header
UINT32 = struct.Struct(">I")
# Start-of-frame markers hold the size; C4, C8 and CC are tables and reserved.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# torchvision's own condition for resizing bytes as bytes, on every processor on which nothing else is different
BYTES_RESIZE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512", "AMX")
SCALES = (8, 4, 2)  # what libjpeg divides sides by
SPARE = 4  # a scaled image is at least so many times the size that is asked for: the resize filters what is left


@dataclass(frozen=True)
class ImageSpec:
    """What the model takes in: the job's model.input (geometry part) and limits.

    `resize` int: the shorter side, aspect kept; (h, w): exact. `crop`: centre crop, int or (h, w).
    torchvision's meaning. `scaled_decode`: whether much larger JPEGs are decoded at 1/2, 1/4 or 1/8.
    """

    mode: str = "RGB"
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    scaled_decode: bool = True
    max_pixels: int = 178_956_970
    max_bytes: int = 67_108_864


def decode(data: Encoded | None, spec: ImageSpec) -> torch.Tensor:
    """Decode and bring to size: uint8 (C, H, W), C = 3 for mode RGB, 1 for L; not always contiguous.

    Raises RowError("decode", reason) for a null, empty, oversized, truncated or broken image and for what is
    none.
    """
    return torch.from_numpy(pixels(data, spec))


def pixels(data: Encoded | None, spec: ImageSpec) -> Pixels:
    """As `decode`, as an array: for many small images the tensor around it would cost more than the pixels."""
    if data is None:
        raise RowError("decode", "image is null")
    if not len(data):
        raise RowError("decode", "image is empty")
    if len(data) > spec.max_bytes:
        raise RowError("decode", f"{len(data)} bytes are beyond limits.bytes {spec.max_bytes}")
    if data[:3] == JPEG_BEGIN:
        image = _decode_jpeg(data, spec)
    else:
        data = bytes(data)
        plain = _plain_png(data, spec) if data.startswith(PNG_BEGIN) else None
        array = _decode_pillow(data, spec) if plain is None else _as_array(plain, spec.mode)
        if spec.resize is None and spec.crop is None:
            return array
        image = torch.from_numpy(array)
    return _to_size(image, spec).numpy()


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the header, without decoding. Raises RowError if there is no such header."""
    if data[:3] == JPEG_BEGIN:
        return _jpeg_size(data)
    return _open_pillow(data)[1].size


def _decode_jpeg(data: Encoded, spec: ImageSpec) -> torch.Tensor:
    width, height = _jpeg_size(data)
    _check_pixels(width, height, spec)
    scale = scale_of(height, width, spec)
    scaled = _scaled_jpeg(data, spec.mode, scale) if scale > 1 else None
    if scaled is not None:
        return torch.from_numpy(scaled)
    try:
        image: torch.Tensor = torch.ops.image.decode_jpeg(buffer_of(data), TORCHVISION_MODE[spec.mode], False)
    except RuntimeError as error:
        reason = re.sub(r"^.*\.cpp:\d+, ", "", str(error).splitlines()[0])
        raise _broken("JPEG", reason) from None
    return image


def buffer_of(data: Encoded) -> torch.Tensor:
    """A file's bytes as a tensor, uint8 (bytes,): the memory itself where it may be written to, else a copy."""
    writable = isinstance(data, memoryview) and not data.readonly
    return torch.frombuffer(data if writable else bytearray(data), dtype=torch.uint8)  # it warns of other memory


def scale_of(height: int, width: int, spec: ImageSpec) -> int:
    """By what a JPEG of this size is divided while it is decoded: 1, 2, 4 or 8.

    Only where a resize with antialiasing follows, which averages over the pixels that are missing then.
    """
    smooth = spec.antialias and spec.interpolation in ("bilinear", "bicubic")
    if spec.resize is None or not (spec.scaled_decode and smooth):
        return 1
    wanted = resized(height, width, spec.resize)
    fits = (s for s in SCALES if height >= SPARE * s * wanted[0] and width >= SPARE * s * wanted[1])
    return next(fits, 1)


def _scaled_jpeg(data: Encoded, mode: str, scale: int) -> Pixels | None:
    """Decode at 1/scale; None for colour spaces other than grey and YCbCr, which the usual decoder takes.

    By Pillow, whose libjpeg-turbo is torchvision's; torchvision does not offer the scale.
    """
    try:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        width, height = image.size
        image.draft("L" if mode == "L" else None, (width // scale, height // scale))
        if image.mode not in TORCHVISION_MODE or image.size != (-(-width // scale), -(-height // scale)):
            return None
        image.load()
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise _broken("JPEG", str(error)) from None
    return _as_array(image, mode)


def _jpeg_size(data: Encoded) -> tuple[int, int]:
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


def _plain_png(data: bytes, spec: ImageSpec) -> Image.Image | None:
    """A PNG of one header, pixels and the end, all whole; None for any other: its class decodes it or says why not."""
    width, height, *kind = PNG_HEADER.unpack_from(data.ljust(PNG_DATA), len(PNG_BEGIN))
    mode = PLAIN_PNG.get(tuple(kind))
    packed = None if mode is None else _png_data(data)
    if mode is None or packed is None or width * height == 0:
        return None
    _check_pixels(width, height, spec)
    try:
        return Image.frombytes(mode, (width, height), packed, "zip", mode)
    except Exception:  # too few pixels, or not what zlib packs
        return None


def _png_data(data: bytes) -> bytes | None:
    """The packed pixels; None where a chunk is damaged or anything but header, pixels and end is there."""
    parts: list[bytes] = []
    at = PNG_START
    try:
        while True:
            end = at + 8 + UINT32.unpack_from(data, at)[0]
            if zlib.crc32(data[at + 4 : end]) != UINT32.unpack_from(data, end)[0]:
                return None
            kind = data[at + 4 : at + 8]
            if kind == b"IEND":
                return parts[0] if len(parts) == 1 else b"".join(parts)
            if kind == b"IDAT":
                parts.append(data[at + 8 : end])
            elif at != PNG_START or kind != b"IHDR":
                return None
            at = end + 4
    except struct.error:  # it ends before its end
        return None


def _decode_pillow(data: bytes, spec: ImageSpec) -> Pixels:
    kind, image = _open_pillow(data)
    _check_pixels(*image.size, spec)
    try:
        image.load()
        return _as_array(image, spec.mode)
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


def _as_array(image: Image.Image, mode: str) -> Pixels:
    """(C, H, W), writable: torch takes no other memory without a warning."""
    if image.mode != mode:
        image = _converted(image, mode)
    flat = np.frombuffer(bytearray(image.tobytes()), dtype=np.uint8)
    return flat.reshape(image.height, image.width, TORCHVISION_MODE[mode]).transpose(2, 0, 1)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise RowError("decode", "32-bit pixels are not supported")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # the palette's transparency becomes alpha, which is dropped next
    return image if image.mode == mode else image.convert(mode)


def _to_size(image: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    if spec.resize is not None:
        height, width = resized(image.shape[1], image.shape[2], spec.resize)
        if height * width > spec.max_pixels:
            raise RowError(
                "decode",
                f"{width}x{height} pixels after model.input.resize are beyond limits.pixels {spec.max_pixels}",
            )
        image = _resized(image, height, width, spec)
    if spec.crop is not None:
        crop = [spec.crop, spec.crop] if isinstance(spec.crop, int) else list(spec.crop)
        image = functional.center_crop_image(image, crop)
    return image


def _resized(image: torch.Tensor, height: int, width: int, spec: ImageSpec) -> torch.Tensor:
    """torchvision's resize. What it asks torch for on a processor whose kernels take bytes, is asked for directly: its
    own bookkeeping takes as long as 6 % of the resize of a photograph (the tests hold the two to the same bits).
    """
    channels, *before = image.shape
    if before == [height, width]:
        return image
    if not (BYTES_RESIZE and spec.interpolation == "bilinear" and channels == 3 and image.stride(0) == 1):
        mode = InterpolationMode(spec.interpolation)
        by_name: torch.Tensor = functional.resize_image(
            image, [height, width], interpolation=mode, antialias=spec.antialias
        )
        return by_name
    strides = (image.numel(), *image.stride())  # a batch of one that torch sees to be channels-last
    one = image.as_strided((1, *image.shape), strides)
    return torch.nn.functional.interpolate(one, [height, width], mode="bilinear", antialias=spec.antialias)[0]


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
