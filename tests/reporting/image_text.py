"""A small image-text model: images and words in one space of three numbers, and the cosine of the two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from tests.reporting.square import SQUARE

Floats = npt.NDArray[np.float64]
MEANING = {  # brightest square against the rest, its place from left to right, from top to bottom
    "a bright square": (1, 0, 0),
    "nothing but noise": (-1, 0, 0),
    "something on the left": (0.2, -1, 0),
    "something on the right": (0.2, 1, 0),
    "something above": (0.2, 0, -1),
    "something below": (0.2, 0, 1),
}


def similarity(images: Sequence[Image.Image], words: Sequence[str]) -> torch.Tensor:
    """(images, words)."""
    seen, meant = np.stack([_seen(image) for image in images]), np.array([MEANING[word] for word in words], np.float64)
    return torch.from_numpy(seen @ meant.T / np.linalg.norm(meant, axis=1))


def _seen(image: Image.Image) -> Floats:
    assert image.mode == "RGB"
    pixels = np.asarray(image.convert("L"), np.float64) / 255
    windows = sliding_window_view(pixels, (SQUARE, SQUARE)).mean((2, 3))
    top, left = np.unravel_index(windows.argmax(), windows.shape)
    place = 2 * np.array([left, top]) / (len(windows) - 1) - 1
    contrast = windows.max() - pixels.mean() - 0.25
    return np.array([contrast, *(place * max(contrast, 0))])


def of_one(images: Sequence[Image.Image], words: Sequence[str]) -> Floats:
    """Forgets the words."""
    return np.ones(len(images))


def broken(images: Sequence[Image.Image], words: Sequence[str]) -> Floats:
    raise ValueError("no weights\nhere")
