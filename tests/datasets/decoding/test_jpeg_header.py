"""The size of a JPEG is that of the frame which libjpeg decodes, whatever lies between its markers."""

from __future__ import annotations

import io
import random
import warnings
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pcace_dist.datasets.device_images import DeviceDecoder, frame_for_device
from pcace_dist.datasets.formats import format_of
from pcace_dist.datasets.images import ImageSpec, buffer_of, decode, image_size
from pcace_dist.errors import RowError
from tests.datasets.helpers import encoded, picture
from tests.datasets.test_images import photograph, reason

PLAIN = ImageSpec()
JUNK = [
    b"\0",
    b"\0" * 7,
    b"\xff",
    b"\xff" * 5,
    b"\xff\0",
    b"\xff\0\xff\0",
    b"junk",
    b"\0\xff\0\0",
    b"\xff\x01",
    b"\xff\xd3",
]


@cache
def jpegs() -> list[bytes]:
    kinds = [("RGB", False), ("L", False), ("RGB", True), ("CMYK", False)]
    thumbnail = b"Exif\0\0" + encoded(picture(9, 7, 5), "JPEG")
    return [
        encoded(picture(i, 20 + i, 13 + 3 * i, mode), "JPEG", progressive=progressive, exif=exif)
        for i, (mode, progressive) in enumerate(kinds)
        for exif in (b"", thumbnail)
    ]


def segments(data: bytes) -> list[int]:
    """Where the segments of a sound JPEG begin, up to the scan."""
    places = [2]
    while data[places[-1] + 1] != 0xDA:
        places.append(places[-1] + 2 + int.from_bytes(data[places[-1] + 2 : places[-1] + 4]))
    return places


def inserted(data: bytes, at: int, segment: bytes) -> bytes:
    return data[:at] + segment + data[at:]


def frame(height: int, width: int) -> bytes:
    return b"\xff\xc0\0\x0b\x08" + height.to_bytes(2) + width.to_bytes(2) + b"\1\1\x11\0"


def by_torchvision(data: bytes) -> torch.Tensor | None:
    try:
        image: torch.Tensor = torch.ops.image.decode_jpeg(buffer_of(data), 3, False)
    except RuntimeError:
        return None
    return image


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("place", range(8))
def test_bytes_between_markers_are_skipped(place: int, junk: bytes) -> None:
    for data in jpegs():
        at = segments(data)[min(place, len(segments(data)) - 1)]
        odd = inserted(data, at, junk)
        assert torch.equal(decode(odd, PLAIN), decode(data, PLAIN))
        assert torch.equal(decode(memoryview(bytearray(odd)), PLAIN), decode(data, PLAIN))
        assert image_size(odd) == image_size(data)


def test_much_junk_is_skipped_in_one_step() -> None:
    data = jpegs()[0]
    odd = inserted(data, segments(data)[1], b"\xff\0\0\xff\x01\xff\xd0" * 500_000)
    assert image_size(odd) == image_size(data)
    assert torch.equal(decode(odd, PLAIN), decode(data, PLAIN))


def test_a_much_larger_jpeg_with_junk_is_scaled_as_ever() -> None:
    data = encoded(photograph(640, 480), "JPEG")
    spec = ImageSpec(resize=32)
    first, *others = segments(data)
    for at in others:
        assert torch.equal(decode(inserted(data, at, b"\0\xff\0"), spec), decode(data, spec))
    odd = inserted(data, first, b"\0\xff\0")  # Pillow's class, which scales, does not take it
    assert torch.equal(decode(odd, spec), decode(data, replace(spec, scaled_decode=False)))


@pytest.mark.parametrize("junk", [b"\0", b"\xff\0"])
def test_the_device_leaves_such_files_to_the_processor(junk: bytes) -> None:
    data = jpegs()[0]
    odd = inserted(data, segments(data)[1], junk)
    assert frame_for_device(data, PLAIN) is not None and frame_for_device(odd, PLAIN) is None
    (ours,) = DeviceDecoder(torch.device("cpu")).images([odd], PLAIN)
    assert isinstance(ours, torch.Tensor) and torch.equal(ours, decode(data, PLAIN))


def test_a_length_that_two_readers_may_take_differently_is_no_file_for_the_device() -> None:
    data = inserted(jpegs()[0], 2, b"\xff\xe5\0\0")
    assert frame_for_device(data, PLAIN) is None
    assert image_size(data) == image_size(jpegs()[0])


