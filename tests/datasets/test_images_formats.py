"""Formats beyond the common ones: 16-bit PNM, BigTIFF, AVIF, JPEG 2000, icons; their limits and what is named."""

from __future__ import annotations

import io
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image

from pcace_dist.datasets.decoding import pillow_formats
from pcace_dist.datasets.formats import format_of, kind_of_head
from pcace_dist.datasets.images import ImageSpec, decode, image_size
from pcace_dist.datasets.sections import Limits, Mode
from pcace_dist.errors import RowError
from pcace_dist.packing.shards import check
from pcace_dist.packing.source import Row
from tests.datasets.helpers import encoded, picture
from tests.datasets.test_images import by_pillow, photograph, reason

GREY = ImageSpec(mode="L")
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "AVIF": ("AVIF", {}),
    "AVIF, grey": ("AVIF", {"subsampling": "4:0:0"}),
    "JP2": ("JPEG2000", {}),
    "JP2, lossy": ("JPEG2000", {"irreversible": True, "quality_layers": [20]}),
    "codestream": ("JPEG2000", {"no_jp2": True}),
    "ICO": ("ICO", {"sizes": [(48, 32), (16, 16)]}),
    "ICO of bitmaps": ("ICO", {"sizes": [(48, 32), (16, 16)], "bitmap_format": "bmp"}),
    "BigTIFF": ("TIFF", {"big_tiff": True}),
    "BigTIFF, LZW": ("TIFF", {"big_tiff": True, "compression": "tiff_lzw"}),
}
KINDS = sorted(FORMATS)


