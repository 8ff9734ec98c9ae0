"""From the bytes of one image to a uint8 tensor of the model's geometry. A pure function of the bytes; no
I/O, no threads.

The first bytes decide the decoder, never a name: JPEG goes to torchvision's libjpeg-turbo (which takes a
truncated file for an error), the others to Pillow's class for that very format (`pillow_formats.py`). torchvision's
PNG decoder is not used: a single flipped bit ends the whole process there. All limits are checked before a pixel is
decoded.

Two short cuts, both a function of the file alone. A plain PNG (8 bits, no palette, no alpha, nothing but
pixels) goes straight to Pillow's inflater: the same pixels without the format's class around them. A JPEG
that stays at least four times as large as `resize` asks for is decoded at 1/2, 1/4 or 1/8 (libjpeg's scaled
inverse DCT), unless `scaled_decode` is off; docs/pipeline.md says how far that is from the whole image.

Conventions: the first frame of an animation; the largest image of an icon; alpha is dropped; 16-bit grey keeps the
high byte, as 16-bit colour does; grey of a colour JPEG is its luma channel. These are torchvision's. Pixels stay as
they are stored, or (`orientation: exif`) are turned as the orientation tag says before anything else is done with
them, whatever the format (`orientation.py`).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision.io  # noqa: F401 - registers torch.ops.image
from PIL import Image, JpegImagePlugin
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from pcace_dist.datasets.formats import HEAD, Encoded, format_of
from pcace_dist.datasets.jpeg_header import jpeg_exif, jpeg_size
from pcace_dist.datasets.orientation import AS_STORED, orientation_in, turned, turned_size
from pcace_dist.datasets.pillow_formats import broken, open_image, orientation_of
from pcace_dist.datasets.sections import Input, Limits
from pcace_dist.errors import RowError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (C, H, W)
TORCHVISION_MODE = {"L": 1, "RGB": 3}  # also the channels that it gives
JPEG_BEGIN = b"\xff\xd8\xff"
PNG_BEGIN = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
PNG_HEADER = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, compression, filtering, interlacing
PLAIN_PNG = {(8, 0, 0, 0, 0): "L", (8, 2, 0, 0, 0): "RGB"}
PNG_START = 8  # the first chunk begins after the signature
PNG_DATA = 33  # and the second after the header
UINT32 = struct.Struct(">I")
EXIF = "exif"  # of model.input.orientation; the other is "none"
# torchvision's own condition for resizing bytes as bytes, on every processor on which nothing else is different
BYTES_RESIZE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512", "AMX")
SCALES = (8, 4, 2)  # what libjpeg divides sides by
SPARE = 4  # a scaled image is at least so many times the size that is asked for: the resize filters what is left


@dataclass(frozen=True)
class ImageSpec(Input):
    """How images are decoded: the job's model.input, and its limits."""

    limits: Limits = field(default=Limits())


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
    if len(data) > spec.limits.bytes:
        raise RowError("decode", f"{len(data)} bytes are beyond limits.bytes {spec.limits.bytes}")
    if data[:3] == JPEG_BEGIN:
        image = _decode_jpeg(data, spec)
    else:
        data = bytes(data)
        plain = _plain_png(data, spec) if data.startswith(PNG_BEGIN) else None
        array = _decode_other(data, spec) if plain is None else _as_array(plain, spec.mode)
        if spec.resize is None and spec.crop is None:
            return array
        image = torch.from_numpy(array)
    return _to_size(image, spec).numpy()


def image_size(data: Encoded, orientation: str = "none") -> tuple[int, int]:
    """(width, height) of the image as it is decoded with this `orientation`, from the header alone.

    Raises RowError if there is no such header, or nothing here decodes such a file.
    """
    data = bytes(data)
    if format_of(data[:HEAD]) == "JPEG":
        width, height = jpeg_size(data)
        _check_pixels(width, height, None)
        return turned_size(width, height, orientation_of_jpeg(data) if orientation == EXIF else AS_STORED)
    kind, image = open_image(data, partial(_check_pixels, spec=None))
    return turned_size(*image.size, orientation_of(kind, data, image) if orientation == EXIF else AS_STORED)


