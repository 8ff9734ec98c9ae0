"""Images that are arrays of NumPy: read as they were written, refused by reason, shown to people."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from pcace_dist.datasets.decoding.tensors import as_picture, encode_array
from pcace_dist.datasets.images import ImageSpec, decode
from pcace_dist.datasets.sections import Input
from pcace_dist.errors import RowError

FOUR = ImageSpec(mode="tensor", mean=[0.0] * 4)


def array(channels: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, 5, 7)).astype(np.float32)


def saved(values: np.ndarray) -> bytes:
    """As NumPy itself writes it."""
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def reason(data: bytes, spec: ImageSpec = FOUR) -> str:
    with pytest.raises(RowError) as refused:
        decode(data, spec)
    assert refused.value.stage == "decode"
    return refused.value.reason


def test_arrays_come_back_bit_by_bit_and_as_numpy_writes_them() -> None:
    values = array()
    values[0, 0, :3] = np.nan, np.inf, -0.0
    assert encode_array(values) == saved(values)
    assert decode(encode_array(values), FOUR).numpy().tobytes() == values.tobytes()
    in_columns = np.asfortranarray(values)
    assert decode(encode_array(in_columns), FOUR).numpy().tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"text", "not an array of NumPy"),
        (saved(array(3)), "shape (3, 5, 7), where (4, H, W) is wanted"),
        (saved(array()[0]), "shape (5, 7), where (4, H, W) is wanted"),
        (saved(array().astype(np.float64)), "array of float64, where float32 in rows is wanted"),
        (saved(np.asfortranarray(array())), "array of float32 in columns"),
        (saved(array())[:-1], "559 bytes of numbers, where shape (4, 5, 7) has 560"),
        (saved(array())[:20], "array: "),
        (saved(np.array([object()])), "array of object, where float32 in rows is wanted"),
        (saved(array()[:, :0]), "shape (4, 0, 7): no pixels"),
    ],
)
def test_other_bytes_are_refused_by_reason(data: bytes, expected: str) -> None:
    assert expected in reason(data)


def test_limits_are_checked_before_memory_is_taken() -> None:
    header = saved(array()).replace(b"(4, 5, 7)", b"(4, 10**9, 7)")
    assert "array: " in reason(header)
    header = saved(array()).replace(b"(4, 5, 7), }         ", b"(4, 999999999, 99), }")
    assert "beyond limits.pixels" in reason(header)


def test_an_array_where_images_are_wanted_is_told_so() -> None:
    assert reason(saved(array(3)), ImageSpec()) == "an array of NumPy, which model.input.mode tensor takes"


def test_as_many_channels_as_mean_has() -> None:
    assert Input(mode="tensor").image_channels == 3
    assert Input(mode="tensor", std=[1.0] * 5).mean == [0.0] * 5
    with pytest.raises(ValueError, match="std: 2 values; mode tensor needs 4"):
        Input(mode="tensor", mean=[0.0] * 4, std=[1.0] * 2)
    with pytest.raises(ValueError, match="mode tensor has none"):
        Input(mode="tensor", decode="gpu")


def test_people_are_shown_floats_from_the_least_to_the_greatest() -> None:
    shown = as_picture(torch.tensor([[[-2.0, 0.0, 3.0]]]))
    assert shown.dtype == torch.uint8 and shown.tolist() == [[[0, 102, 255]]]
    assert as_picture(torch.zeros(1, 2, 2)).tolist() == [[[0, 0], [0, 0]]]
    assert as_picture(torch.randn(7, 4, 4)).shape == (3, 4, 4)
    assert as_picture(torch.randn(2, 4, 4)).shape == (1, 4, 4)
    image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    assert as_picture(image) is image