@pytest.mark.parametrize(
    "huge", [frame(60_000, 60_000), b"\0" + frame(60_000, 60_000), b"\xff\0" + frame(60_000, 60_000)]
)
def test_a_frame_header_cannot_be_hidden_from_the_limit(huge: bytes) -> None:
    data = jpegs()[0]
    first = segments(data)
    assert reason(inserted(data, first[1], huge)) == "60000x60000 pixels are beyond limits.pixels 178956970"
    assert reason(inserted(data, first[1], b"\xff\xe5\0\0" + huge)).startswith("60000x60000 pixels")
    inside = inserted(data, first[1], b"\xff\xe5" + (len(huge) + 2).to_bytes(2) + huge)
    assert torch.equal(decode(inside, PLAIN), decode(data, PLAIN)), "within a segment it is no header"
    second = inserted(data, first[-1], huge)
    assert image_size(second) == image_size(data) and "broken JPEG" in reason(second)


@pytest.mark.parametrize(
    "ends", [b"\xff\xd8", b"\xff\xd9", b"\xff\xda\0\x08\1\1\0\0?\0", b"\xff\x02", b"\xff\xf3\0\2", b"\xff\xde\0\2"]
)
def test_what_ends_libjpegs_search_ends_ours(ends: bytes) -> None:
    data = inserted(jpegs()[0], 2, ends)
    assert by_torchvision(data) is None
    assert reason(data) == "broken JPEG (no frame header)"


def test_a_height_that_comes_later_is_no_image() -> None:
    data = jpegs()[0]
    at = data.index(b"\xff\xc0") + 5
    data = data[:at] + b"\0\0" + data[at + 2 :]
    assert by_torchvision(data) is None
    assert reason(data) == "image has no pixels"
    with pytest.raises(RowError, match="image has no pixels"):
        image_size(data)


@pytest.mark.parametrize("junk", [b"\0", b"1234567", b"\0\xff\0", b"\0\xff\x01"])
def test_bytes_after_the_begin_are_skipped_where_a_marker_follows(junk: bytes) -> None:
    for data in jpegs():
        odd = inserted(data, 2, junk)
        assert format_of(odd[:512]) == "JPEG"
        assert torch.equal(decode(odd, PLAIN), decode(data, PLAIN))
        assert image_size(odd) == image_size(data)


def test_two_bytes_alone_make_no_jpeg() -> None:
    assert reason(b"\xff\xd8 and some text") == "not an image"
    assert reason(b"\xff\xd8" + b"\0" * 100 + b"\xff\xdb") == "not an image"


PIECES = [
    *JUNK, b"\xff\xd8", b"\xff\xd9", b"\xff\xda\0\x08\1\1\0\0?\0", frame(60_000, 60_000), frame(0, 5), frame(3, 4),
    b"\xff\xe5\0\0", b"\xff\xe1\0\1", b"\xff\xfe\0\2", b"\xff\xdc\0\4\0\x09", b"\xff\xe0\0\x0f" + frame(400, 400),
    b"\xff\xde\0\4\0\0", b"\xff\x02", b"\xff\xf3\0\2", b"\xff\xcc\0\2", b"\xff\xc8\0\2", b"\xff\xdd\0\4\0\0",
]  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """With pieces put in at segments, bytes changed, lengths changed."""
    for _ in range(rng.randint(1, 3)):
        kind_of_change = rng.random()
        try:
            at = rng.choice(segments(data))
        except IndexError:  # no longer sound
            at = rng.randrange(2, len(data))
        if kind_of_change < 0.6:
            data = inserted(data, at, rng.choice(PIECES))
        elif kind_of_change < 0.8:
            at = rng.randrange(2, min(len(data), 700))
            data = (
                data[:at] + bytes([rng.choice([0, 1, 2, 0xFF, 0xC0, 0xD8, 0xDA, rng.randrange(256)])]) + data[at + 1 :]
            )
        else:
            data = data[: at + 2] + rng.randrange(rng.choice([5, 60, 65_536])).to_bytes(2) + data[at + 4 :]
    return data


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 7), st.integers(0, 2**64))
def test_the_size_is_that_of_libjpegs_pixels(kind: int, seed: int) -> None:
    data = mutated(jpegs()[kind], random.Random(seed))
    try:
        size = image_size(data)
    except RowError:
        assert by_torchvision(data) is None, "what libjpeg opens is opened"
        return
    if size[0] * size[1] > 1_000_000:
        return  # too much to try; that such a header counts is tested above
    image = by_torchvision(data)
    if image is not None:
        assert (image.shape[2], image.shape[1]) == size
        assert torch.equal(decode(data, PLAIN), image)
        assert by_pillow(data) in (None, size)


def by_pillow(data: bytes) -> tuple[int, int] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            image.load()
    except Exception:  # Pillow raises a dozen kinds for broken files
        return None
    return image.size
