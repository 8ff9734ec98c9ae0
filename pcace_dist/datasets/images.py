"""From the bytes of one image to a uint8 tensor of the model's geometry. A pure function of the bytes; no
I/O, no threads.

The first bytes choose the decoder, never a name: JPEG goes to torchvision's libjpeg-turbo (which treats a truncated
file as an error), the others to Pillow's class for exactly that format (`decoding/pillow_formats.py`). torchvision's
PNG decoder is not used: there, a single flipped bit ends the whole process. All limits are checked before a pixel is
decoded.

There are two short cuts; both depend on the file alone. A plain PNG (8 bits, no palette, no alpha, only pixels) goes
straight to Pillow's inflater: the same pixels, without the work of the format's class. A JPEG that is still at least
four times as large as `resize` asks for after scaling is decoded at 1/2, 1/4 or 1/8 (libjpeg's scaled inverse DCT),
unless `scaled_decode` is off; docs/pipeline.md says how much this changes the result.

Conventions, the same as torchvision's: the first frame of an animation; the largest image of an icon; alpha is dropped;
16-bit grey keeps the high byte, as 16-bit colour does; grey of a colour JPEG is its luma channel. Pixels stay as
stored; with `orientation: exif` they are first turned as the orientation tag says, whatever the format
(`decoding/orientation.py`).
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
from PIL import Image, JpegImagePlugin

from pcace_dist.datasets.decoding.jpeg_header import jpeg_exif, jpeg_size
from pcace_dist.datasets.decoding.orientation import AS_STORED, orientation_in, turned, turned_size
from pcace_dist.datasets.decoding.pillow_formats import broken, open_image, orientation_of
from pcace_dist.datasets.decoding.tensors import decode_array
from pcace_dist.datasets.formats import HEAD, Encoded, format_of
from pcace_dist.datasets.sections import TENSOR, Input, Limits
from pcace_dist.errors import RowError
from pcace_dist.vision import InterpolationMode, functional

Pixels = np.ndarray[Any, np.dtype[Any]]  # (C, H, W), uint8; of mode tensor float32
TORCHVISION_MODE = {"L": 1, "RGB": 3}  # the value is also the number of channels
JPEG_BEGIN = b"\xff\xd8\xff"
PNG_BEGIN = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
PNG_HEADER = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, compression, filtering, interlacing
PLAIN_PNG = {(8, 0, 0, 0, 0): "L", (8, 2, 0, 0, 0): "RGB"}
PNG_START = 8  # the first chunk begins after the signature
PNG_DATA = 33  # and the second after the header
UINT32 = struct.Struct(">I")
FLOOR = "floor"  # of model.input.crop_offset; the other is "round"
EXIF = "exif"  # of model.input.orientation; the other is "none"
# torchvision's own condition for resizing bytes as bytes
BYTES_RESIZE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512", "AMX")
SCALES = (8, 4, 2)  # libjpeg divides the sides by one of these
SPARE = 4  # a scaled image is at least so many times as large as the target: the resize filters the rest


@dataclass(frozen=True)
class ImageSpec(Input):
    """How images are decoded: the job's model.input, and its limits."""

    limits: Limits = field(default=Limits())

    @property
    def dtype(self) -> torch.dtype:
        """Of decoded images."""
        return torch.float32 if self.mode == TENSOR else torch.uint8


def decode(data: Encoded | None, spec: ImageSpec) -> torch.Tensor:
    """Decode, resize and crop: uint8 (C, H, W), C = 3 for mode RGB, 1 for L; not always contiguous. For mode tensor
    float32 (C, H, W), as stored.

    Raises RowError("decode", reason) for a null, empty, oversized, truncated or broken image, and for bytes that are
    no image.
    """
    return torch.from_numpy(pixels(data, spec))


def pixels(data: Encoded | None, spec: ImageSpec) -> Pixels:
    """As `decode`, as an array: for small images, making a tensor would cost more than the pixels."""
    if data is None:
        raise RowError("decode", "image is null")
    if not len(data):
        raise RowError("decode", "image is empty")
    if len(data) > spec.limits.bytes:
        raise RowError("decode", f"{len(data)} bytes are beyond limits.bytes {spec.limits.bytes}")
    if spec.mode == TENSOR:
        image = torch.from_numpy(decode_array(data, spec.image_channels, spec.limits.pixels))
    elif data[:3] == JPEG_BEGIN:
        image = _decode_jpeg(data, spec)
    else:
        data = bytes(data)
        plain = _plain_png(data, spec) if data.startswith(PNG_BEGIN) else None
        array = _decode_other(data, spec) if plain is None else plain
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
    """A file's bytes as a tensor, uint8 (bytes,): the same memory where it is writable, else a copy."""
    writable = isinstance(data, memoryview) and not data.readonly
    return torch.frombuffer(data if writable else bytearray(data), dtype=torch.uint8)  # warns of read-only memory


def scale_of(height: int, width: int, spec: ImageSpec) -> int:
    """The factor by which a JPEG of this size is reduced while it is decoded: 1, 2, 4 or 8.

    More than 1 only before a resize with antialiasing, which would average over the pixels that are left out.
    """
    smooth = spec.antialias and spec.interpolation in ("bilinear", "bicubic")
    if spec.resize is None or not (spec.scaled_decode and smooth):
        return 1
    target = resized(height, width, spec.resize)
    fits = (s for s in SCALES if height >= SPARE * s * target[0] and width >= SPARE * s * target[1])
    return next(fits, 1)


