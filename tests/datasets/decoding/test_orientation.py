"""One rule of orientation for all formats and decoders: pixels as stored, or turned as the tag says."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, TiffImagePlugin
from torch import Tensor

from pcace_dist.datasets.decoding.orientation import orientation_in, turned
from pcace_dist.datasets.device_images import DeviceDecoder, frame_for_device
from pcace_dist.datasets.images import ImageSpec, decode, image_size, scale_of
from pcace_dist.datasets.sections import Limits, Mode
from pcace_dist.errors import RowError
from tests.datasets.helpers import encoded, picture
from tests.datasets.test_images import photograph

STORED = ImageSpec()
TURNED = ImageSpec(orientation="exif")
TAG = 274
OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95},
    "TIFF": {},
    "TIFF, LZW": {"compression": "tiff_lzw"},
    "TIFF, strips of JPEG": {"compression": "jpeg"},
    "BigTIFF": {"big_tiff": True},
}
KINDS = sorted(OPTIONS)


def exif(value: int, kind: int = 3, order: str = "<", count: int = 1) -> bytes:
    """A block of tags with the orientation alone, whatever is asked for."""
    begin = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order]
    packed = struct.pack(f"{order}{ {1: 'B3x', 3: 'H2x', 4: 'I'}[kind] }", value)
    return begin + struct.pack(f"{order}HHHI", 1, TAG, kind, count) + packed + bytes(4)


def tagged(image: Image.Image, kind: str, orientation: int) -> bytes:
    """A file whose tag asks for this orientation."""
    name = kind.partition(",")[0].replace("BigTIFF", "TIFF")
    if name == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[TAG] = orientation
        return encoded(image, name, tiffinfo=tags, **OPTIONS[kind])
    return encoded(image, name, exif=b"Exif\0\0" + exif(orientation), **OPTIONS[kind])


def as_seen(stored: Tensor, orientation: int) -> Tensor:
    """Pillow's turning of these pixels."""
    image = Image.fromarray(stored.permute(1, 2, 0).contiguous().numpy())
    image.getexif()[TAG] = orientation
    array = np.array(ImageOps.exif_transpose(image))
    return torch.from_numpy(array).permute(2, 0, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_as_stored_or_as_the_tag_says(kind: str, orientation: int) -> None:
    data = tagged(photograph(24, 16), kind, orientation)
    plain = decode(tagged(photograph(24, 16), kind, 1), STORED)
    assert plain.shape == (3, 16, 24)
    assert torch.equal(decode(data, STORED), plain)
    assert torch.equal(decode(data, TURNED), as_seen(plain, orientation))
    for how in ("none", "exif"):
        image = decode(data, ImageSpec(orientation=how))
        assert image_size(data, how) == (image.shape[2], image.shape[1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_turning_comes_before_resize_and_crop(kind: str, orientation: int) -> None:
    data = tagged(photograph(60, 40), kind, orientation)
    seen = as_seen(decode(data, STORED), orientation)
    again = encoded(Image.fromarray(seen.permute(1, 2, 0).numpy()))
    for spec in (ImageSpec(resize=20), ImageSpec(resize=(30, 10), crop=(18, 8)), ImageSpec(crop=(30, 50))):
        assert torch.equal(decode(data, replace(spec, orientation="exif")), decode(again, spec))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_scaled_jpeg_is_turned_too(orientation: int, mode: Mode) -> None:
    data = tagged(photograph(1280, 640), "JPEG", orientation)
    turned_too = ImageSpec(mode=mode, resize=(40, 80) if orientation < 5 else (80, 40), orientation="exif")
    stored = replace(turned_too, resize=(40, 80), orientation="none")
    assert scale_of(640, 1280, stored) == 4
    ours, unturned = decode(data, turned_too), decode(data, stored)
    assert (ours.int() - turned(unturned, orientation).int()).abs().max() <= 2  # the resize rounds after turning


def test_the_scale_is_that_of_the_turned_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def noted(height: int, width: int, spec: ImageSpec) -> int:
        asked.append((height, width))
        return scale_of(height, width, spec)

    monkeypatch.setattr("pcace_dist.datasets.images.scale_of", noted)
    data = tagged(picture(1, 60, 40), "JPEG", 6)
    decode(data, ImageSpec(resize=20, orientation="exif"))
    decode(data, ImageSpec(resize=20))
    assert asked == [(60, 40), (40, 60)]


def test_the_limit_after_the_resize_is_that_of_the_turned_size() -> None:
    data = tagged(picture(1, 400, 2), "PNG", 6)
    spec = ImageSpec(resize=20, limits=Limits(5_000), orientation="exif")
    with pytest.raises(RowError, match="20x4000 pixels after"):
        decode(data, spec)
    with pytest.raises(RowError, match="4000x20 pixels after"):
        decode(data, replace(spec, orientation="none"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_device_turns_as_the_processor_does(orientation: int, mode: Mode) -> None:
    decoder = DeviceDecoder(torch.device("cpu"))
    for stored in ("RGB", "L"):
        files = [tagged(photograph(60, 40).convert(stored), "JPEG", o) for o in (orientation, 1, orientation, 6)]
        for spec in (ImageSpec(mode=mode), ImageSpec(mode=mode, crop=(30, 20)), ImageSpec(mode, (24, 18), (20, 16))):
            spec = replace(spec, orientation="exif")
            assert all(frame_for_device(data, spec) is not None for data in files)
            for ours, data in zip(decoder.images(files, spec), files, strict=True):
                assert isinstance(ours, Tensor)
                assert (ours.int() - decode(data, spec).int()).abs().max() <= (1 if spec.resize else 0)


# -- tags that are broken, missing, or somewhere else


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_the_tag_is_read_in_both_byte_orders_and_all_whole_types(order: str, kind: int) -> None:
    assert orientation_in(exif(6, kind, order)) == 6
    assert orientation_in(b"Exif\0\0" + exif(8, kind, order)) == 8


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II",
        b"garbage!",
        exif(0),
        exif(9),
        exif(65535),
        exif(6, count=2),
        exif(6)[:12],
        exif(6)[:19],
        b"II*\0\xff\xff\xff\xff" + exif(6)[8:],
        b"II*\0\x08\0\0\0\xff\xff",
        b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_broken_block_or_another_value_is_no_bad_row_but_as_stored(kind: str, block: bytes) -> None:
    assert orientation_in(block) == 1
    plain = encoded(picture(3, 24, 16), kind)
    data = encoded(picture(3, 24, 16), kind, exif=b"Exif\0\0" + (block or b"\0"))
    assert torch.equal(decode(data, TURNED), decode(plain, STORED))
    assert image_size(data, "exif") == (24, 16)


@pytest.mark.parametrize("value", [0, 9, 255])
@pytest.mark.parametrize("kind", ["TIFF", "BigTIFF", "TIFF, LZW"])
def test_another_value_in_a_tiff_is_as_stored(kind: str, value: int) -> None:
    data = tagged(picture(3, 24, 16), kind, 3)
    entry = struct.pack("<HHQ" if kind == "BigTIFF" else "<HHI", TAG, 3, 1)
    assert data.count(entry) == 1
    other = data.replace(entry + b"\3", entry + bytes([value]))
    assert torch.equal(decode(other, TURNED), decode(data, STORED))


def test_what_an_avifs_container_says_counts_and_a_broken_exif_block_does_no_harm() -> None:
    block = Image.Exif()
    block[TAG], block[0x010E] = 6, "a description"
    data = encoded(picture(3, 24, 16), "AVIF", exif=block)
    assert b"irot" in data
    at = max(data.find(b"MM\0*"), data.find(b"II*\0"))
    assert at > 0
    for broken in (data, data[:at] + b"garbage!" + data[at + 8 :]):
        assert decode(broken, STORED).shape == (3, 16, 24)
        assert decode(broken, TURNED).shape == (3, 24, 16)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_png_says_it_before_or_after_its_pixels() -> None:
    plain = encoded(picture(3, 24, 16))
    before = plain[:33] + chunk(b"eXIf", exif(6)) + plain[33:]
    after = plain[:-12] + chunk(b"eXIf", exif(6)) + plain[-12:]
    for data in (before, after):
        assert torch.equal(decode(data, TURNED), as_seen(decode(plain, STORED), 6))
        assert torch.equal(decode(data, STORED), decode(plain, STORED))
        assert image_size(data, "exif") == (16, 24)


def test_xmp_turns_nothing_not_even_a_tiff() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = xmp
    plain = encoded(picture(3, 24, 16), "TIFF")
    data = encoded(picture(3, 24, 16), "TIFF", tiffinfo=tags)
    assert xmp in data
    assert torch.equal(decode(data, STORED), decode(plain, STORED))
    assert torch.equal(decode(data, TURNED), decode(plain, STORED))


def test_the_first_exif_block_of_a_jpeg_counts_wherever_it_is_before_the_pixels() -> None:
    plain = encoded(picture(3, 24, 16), "JPEG")

    def app1(body: bytes) -> bytes:
        return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body

    six, three = app1(b"Exif\0\0" + exif(6)), app1(b"Exif\0\0" + exif(3))
    scan = plain.index(b"\xff\xda")
    for data in (
        plain[:2] + app1(b"http://ns.adobe.com/xap/1.0/\0") + six + three + plain[2:],
        plain[:scan] + b"\0\xff\0" + six + plain[scan:],
    ):
        assert torch.equal(decode(data, TURNED), as_seen(decode(plain, STORED), 6))
    assert torch.equal(decode(plain + six, TURNED), decode(plain, STORED))


def test_pixels_of_a_tiff_are_as_stored_when_pillows_own_limit_is_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = tagged(picture(3, 24, 16), "TIFF", 6)
    assert decode(data, STORED).shape == (3, 16, 24)


def test_reading_the_tag_does_not_depend_on_where_the_bytes_lie() -> None:
    data = tagged(picture(3, 24, 16), "JPEG", 6)
    assert torch.equal(decode(memoryview(bytearray(data)), TURNED), decode(data, TURNED))
