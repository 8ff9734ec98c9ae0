"""Opens an image of a format that Pillow decodes: reads its header, no pixel. Pure; no I/O.

The first bytes choose which of Pillow's classes reads a file (`formats.py`), never a name and never Pillow's own
search. Pillow has a limit of pixels for the whole process; a file beyond it is opened without it, because the job's own
limits count. They are checked before memory for an image is allocated.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeAlias

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from pcace_dist.datasets.decoding.orientation import AS_STORED, orientation_in
from pcace_dist.datasets.formats import ARRAY_BEGIN, HEAD, OTHER, format_of
from pcace_dist.errors import RowError

CheckSize: TypeAlias = Callable[[int, int], object]
"""Takes width and height; raises RowError where they are beyond the limits."""

PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
CODECS = {"WebP": "webp", "AVIF": "avif", "JPEG 2000": "jpg_2000"}  # Pillow may be built without these
ICON = struct.Struct("<BBB3xHII")  # width, height, colours, bits, bytes, offset: of one image
ICONS = 6  # offset of the images' records, after the header
GIF_HEADER, WEBP_HEADER = 13, 30  # bytes
AVIF_EXIF = re.compile(rb"(infe\x02.{7})Exif", re.DOTALL)  # the entry that declares an item an EXIF block
CODESTREAM = b"\xff\x4f\xff\x51"

_pillows_limit = threading.Lock()


def open_image(data: bytes, check: CheckSize) -> tuple[str, ImageFile.ImageFile]:
    """The format's name, and the opened image: its size is known, its pixels are not decoded.

    Raises RowError for bytes that are no image, a format or codec that is not supported, or a header that cannot be
    read.
    """
    kind = format_of(data[:HEAD])
    if data.startswith(ARRAY_BEGIN):
        raise RowError("decode", "an array of NumPy, which model.input.mode tensor takes")
    if kind is None or kind in OTHER:
        raise RowError("decode", "not an image")
    if kind not in OPENERS:
        raise RowError("decode", f"{kind}, which this version does not decode")
    if kind in CODECS and not _has_codec(CODECS[kind]):
        raise RowError("decode", f"{kind}, which this installation does not decode")
    try:
        image = OPENERS[kind](data, check)
    except RowError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise broken(kind, str(error)) from None
    check(*image.size)
    return kind, image


def orientation_of(kind: str, data: bytes, image: ImageFile.ImageFile) -> int:
    """The orientation that an opened file asks for, 1 to 8; 1 for formats without such a tag."""
    if isinstance(image, _Avif):
        return image.orientation
    if kind == "TIFF":
        return orientation_in(data)
    if kind == "PNG":
        return orientation_in(_png_exif(data))
    if kind == "WebP":
        return orientation_in(image.info.get("exif", b""))
    return AS_STORED


def broken(kind: str, text: str) -> RowError:
    """The error for a file that its decoder refuses with the message `text`."""
    text = text.strip().splitlines()[0][:120] if text.strip() else "cannot be decoded"
    if re.search("truncated|incomplete|premature", text, re.IGNORECASE):
        return RowError("decode", f"truncated {kind}")
    return RowError("decode", f"broken {kind} ({text})")


@cache
def _has_codec(name: str) -> bool:
    return bool(features.check(name))


def _unlimited(factory: Callable[[io.BytesIO], ImageFile.ImageFile], data: bytes) -> ImageFile.ImageFile:
    """Opens an image that is within the job's limits, even where it is beyond Pillow's limit for this process."""
    try:
        return factory(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        with _without_pillows_limit():
            return factory(io.BytesIO(data))


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    with _pillows_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


# -- PNG, GIF, WebP


def _open_png(data: bytes, _: CheckSize) -> ImageFile.ImageFile:
    if data.rfind(PNG_END) < 0:  # Pillow would accept a missing end
        raise RowError("decode", "truncated PNG")
    return PngImagePlugin.PngImageFile(io.BytesIO(data))


def _png_exif(data: bytes) -> bytes:
    """The first eXIf chunk, before or after the pixels; empty where there is none."""
    at = len(PNG_BEGIN)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + length]
        if kind == b"IEND":
            break
        at += length + 12
    return b""


def _open_gif(data: bytes, check: CheckSize) -> ImageFile.ImageFile:
    size = _gif_size(data)
    if size is None:
        raise RowError("decode", "truncated GIF")
    check(*size)  # Pillow may allocate the first frame when it opens the file
    return _unlimited(GifImagePlugin.GifImageFile, data)


def _gif_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of screen and first frame together, as Pillow computes it; None where there is no frame."""
    if len(data) < GIF_HEADER:
        return None
    *screen, flags = struct.unpack_from("<6xHHB", data)
    at = GIF_HEADER + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while at < len(data) and data[at : at + 1] != b";":
        if data[at : at + 1] == b"," and at + 9 <= len(data):
            left, top, width, height = struct.unpack_from("<HHHH", data, at + 1)
            return max(screen[0], left + width), max(screen[1], top + height)
        at += 1
        if data[at - 1 : at] == b"!":  # an extension: its label, and blocks up to an empty one
            at += 1
            while at < len(data) and data[at]:
                at += data[at] + 1
            at += 1
    return None