def _scaled_jpeg(data: Encoded, mode: str, scale: int) -> Pixels | None:
    """Decode at 1/scale. None for colour spaces other than grey and YCbCr, and for headers that Pillow cannot read or
    reads differently from libjpeg: the usual decoder decodes or refuses these.

    By Pillow, whose libjpeg-turbo is the same as torchvision's; torchvision does not offer the scale.
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


def _plain_png(data: bytes, spec: ImageSpec) -> Pixels | None:
    """A PNG with only header, pixels and end, undamaged. None for any other: Pillow's class decodes or refuses it."""
    width, height, *kind = PNG_HEADER.unpack_from(data.ljust(PNG_DATA), len(PNG_BEGIN))
    mode = PLAIN_PNG.get(tuple(kind))
    packed = None if mode is None else _png_data(data)
    if mode is None or packed is None or width * height == 0:
        return None
    _check_pixels(width, height, spec)
    try:
        return _unpacked(mode, width, height, packed, spec.mode)
    except Exception:  # not zlib data
        return None


def _unpacked(mode: str, width: int, height: int, packed: bytes, wanted: str) -> Pixels:
    """The pixels of a plain PNG in the `wanted` mode; missing rows are black, as in Pillow. Grey ones go straight to
    the memory of the array: a quarter less time than by way of an image's own. Pillow's `readonly` stays set as long as
    the image has its pixels there.
    """
    if mode == wanted == "L":
        array = np.zeros((1, height, width), np.uint8)
        image = Image.frombuffer(mode, (width, height), array, "raw", mode, 0, 1)
        image.frombytes(packed, "zip", mode)
        if image.readonly:
            return array
    return _as_array(Image.frombytes(mode, (width, height), packed, "zip", mode), wanted)


def _png_data(data: bytes) -> bytes | None:
    """The packed pixels; None where a chunk is damaged, or is neither header, pixels nor end."""
    chunks: list[bytes] = []
    offset = PNG_START
    try:
        while True:
            end = offset + 8 + UINT32.unpack_from(data, offset)[0]
            if zlib.crc32(data[offset + 4 : end]) != UINT32.unpack_from(data, end)[0]:
                return None
            chunk_type = data[offset + 4 : offset + 8]
            if chunk_type == b"IEND":
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if chunk_type == b"IDAT":
                chunks.append(data[offset + 8 : end])
            elif offset != PNG_START or chunk_type != b"IHDR":
                return None
            offset = end + 4
    except struct.error:  # it ends before its end
        return None


def _decode_other(data: bytes, spec: ImageSpec) -> Pixels:
    """Any file that does not begin as a usual JPEG. A JPEG with bytes before its first marker is decoded as a JPEG."""
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
    """(C, H, W), writable: torch warns of read-only memory."""
    if image.mode != mode:
        image = _converted(image, mode)
    flat = np.frombuffer(bytearray(image.tobytes()), dtype=np.uint8)
    return flat.reshape(image.height, image.width, TORCHVISION_MODE[mode]).transpose(2, 0, 1)


def _narrow(image: Image.Image) -> Image.Image:
    """The high byte of a PNM with more than 8 bits, as for a 16-bit PNG. Pillow holds it in 32 bits, scaled to 16."""
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
    return image if spec.crop is None else cropped(image, spec.crop, spec.crop_offset)


def cropped(image: torch.Tensor, crop: int | tuple[int, int], offset: str) -> torch.Tensor:
    """The middle (C, h, w) of an image (C, H, W); `offset` as in ImageSpec."""
    size = (crop, crop) if isinstance(crop, int) else crop
    if offset == FLOOR:
        inner = [min(side, wanted) for side, wanted in zip(image.shape[-2:], size, strict=True)]
        top, left = ((side - kept) // 2 for side, kept in zip(image.shape[-2:], inner, strict=True))
        image = functional.crop_image(image, top, left, *inner)
    result: torch.Tensor = functional.center_crop_image(image, list(size))
    return result


def _resized(image: torch.Tensor, height: int, width: int, spec: ImageSpec) -> torch.Tensor:
    """torchvision's resize. On a CPU whose kernels take bytes, torch is called directly, as torchvision would call it:
    torchvision's own bookkeeping takes 6 % of the time of resizing a photograph (tests: both give the same bits).
    """
    channels, *size = image.shape
    if size == [height, width]:
        return image
    if not (BYTES_RESIZE and spec.interpolation == "bilinear" and channels == 3 and image.stride(0) == 1):
        mode = InterpolationMode(spec.interpolation)
        by_name: torch.Tensor = functional.resize_image(
            image, [height, width], interpolation=mode, antialias=spec.antialias
        )
        return by_name
    strides = (image.numel(), *image.stride())  # a batch of one that torch sees to be channels-last
    batch = image.as_strided((1, *image.shape), strides)
    return torch.nn.functional.interpolate(batch, [height, width], mode="bilinear", antialias=spec.antialias)[0]


def resized(height: int, width: int, size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) after a resize: the shorter side becomes `size`, the longer is cut to whole pixels."""
    if not isinstance(size, int):
        return size[0], size[1]
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def _check_pixels(width: int, height: int, spec: ImageSpec | None) -> None:
    """Raise RowError for an image without pixels or, with a spec, with more than its limit."""
    if width <= 0 or height <= 0:
        raise RowError("decode", "image has no pixels")
    if spec is not None and width * height > spec.limits.pixels:
        raise RowError("decode", f"{width}x{height} pixels are beyond limits.pixels {spec.limits.pixels}")