def _decode_jpeg(data: Encoded, spec: ImageSpec) -> torch.Tensor:
    width, height = jpeg_size(data)
    _check_pixels(width, height, spec)
    if spec.orientation != EXIF:
        return _stored_jpeg(data, spec, scale_of(height, width, spec))
    orientation = orientation_of_jpeg(data)
    seen_width, seen_height = turned_size(width, height, orientation)
    return turned(_stored_jpeg(data, spec, scale_of(seen_height, seen_width, spec)), orientation)


def orientation_of_jpeg(data: Encoded) -> int:
    """The orientation that a JPEG asks for, 1 to 8."""
    return orientation_in(jpeg_exif(data))


def _stored_jpeg(data: Encoded, spec: ImageSpec, scale: int) -> torch.Tensor:
    scaled = _scaled_jpeg(data, spec.mode, scale) if scale > 1 else None
    if scaled is not None:
        return torch.from_numpy(scaled)
    try:
        image: torch.Tensor = torch.ops.image.decode_jpeg(buffer_of(data), TORCHVISION_MODE[spec.mode], False)
    except RuntimeError as error:
        reason = re.sub(r"^.*\.cpp:\d+, ", "", str(error).splitlines()[0])
        raise broken("JPEG", reason) from None
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
    """Decode at 1/scale; None for colour spaces other than grey and YCbCr, and for headers that Pillow reads in
    another way than libjpeg or not at all. Those the usual decoder takes or refuses.

    By Pillow, whose libjpeg-turbo is torchvision's; torchvision does not offer the scale.
    """
    try:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    except Exception:  # Pillow raises a dozen kinds for broken files
        return None
    try:
        width, height = image.size
        if (width, height) != jpeg_size(data):
            return None
        image.draft("L" if mode == "L" else None, (width // scale, height // scale))
        if image.mode not in TORCHVISION_MODE or image.size != (-(-width // scale), -(-height // scale)):
            return None
        image.load()
    except Exception as error:  # as above
        raise broken("JPEG", str(error)) from None
    return _as_array(image, mode)


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


def _decode_other(data: bytes, spec: ImageSpec) -> Pixels:
    """Any format but JPEG. One that begins as a JPEG with bytes before its first marker is decoded as such."""
    if format_of(data[:HEAD]) == "JPEG":
        return _decode_jpeg(data, spec).numpy()
    kind, image = open_image(data, partial(_check_pixels, spec=spec))
    try:
        image.load()
        array = _as_array(_narrow(image) if kind == "PNM" else image, spec.mode)
    except RowError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise broken(kind, str(error)) from None
    if spec.orientation != EXIF:
        return array
    return turned(torch.from_numpy(array), orientation_of(kind, data, image)).numpy()


def _as_array(image: Image.Image, mode: str) -> Pixels:
    """(C, H, W), writable: torch takes no other memory without a warning."""
    if image.mode != mode:
        image = _converted(image, mode)
    flat = np.frombuffer(bytearray(image.tobytes()), dtype=np.uint8)
    return flat.reshape(image.height, image.width, TORCHVISION_MODE[mode]).transpose(2, 0, 1)


def _narrow(image: Image.Image) -> Image.Image:
    """A PNM with more than 8 bits, which Pillow holds in 32 and scales to 16, as a 16-bit PNG is: the high byte."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode == "I" else image


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
        if height * width > spec.limits.pixels:
            raise RowError(
                "decode",
                f"{width}x{height} pixels after model.input.resize are beyond limits.pixels {spec.limits.pixels}",
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


def _check_pixels(width: int, height: int, spec: ImageSpec | None) -> None:
    """Without a spec: of any size, but not of none."""
    if width <= 0 or height <= 0:
        raise RowError("decode", "image has no pixels")
    if spec is not None and width * height > spec.limits.pixels:
        raise RowError("decode", f"{width}x{height} pixels are beyond limits.pixels {spec.limits.pixels}")