def _open_webp(data: bytes, check: CheckSize) -> ImageFile.ImageFile:
    size = _webp_size(data)
    if size is None:
        raise RowError("decode", "truncated WebP" if len(data) < WEBP_HEADER else "broken WebP (no size)")
    check(*size)  # creating the decoder allocates memory for the whole image
    return _unlimited(WebPImagePlugin.WebPImageFile, data)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of the canvas; None for a header that libwebp does not accept."""
    kind = data[12:16]
    if len(data) < WEBP_HEADER:
        return None
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


# -- AVIF


class _Avif(AvifImagePlugin.AvifImageFile):
    """Decodes in the calling thread, because the job sets the number of a worker's threads. Pixels stay as stored.
    `orientation` comes from the container's irot and imir; this format has no other."""

    orientation = AS_STORED

    def _open(self) -> None:
        from PIL import _avif

        assert self.fp is not None
        data = self.fp.read()
        try:
            self._decoder = _avif.AvifDecoder(data, "auto", 1)
        except Exception:  # libavif refuses a whole file because of a broken EXIF block, which is not needed
            self._decoder = _avif.AvifDecoder(AVIF_EXIF.sub(rb"\1free", data, count=1), "auto", 1)
        self._size, self.n_frames, self._mode, _, _, self.orientation, _ = self._decoder.get_info()
        self.is_animated = self.n_frames > 1
        self.seek(0)


# -- TIFF


class _TiffAsStored(TiffImagePlugin.TiffImageFile):
    """A TIFF whose pixels stay as stored. Pillow would turn them while it loads, by tag 274 or XMP; here the caller
    decides."""

    def _setup(self) -> None:
        super()._setup()
        self._size = self._tile_size

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)  # without Pillow's own limit

    def load_end(self) -> None:
        """Does nothing, where Pillow would turn the pixels."""


# -- JPEG 2000


def _open_jpeg2000(data: bytes, _: CheckSize) -> ImageFile.ImageFile:
    """Opens a JPEG 2000. Pillow reads the container's size, but the pixels are the codestream's: both must agree."""
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(data))
    at = 0 if data.startswith(CODESTREAM) else _codestream(data)
    right, lower, left, upper = struct.unpack_from(">8xIIII", data, at)
    if image.size != (right - left, lower - upper):
        raise RowError("decode", "broken JPEG 2000 (container and codestream have different sizes)")
    return image


def _codestream(data: bytes) -> int:
    """The offset of the first codestream of a JP2 file."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if length == 1:
            length, body = struct.unpack_from(">Q", data, at + 8)[0], at + 16
        if kind == b"jp2c":
            if data[body : body + 4] != CODESTREAM:
                break
            return body
        if length < body - at:
            break
        at += length
    raise RowError("decode", "broken JPEG 2000 (no codestream)" if at < len(data) else "truncated JPEG 2000")


# -- ICO


def _open_ico(data: bytes, _: CheckSize) -> ImageFile.ImageFile:
    """The icon that Pillow chooses: the largest; among these, the one with the fewest bits; among these, the first.

    Pillow's class is not used, because it decodes when it is opened. Transparency is dropped, so the mask is not read.
    """
    (count,) = struct.unpack_from("<H", data, 4)
    icons = [ICON.unpack_from(data, ICONS + i * ICON.size) for i in range(count)]
    size, offset = min(icons, key=_order_of_icon)[-2:]
    if offset + size > len(data):
        raise RowError("decode", "truncated ICO")
    icon = data[offset:]
    if icon.startswith(PNG_BEGIN):
        return PngImagePlugin.PngImageFile(io.BytesIO(icon))
    bitmap = BmpImagePlugin.DibImageFile(io.BytesIO(icon))
    width, height = bitmap.size
    bitmap._size = width, height // 2  # the lower half is the mask
    bitmap.tile = [tile._replace(extents=(0, 0, *bitmap.size)) for tile in bitmap.tile]
    return bitmap


def _order_of_icon(icon: tuple[int, ...]) -> tuple[int, int]:
    width, height, colours, bits, *_ = icon
    return -(width or 256) * (height or 256), bits or (colours and (colours - 1).bit_length()) or 256


OPENERS: dict[str, Callable[[bytes, CheckSize], ImageFile.ImageFile]] = {
    "PNG": _open_png,
    "GIF": _open_gif,
    "WebP": _open_webp,
    "BMP": lambda data, _: BmpImagePlugin.BmpImageFile(io.BytesIO(data)),
    "TIFF": lambda data, _: _TiffAsStored(io.BytesIO(data)),
    "PNM": lambda data, _: PpmImagePlugin.PpmImageFile(io.BytesIO(data)),
    "AVIF": lambda data, _: _Avif(io.BytesIO(data)),
    "JPEG 2000": _open_jpeg2000,
    "ICO": _open_ico,
}
