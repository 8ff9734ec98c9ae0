"""Decoding: every format, every way in which an image can be bad, and torchvision's geometry."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from transformers import BitImageProcessor
from transformers.image_utils import SizeDict

from pcace_dist.datasets import images
from pcace_dist.datasets.images import ImageSpec, cropped, decode, image_size, pixels, resized, scale_of
from pcace_dist.datasets.sections import Interpolation, Limits, Mode
from pcace_dist.errors import RowError
from tests.datasets.helpers import encoded, picture

PLAIN = ImageSpec()


def reason(data: bytes | None, spec: ImageSpec = PLAIN) -> str:
    with pytest.raises(RowError) as caught:
        decode(data, spec)
    assert caught.value.stage == "decode"
    return caught.value.reason


def by_pillow(data: bytes, mode: str) -> np.ndarray:
    array = np.asarray(Image.open(io.BytesIO(data)).convert(mode))
    return array.transpose(2, 0, 1) if array.ndim == 3 else array[None]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats_decode_to_the_pixels_that_pillow_sees(kind: str, mode: Mode) -> None:
    data = encoded(picture(1), kind)
    image = decode(data, ImageSpec(mode=mode))
    assert image.dtype == torch.uint8 and image.shape == (3 if mode == "RGB" else 1, 10, 12)
    if kind != "JPEG" or mode == "RGB":
        assert np.array_equal(image.numpy(), by_pillow(data, mode))


def test_grey_of_a_colour_jpeg_is_its_luma() -> None:
    data = encoded(picture(1), "JPEG")
    luma = np.asarray(Image.open(io.BytesIO(data)).convert("YCbCr"))[..., 0].astype(int)
    # Pillow goes to RGB and back, which clamps; the luma itself is within that of it
    assert np.abs(decode(data, ImageSpec(mode="L")).numpy()[0] - luma).max() <= 16


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_png_colour_types_lose_palette_and_alpha(mode: str) -> None:
    data = encoded(picture(2, mode=mode))
    image = decode(data, PLAIN)
    assert np.array_equal(image.numpy(), by_pillow(data, "RGB"))


def test_palette_with_transparency_gives_the_palettes_colours() -> None:
    data = encoded(picture(2, mode="P"), transparency=bytes(range(256)))
    assert decode(data, PLAIN).shape == (3, 10, 12)


def test_cmyk_and_grey_jpeg_become_rgb() -> None:
    for mode in ("CMYK", "L"):
        data = encoded(picture(3, mode=mode), "JPEG")
        assert np.array_equal(decode(data, PLAIN).numpy(), by_pillow(data, "RGB"))


def test_sixteen_bit_grey_keeps_the_high_byte() -> None:
    values = np.arange(120, dtype=np.uint16).reshape(10, 12) * 500
    image = decode(encoded(Image.fromarray(values)), ImageSpec(mode="L"))
    assert np.array_equal(image[0].numpy(), (values >> 8).astype(np.uint8))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(kind: str) -> None:
    still = picture(4).quantize(16).convert("RGB")
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(still, kind, save_all=True, append_images=[picture(5)], **options)
    assert np.array_equal(decode(data, PLAIN).numpy(), by_pillow(encoded(still, kind, **options), "RGB"))


def test_null_empty_and_what_is_no_image_are_named() -> None:
    assert reason(None) == "image is null"
    assert reason(b"") == "image is empty"
    assert reason(b"hello, this is text") == "not an image"
    assert reason(b"\0" * 100) == "not an image"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n") == "not an image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_images_are_found(kind: str, share: float) -> None:
    data = encoded(picture(6, 60, 50), kind)
    assert reason(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("missing", [1, 2, 5, 12, 13, 40])
def test_a_jpeg_or_png_that_lacks_its_last_bytes_is_truncated(kind: str, missing: int) -> None:
    assert reason(encoded(picture(6, 60, 50), kind)[:-missing]) == f"truncated {kind}"


def test_bytes_after_the_end_do_no_harm() -> None:
    for kind in ("JPEG", "PNG"):
        data = encoded(picture(6), kind)
        assert torch.equal(decode(data + b"\0" * 50, PLAIN), decode(data, PLAIN))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_byte_in_a_png_is_a_bad_row_and_not_the_end_of_the_process(share: float) -> None:
    data = bytearray(encoded(picture(7, 60, 50)))
    data[int(len(data) * share)] ^= 0xFF
    assert reason(bytes(data)).startswith("broken PNG")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG"]), st.data())
def test_damaged_bytes_give_an_image_or_a_reason(kind: str, draw: st.DataObject) -> None:
    data = bytearray(encoded(picture(8, 20, 20), kind))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        image = decode(bytes(data), ImageSpec(limits=Limits(10_000)))
    except RowError as error:
        assert error.stage == "decode" and "\n" not in error.reason
    else:
        assert image.dtype == torch.uint8 and image.shape[0] == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_pixel_limit_is_checked_before_decoding(kind: str) -> None:
    data = encoded(picture(9, 20, 10), kind)
    assert decode(data, ImageSpec(limits=Limits(200))).shape == (3, 10, 20)
    assert reason(data, ImageSpec(limits=Limits(199))) == "20x10 pixels are beyond limits.pixels 199"


def test_a_small_file_that_claims_to_be_huge_is_not_decoded() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    data += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data += b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    assert "beyond limits.pixels" in reason(data)


def test_an_image_of_more_pixels_than_pillows_own_limit_needs_only_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert decode(encoded(picture(9, 20, 10)), PLAIN).shape == (3, 10, 20)


def test_the_byte_limit_is_the_first_thing_checked() -> None:
    assert reason(b"x" * 101, ImageSpec(limits=Limits(bytes=100))) == "101 bytes are beyond limits.bytes 100"


def test_a_resize_that_explodes_is_refused() -> None:
    data = encoded(picture(1, 400, 1))
    assert "after model.input.resize" in reason(data, ImageSpec(resize=300, limits=Limits(10_000)))


@pytest.mark.parametrize("crop", [(6, 6), (5, 4), (40, 3), (3, 40), (40, 41)])
def test_a_crop_from_the_lower_pixel_is_transformers(crop: tuple[int, int]) -> None:
    processor = BitImageProcessor()
    for width in range(5, 16):
        image = torch.randint(0, 256, (3, 9, width), dtype=torch.uint8)
        theirs = processor.center_crop(image, SizeDict(height=crop[0], width=crop[1]))
        assert torch.equal(cropped(image, crop, "floor"), theirs)


@pytest.mark.parametrize("resize", [None, 7, 15, (9, 14)])
@pytest.mark.parametrize("crop", [None, 5, (6, 4), 30])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_geometry_is_torchvisions(
    resize: int | tuple[int, int] | None, crop: int | tuple[int, int] | None, interpolation: Interpolation
) -> None:
    data = encoded(picture(10, 24, 17))
    steps: list[torch.nn.Module] = []
    if resize is not None:
        steps.append(v2.Resize(resize, InterpolationMode(interpolation), antialias=True))
    if crop is not None:
        steps.append(v2.CenterCrop(crop))
    image = decode(data, PLAIN)
    for step in steps:
        image = step(image)
    ours = decode(data, ImageSpec(resize=resize, crop=crop, interpolation=interpolation))
    assert torch.equal(ours, image)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (64, 64), (31, 700)])
@pytest.mark.parametrize("resize", [16, 33, (40, 20), (64, 64), 1000])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_resizing_photographs_gives_torchvisions_bits(
    size: tuple[int, int], resize: int | tuple[int, int], mode: Mode
) -> None:
    data = encoded(picture(12, *size), "JPEG")
    for antialias in (True, False):
        reference = v2.Resize(resize, antialias=antialias)(decode(data, ImageSpec(mode=mode)))
        spec = ImageSpec(mode=mode, resize=resize, antialias=antialias, scaled_decode=False)
        assert torch.equal(decode(data, spec), reference)


# -- plain PNGs


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("wanted", ["L", "RGB"])
@pytest.mark.parametrize("size", [(28, 28), (1, 1), (1, 40), (300, 200)])
def test_the_short_cut_for_plain_pngs_gives_pillows_pixels(mode: str, wanted: Mode, size: tuple[int, int]) -> None:
    data = encoded(picture(3, *size, mode))
    assert images._plain_png(data, PLAIN) is not None
    assert np.array_equal(pixels(data, ImageSpec(mode=wanted)), by_pillow(data, wanted))


def test_a_grey_png_is_right_where_pillow_does_not_write_through(monkeypatch: pytest.MonkeyPatch) -> None:
    data, grey = encoded(picture(3, 31, 17, "L")), ImageSpec(mode="L")

    def copied(*arguments: Any) -> Image.Image:
        return frombuffer(*arguments).copy()

    frombuffer = Image.frombuffer
    monkeypatch.setattr(Image, "frombuffer", copied)
    plain = images._plain_png(data, grey)
    assert plain is not None and np.array_equal(plain, by_pillow(data, "L"))


def test_the_missing_rows_of_a_plain_png_are_black_every_time() -> None:
    rows = b"".join(b"\0" + bytes([9] * 64) for _ in range(10))
    short = plain_png(64, 64, zlib.compress(rows))
    for _ in range(3):
        np.full((1, 64, 64), 77, np.uint8)  # what the next array might find in its memory
        decoded = images._plain_png(short, ImageSpec(mode="L"))
        assert decoded is not None and np.all(decoded[0, :10] == 9) and not decoded[0, 10:].any()


def plain_png(width: int, height: int, packed: bytes) -> bytes:
    """A grey PNG with these packed rows, whatever their number; its checksums are right."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_only_plain_pngs_take_the_short_cut() -> None:
    others = [encoded(picture(2, mode=mode)) for mode in ("P", "LA", "RGBA", "1")]
    others.append(encoded(Image.fromarray(np.zeros((4, 4), np.uint16))))
    others.append(encoded(picture(2), save_all=True, append_images=[picture(3)]))
    others.append(encoded(picture(2), transparency=(1, 2, 3)))
    others += [encoded(picture(2))[:at] for at in (17, 30, 40, 100, -1)]
    assert [images._plain_png(data, PLAIN) for data in others] == [None] * len(others)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["L", "RGB"]), st.data())
