"""Images are seen where Arrow holds them, and are the same as copies."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pcace_dist.datasets.decoded_rows import VIEWED, encoded_images
from pcace_dist.datasets.images import ImageSpec, pixels
from pcace_dist.statistics.folds import key_of_bytes
from tests.datasets.helpers import encoded, picture

JPEGS = [encoded(picture(seed, 120, 100), "JPEG", quality=95) for seed in range(4)]
HELD: list[bytes | None] = [JPEGS[0], None, JPEGS[1], b"", JPEGS[2], JPEGS[3]]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("cut", [slice(0, 6), slice(1, 5), slice(2, 3)])
def test_views_are_the_stored_bytes(kind: pa.DataType, cut: slice) -> None:
    chunks = [pa.array(HELD, kind), pa.array(HELD[::-1], kind)]
    column = pa.chunked_array([chunk.slice(cut.start, cut.stop - cut.start) for chunk in chunks])
    images = encoded_images(column)
    assert (
        [None if image is None else bytes(image) for image in images]
        == column.to_pylist()
        == HELD[cut] + HELD[::-1][cut]
    )
    assert any(isinstance(image, memoryview) for image in images)


def test_columns_without_any_byte_are_nulls() -> None:
    for values in ([], [None, None], [b"", None]):
        column = pa.chunked_array([pa.array(values, pa.binary()), pa.array([], pa.binary())])
        assert encoded_images(column) == values


def test_small_images_are_copied() -> None:
    assert encoded_images(pa.chunked_array([pa.array([b"x" * (VIEWED // 2)] * 3)])) == [b"x" * (VIEWED // 2)] * 3


def test_a_view_decodes_to_the_same_pixels_has_the_same_fold_and_stays_as_it_is() -> None:
    others = [encoded(picture(5, 60, 50), kind) for kind in ("PNG", "BMP", "WEBP", "TIFF")]
    held = [*JPEGS, *others]
    column = pa.chunked_array([pa.array(held, pa.binary())])
    spec = ImageSpec(resize=40, crop=32)
    for view, data in zip(encoded_images(column), held, strict=True):
        assert isinstance(view, memoryview)
        assert np.array_equal(pixels(view, spec), pixels(data, spec))
        assert key_of_bytes(view) == key_of_bytes(data)
    assert column.to_pylist() == held