def made(kind: str, image: Image.Image) -> bytes:
    name, options = FORMATS[kind]
    return encoded(image, name, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_that_pillow_sees(kind: str, stored: str, mode: Mode) -> None:
    data = made(kind, photograph(48, 32).convert(stored))
    image = decode(data, ImageSpec(mode=mode))
    assert np.array_equal(image.numpy(), by_pillow(data, mode))
    assert image_size(data) == (48, 32)
    assert kind_of_head(data[:512]) == "image"


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_is_checked_before_decoding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(kind, photograph(48, 32))
    assert decode(data, ImageSpec(limits=Limits(48 * 32))).shape == (3, 32, 48)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    assert reason(data, ImageSpec(limits=Limits(48 * 32 - 1))) == "48x32 pixels are beyond limits.pixels 1535"


@pytest.mark.parametrize("kind", [*KINDS, "GIF", "WEBP", "BMP", "PPM", "TIFF"])
def test_pillows_own_limit_does_not_count(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(kind, photograph(48, 32)) if kind in FORMATS else encoded(photograph(48, 32), kind)
    whole = decode(data, ImageSpec())
    for limit in (1000, 50):  # a warning, an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert torch.equal(decode(data, ImageSpec()), whole)
        assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_images_are_found(kind: str, share: float) -> None:
    data = made(kind, picture(6, 48, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert reason(data[: int(len(data) * share)])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_damaged_bytes_give_an_image_or_a_reason(kind: str, draw: st.DataObject) -> None:
    data = bytearray(made(kind, picture(8, 20, 20)))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    for spec in (ImageSpec(limits=Limits(10_000)), ImageSpec(limits=Limits(10_000), orientation="exif")):
        try:
            image = decode(bytes(data), spec)
        except RowError as error:
            assert error.stage == "decode" and "\n" not in error.reason
        else:
            assert image.dtype == torch.uint8 and image.shape[0] == 3
            assert image_size(bytes(data), spec.orientation) == (image.shape[2], image.shape[1])


@pytest.mark.parametrize("kind", ["AVIF", "JP2", "codestream", "ICO"])
def test_the_same_bytes_give_the_same_pixels_in_any_thread(kind: str) -> None:
    data = made(kind, photograph(48, 32))
    alone = decode(data, ImageSpec())
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(image, alone) for image in pool.map(lambda _: decode(data, ImageSpec()), range(32)))


def test_an_avif_is_decoded_in_the_thread_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import _avif

    asked: list[tuple[Any, ...]] = []
    real = _avif.AvifDecoder

    def noted(*options: Any) -> Any:
        asked.append(options[1:])
        return real(*options)

    monkeypatch.setattr(_avif, "AvifDecoder", noted)
    decode(made("AVIF", photograph(48, 32)), ImageSpec())
    assert asked == [("auto", 1)]
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 0, "nothing of the process is changed"


@pytest.mark.parametrize("codec", ["AVIF", "JP2", "WEBP"])
def test_a_codec_that_is_not_there_is_named(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(1), "WEBP") if codec == "WEBP" else made(codec, picture(1))
    name = {"JP2": "JPEG 2000", "WEBP": "WebP"}.get(codec, codec)
    monkeypatch.setattr(pillow_formats, "_has_codec", lambda _: False)
    assert reason(data) == f"{name}, which this installation does not decode"
    with pytest.raises(RowError, match="which this installation does not decode"):
        image_size(data)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1miafavif", "AVIF"),
        (b"\0\0\0\x18ftypavis\0\0\0\0avisavif", "AVIF"),
        (b"II+\0\x08\0\0\0", "TIFF"),
        (b"MM\0+\0\x08\0\0", "TIFF"),
        (b"qoif", "QOI"),
    ],
)
def test_first_bytes(head: bytes, kind: str) -> None:
    assert format_of(head) == kind


def test_formats_that_nothing_here_decodes_are_named_by_decoder_and_pack_alike() -> None:
    for data, kind in ((b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"), (b"qoif" + bytes(20), "QOI")):
        expected = f"{kind}, which this version does not decode"
        assert reason(data) == expected
        fault = check(Row("a", data, {}), None)
        assert fault is not None and fault.reason == expected


def test_data_that_are_no_images_stay_none() -> None:
    for data in (b"PAR1" + bytes(100), bytes(257) + b"ustar" + bytes(100), b"P7 ", b"BMW is no bitmap", b"text"):
        assert reason(data) == "not an image"


# -- more than 8 bits


def pnm(magic: str, values: np.ndarray, maxval: int) -> bytes:
    height, width = values.shape[:2]
    head = f"{magic} {width} {height} {maxval}\n".encode()
    if magic in ("P2", "P3"):
        return head + b" ".join(str(value).encode() for value in values.ravel())
    return head + values.astype(">u2" if maxval > 255 else "u1").tobytes()


@pytest.mark.parametrize("magic", ["P2", "P5"])
@pytest.mark.parametrize("maxval", [256, 1023, 4095, 40_000, 65_535])
def test_a_grey_pnm_of_16_bits_is_scaled_and_keeps_the_high_byte(magic: str, maxval: int) -> None:
    values = np.linspace(0, maxval, 120).astype(np.uint16).reshape(10, 12)
    image = decode(pnm(magic, values, maxval), GREY)
    expected = np.rint(values / maxval * 65_535).astype(np.uint16) >> 8
    assert np.array_equal(image[0].numpy(), expected)
    assert image.min() == 0 and image.max() == 255
    assert np.array_equal(decode(pnm(magic, values, maxval), ImageSpec())[2].numpy(), expected)


def test_a_grey_pnm_of_16_bits_is_as_the_png_of_the_same_values() -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (10, 12), dtype=np.uint16)
    assert torch.equal(decode(pnm("P5", values, 65_535), GREY), decode(encoded(Image.fromarray(values)), GREY))


@pytest.mark.parametrize("magic", ["P3", "P6"])
@pytest.mark.parametrize("maxval", [15, 1023, 65_535])
def test_a_colour_pnm_is_scaled_as_pillow_does(magic: str, maxval: int) -> None:
    values = np.random.default_rng(0).integers(0, maxval + 1, (10, 12, 3), dtype=np.uint16)
    data = pnm(magic, values, maxval)
    assert np.array_equal(decode(data, ImageSpec()).numpy(), by_pillow(data, "RGB"))
    assert np.array_equal(decode(data, ImageSpec())[0].numpy(), np.rint(values[..., 0] / maxval * 255).astype(np.uint8))


@pytest.mark.parametrize("maxval", [255, 65_535])
def test_a_truncated_pnm_is_found(maxval: int) -> None:
    values = np.zeros((10, 12), np.uint16)
    assert reason(pnm("P5", values, maxval)[:-1], GREY)


def test_a_jpeg_2000_of_16_bits_keeps_the_high_byte() -> None:
    values = (np.arange(120, dtype=np.uint16).reshape(10, 12) * 500).astype(np.uint16)
    image = decode(encoded(Image.fromarray(values), "JPEG2000"), GREY)
    assert np.array_equal(image[0].numpy(), (values >> 8).astype(np.uint8))


@pytest.mark.parametrize("values", [np.zeros((4, 5), np.int32), np.zeros((4, 5), np.float32)])
def test_32_bit_pixels_are_refused_as_ever(values: np.ndarray) -> None:
    assert reason(encoded(Image.fromarray(values), "TIFF")) == "32-bit pixels are not supported"


# -- sizes that a header could hide


def test_a_jp2_whose_container_gives_another_size_is_broken() -> None:
    data = made("JP2", picture(1, 48, 32))
    at = data.index(b"ihdr") + 4
    lying = data[:at] + struct.pack(">II", 4, 4) + data[at + 8 :]
    expected = "broken JPEG 2000 (container and codestream have different sizes)"
    assert reason(lying, ImageSpec(limits=Limits(100))) == expected
    assert reason(made("JP2", picture(1, 48, 32))[:90]).startswith(("truncated", "broken"))


def icon(*images: tuple[int, int, int, bytes]) -> bytes:
    """An ICO of these: width and height that its directory gives, bits, bytes."""
    at = 6 + 16 * len(images)
    head, bodies = struct.pack("<HHH", 0, 1, len(images)), b""
    for width, height, bits, data in images:
        head += struct.pack("<BBBBHHII", width % 256, height % 256, 0, 0, 1, bits, len(data), at + len(bodies))
        bodies += data
    return head + bodies


def test_the_largest_image_of_an_icon_is_taken() -> None:
    small, large, other = (encoded(picture(seed, side, side)) for seed, side in ((1, 16), (2, 64), (3, 64)))
    for images in ([(16, 16, 32, small), (64, 64, 32, large)], [(64, 64, 32, large), (16, 16, 32, small)]):
        assert torch.equal(decode(icon(*images), ImageSpec()), decode(large, ImageSpec()))
    for images, taken in (
        ([(64, 64, 32, large), (64, 64, 32, other)], large),
        ([(64, 64, 32, large), (64, 64, 8, other)], other),
    ):
        data = icon(*images)
        assert torch.equal(decode(data, ImageSpec()), decode(taken, ImageSpec()))
        assert np.array_equal(by_pillow(data, "RGB"), decode(data, ImageSpec()).numpy())


def test_the_limit_of_an_icon_is_that_of_the_image_in_it() -> None:
    data = icon((16, 16, 32, encoded(picture(1, 300, 200))))
    assert image_size(data) == (300, 200)
    assert reason(data, ImageSpec(limits=Limits(1000))) == "300x200 pixels are beyond limits.pixels 1000"


def test_icons_that_are_none() -> None:
    for data in (icon((16, 16, 32, b"neither PNG nor bitmap")), icon(), b"\0\0\1\0\1\0", b"\0\0\1\0\xff\0" + bytes(40)):
        assert reason(data)
    whole = icon((16, 16, 32, encoded(picture(1, 16, 16))))
    assert reason(whole[:-1]) == "truncated ICO"


@pytest.mark.parametrize("version", ["VP8 ", "VP8L", "VP8X"])
def test_the_size_of_a_webp_is_known_before_its_memory_is_taken(version: str) -> None:
    options: dict[str, dict[str, Any]] = {"VP8L": {"lossless": True}, "VP8X": {"exif": b"Exif\0\0II*\0"}}
    data = encoded(picture(1, 31, 17), "WEBP", **options.get(version, {}))
    assert data[12:16] == version.encode()
    assert pillow_formats._webp_size(data) == image_size(data) == (31, 17)


def test_the_size_of_a_gif_is_known_before_its_memory_is_taken() -> None:
    data = encoded(picture(1, 31, 17), "GIF", comment=b"x" * 300, save_all=True, append_images=[picture(2, 31, 17)])
    assert pillow_formats._gif_size(data) == image_size(data) == (31, 17)
    screen = data[:6] + struct.pack("<HH", 5, 40) + data[10:]  # the first frame is wider than the screen
    assert pillow_formats._gif_size(screen) == image_size(screen) == Image.open(io.BytesIO(screen)).size == (31, 40)
    at = data.index(b",", 13 + 768) if data[10] & 0x80 else data.index(b",")
    assert pillow_formats._gif_size(data[:at]) is None
