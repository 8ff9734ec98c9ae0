"""Finds the counterparts of one network's channels in another, by their codes of the same images (Hungarian method).

Pure: arrays in, arrays out. A channel's codes span a space of up to p dimensions over the images. Signs, rotations and
scales of the principal axes do not change this space, so the likeness of two channels is that of their spaces: the mean
of the squared canonical correlations, corrected for chance, as a correlation. 1: the same space; 0: unrelated spaces.
The first canonical correlation alone would not be enough: almost all channels respond to the brightness of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Floats: TypeAlias = npt.NDArray[np.float64]
Codes: TypeAlias = npt.NDArray[np.uint8]

LIKE = 0.7  # with at least this likeness, two channels count as the same
_RANK = 1e-6  # singular values below this share of the largest are rounding
_TILE = 256  # channels whose spaces are compared at a time


@dataclass(frozen=True, eq=False)
class Matching:
    """permutation: int (C,); channel c of the first network is channel permutation[c] of the second. likeness: (C,), 0
    to 1. own: (C,), the likeness of channel c of the first network with channel c of the second.
    """

    permutation: npt.NDArray[np.int64]
    likeness: Floats
    own: Floats

    @property
    def moved(self) -> int:
        """The number of channels that are found in another place."""
        return int(((self.permutation != np.arange(len(self.permutation))) & (self.likeness >= LIKE)).sum())

    @property
    def found(self) -> int:
        """The number of channels with a counterpart in the other network."""
        return int((self.likeness >= LIKE).sum())


def match_channels(codes_a: Codes, codes_b: Codes) -> Matching:
    """Match the channels of two layers by their codes (n, C, p) of the same n images, in the same order.

    Every channel gets exactly one partner, so that the sum of the likenesses is as large as possible; a channel that
    does not vary is like no other. Raises ValueError for different numbers of images or channels.
    """
    if codes_a.shape[:2] != codes_b.shape[:2]:
        raise ValueError(f"codes of shapes {codes_a.shape} and {codes_b.shape}: want the same images and channels")
    similarity = likeness(codes_a, codes_b)
    rows, columns = linear_sum_assignment(
        similarity + 1e-9 * np.eye(len(similarity)), maximize=True
    )  # ties: its own place
    return Matching(np.asarray(columns, np.int64), similarity[rows, columns], np.diagonal(similarity).copy())


def likeness(codes_a: Codes, codes_b: Codes) -> Floats:
    """Likeness (C, C') of every channel of one layer and every channel of another: codes (n, C, p) and (n, C', p')."""
    spaces_a, spaces_b = _spaces(codes_a), _spaces(codes_b)
    squares_summed = np.zeros((len(spaces_a), len(spaces_b)))
    rows = len(codes_a)
    for start in range(0, len(spaces_a), _TILE):
        tile = spaces_a[start : start + _TILE]
        for begin in range(0, len(spaces_b), _TILE):
            part = spaces_b[begin : begin + _TILE]
            product = np.concatenate(tile, axis=1).T @ np.concatenate(part, axis=1)
            squares = np.square(product).reshape(len(tile), tile[0].shape[1], len(part), part[0].shape[1])
            squares_summed[start : start + len(tile), begin : begin + len(part)] = squares.sum(axis=(1, 3))
    ranks = [np.array([int(space.any(axis=0).sum()) for space in side]) for side in (spaces_a, spaces_b)]
    return _above_chance(squares_summed, ranks[0][:, None], ranks[1][None, :], rows)


def _spaces(codes: Codes) -> list[Floats]:
    """For every channel an orthonormal basis (n, p) of its centred codes; zeros beyond its rank."""
    spaces = []
    for channel in range(codes.shape[1]):
        channel_codes = codes[:, channel].astype(np.float64)
        left, values, _ = np.linalg.svd(channel_codes - channel_codes.mean(axis=0), full_matrices=False)
        alive = values > max(values[0] * _RANK, 1e-9) if len(values) else values > 0
        basis = np.zeros((len(channel_codes), codes.shape[2]))
        basis[:, : len(values)] = left * alive
        spaces.append(basis)
    return spaces


def _above_chance(
    squares: Floats, ranks_a: npt.NDArray[np.integer], ranks_b: npt.NDArray[np.integer], rows: int
) -> Floats:
    """Likenesses from sums of squared canonical correlations.

    Spaces of a and b dimensions have min(a, b) correlations; by chance, their squares sum to a b / (n - 1). A
    difference in dimensions lowers the likeness: the sum is divided by the larger one.
    """
    larger = np.maximum(np.maximum(ranks_a, ranks_b), 1)
    chance = ranks_a * ranks_b / max(rows - 1, 1) / larger
    mean = squares / larger
    return np.asarray(np.sqrt(np.clip((mean - chance) / np.maximum(1 - chance, 1e-9), 0.0, 1.0)))
