"""Opens an image of a format that Pillow decodes: its header, without a pixel. Pure; no I/O.

The first bytes decide which of Pillow's classes reads a file (`formats.py`), never a name and never Pillow's own
search: the class of a format knows no limit of pixels for the whole process. Where such a limit is met all the same,
the file is opened without it: the job's limits count, and they are asked before anything of an image's size is
allocated.
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

from pcace_dist.datasets.formats import HEAD, OTHER, format_of
from pcace_dist.datasets.orientation import AS_STORED, orientation_in
from pcace_dist.errors import RowError

CheckSize: TypeAlias = Callable[[int, int], object]
"""Takes width and height; raises RowError where they are beyond the limits."""

PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
CODECS = {"WebP": "webp", "AVIF": "avif", "JPEG 2000": "jpg_2000"}  # what Pillow may be built without
ICON = struct.Struct("<BBB3xHII")  # width, height, colours, bits, bytes, offset: of one image
ICONS = 6  # the images' records begin after the header
GIF_HEADER, WEBP_HEADER = 13, 30  # bytes
AVIF_EXIF = re.compile(rb"(infe\x02.{7})Exif", re.DOTALL)  # the entry that calls an item an EXIF block
CODESTREAM = b"\xff\x4f\xff\x51"

_pillows_limit = threading.Lock()


def open_image(data: bytes, check: CheckSize) -> tuple[str, ImageFile.ImageFile]:
    """The format's name, and the image with its size known and its pixels not decoded.

    Raises RowError for what is no image, has a format or codec that is not there, or a header that cannot be read.
    """
    kind = format_of(data[:HEAD])
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
    """The orientation that an opened file asks for, 1 to 8. Formats without such a tag ask for none."""
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
    """The reason for a file that its decoder refuses with `text`."""
    text = text.strip().splitlines()[0][:120] if text.strip() else "cannot be decoded"
    if re.search("truncated|incomplete|premature", text, re.IGNORECASE):
        return RowError("decode", f"truncated {kind}")
    return RowError("decode", f"broken {kind} ({text})")


@cache
def _has_codec(name: str) -> bool:
    return bool(features.check(name))


def _unlimited(factory: Callable[[io.BytesIO], ImageFile.ImageFile], data: bytes) -> ImageFile.ImageFile:
    """Opens what is within the job's limits, whatever Pillow's is for this process."""
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
    if data.rfind(PNG_END) < 0:  # Pillow forgives a missing end
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
    check(*size)  # Pillow may take memory of the first frame's size when it opens the file
    return _unlimited(GifImagePlugin.GifImageFile, data)


def _gif_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of the screen and the first frame together, as Pillow has it; None where no frame begins."""
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
    check(*size)  # the decoder takes memory for the whole image when it is made
    return _unlimited(WebPImagePlugin.WebPImageFile, data)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of the canvas; None for a header that libwebp does not take."""
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
    """Decodes in the thread that asks: the worker's threads are the job's to number. Pixels as the file has them;
    `orientation` is what the container's irot and imir say, which is all that counts in this format."""

    orientation = AS_STORED

    def _open(self) -> None:
        from PIL import _avif

        assert self.fp is not None
        data = self.fp.read()
        try:
            self._decoder = _avif.AvifDecoder(data, "auto", 1)
        except Exception:  # libavif refuses the whole file for an EXIF block that is broken; nothing depends on it
            self._decoder = _avif.AvifDecoder(AVIF_EXIF.sub(rb"\1free", data, count=1), "auto", 1)
        self._size, self.n_frames, self._mode, _, _, self.orientation, _ = self._decoder.get_info()
        self.is_animated = self.n_frames > 1
        self.seek(0)


# -- TIFF


class _TiffAsStored(TiffImagePlugin.TiffImageFile):
    """Pillow turns a TIFF while it loads, by tag 274 or by XMP; here whoever asks for the pixels decides."""

    def _setup(self) -> None:
        super()._setup()
        self._size = self._tile_size

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)  # less the limit of Pillow's own

    def load_end(self) -> None:
        """In place of the turning."""


# -- JPEG 2000


def _open_jpeg2000(data: bytes, _: CheckSize) -> ImageFile.ImageFile:
    """The container has a size of its own, which Pillow takes; the pixels come from the codestream."""
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(data))
    at = 0 if data.startswith(CODESTREAM) else _codestream(data)
    right, lower, left, upper = struct.unpack_from(">8xIIII", data, at)
    if image.size != (right - left, lower - upper):
        raise RowError("decode", "broken JPEG 2000 (container and codestream have different sizes)")
    return image


def _codestream(data: bytes) -> int:
    """Where the first codestream of a JP2 file begins."""
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
    """The icon that Pillow takes: the largest, of these the one with fewest bits, of these the first.

    Its class is not used: it decodes when it is opened. Transparency is dropped, so an icon's mask is not read.
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