def test_a_damaged_png_gets_the_same_verdict_with_and_without_the_short_cut(mode: str, draw: st.DataObject) -> None:
    data = bytearray(encoded(picture(8, 20, 20, mode)))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    if not data.startswith(images.PNG_BEGIN):
        return
    for wanted in ("L", "RGB"):
        if (plain := images._plain_png(bytes(data), ImageSpec(mode=wanted))) is not None:
            assert np.array_equal(plain, by_pillow(bytes(data), wanted))


# -- scaled decoding


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Detail at all scales, as photographs have it (amplitudes fall as 1/f), and edges."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
        noise[0, 0] = 0
        plane = np.fft.irfft2(noise, (height, width))
        planes.append(np.clip(127 + 50 * plane / plane.std(), 0, 255))
    values = np.stack(planes, -1).astype(np.uint8)
    values[height // 3 : height // 2, width // 4 : width // 2] = (
        255 - values[height // 3 : height // 2, : width // 4][:, : width // 2 - width // 4]
    )
    return Image.fromarray(values)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_scaled_decoding_stays_within_its_tolerance(mode: Mode, scale: int) -> None:
    height, width = 4 * scale * 40, 4 * scale * 60
    data = encoded(photograph(width, height), "JPEG", quality=92)
    spec = ImageSpec(mode=mode, resize=40)
    assert scale_of(height, width, spec) == scale
    scaled, whole = (decode(data, s).int() for s in (spec, replace(spec, scaled_decode=False)))
    assert scaled.shape == whole.shape
    difference = (scaled - whole).abs()
    assert difference.float().mean() <= 0.5 and difference.max() <= 8  # of 255; docs/pipeline.md


def test_the_scale_depends_on_sizes_and_settings_alone() -> None:
    spec = ImageSpec(resize=256, crop=224)
    assert [scale_of(h, w, spec) for h, w in [(375, 500), (2047, 4000), (2048, 4000), (4096, 4100), (8192, 8192)]] == [
        1, 1, 2, 4, 8,
    ]  # fmt: skip
    assert scale_of(4096, 4096, replace(spec, resize=(513, 64))) == 1
    for change in ({"scaled_decode": False}, {"antialias": False}, {"interpolation": "nearest"}, {"resize": None}):
        assert scale_of(4096, 4096, replace(spec, **change)) == 1


def test_colour_spaces_that_are_not_scaled_decode_whole() -> None:
    data = encoded(picture(3, 80, 64, mode="CMYK"), "JPEG")
    spec = ImageSpec(resize=4)
    assert scale_of(64, 80, spec) == 4
    assert torch.equal(decode(data, spec), decode(data, replace(spec, scaled_decode=False)))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_jpeg_is_found_when_it_is_scaled(share: float) -> None:
    data = encoded(picture(6, 640, 480), "JPEG")
    assert reason(data[: int(len(data) * share)], ImageSpec(resize=32)) in (
        "truncated JPEG",
        "broken JPEG (no frame header)",
    )


def test_antialias_can_be_turned_off() -> None:
    data = encoded(picture(10, 24, 17))
    on, off = (decode(data, ImageSpec(resize=(5, 5), antialias=a)) for a in (True, False))
    assert not torch.equal(on, off)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_the_shorter_side_becomes_the_size(height: int, width: int, size: int) -> None:
    assert min(resized(height, width, size)) == size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_size_is_in_the_header(kind: str) -> None:
    assert image_size(encoded(picture(1, 31, 17), kind)) == (31, 17)


def test_the_size_of_a_jpeg_with_an_embedded_thumbnail_is_its_own() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 3000
    data = encoded(picture(1, 31, 17), "JPEG", exif=exif, progressive=True)
    assert image_size(data) == (31, 17)


def test_decoding_depends_on_the_bytes_alone() -> None:
    data = encoded(picture(11, 40, 30), "JPEG")
    assert torch.equal(decode(data, PLAIN), decode(bytes(data), PLAIN))
