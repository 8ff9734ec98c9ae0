"""Which channel of one network is which of another: by what their codes say about the same images (Hungarian method).

Pure: arrays in, arrays out. A channel's codes span a space of up to p dimensions over the images. Signs, rotations and
scales of the principal axes do not change that space, so the likeness of two channels is that of their spaces: the mean
of the squared canonical correlations, less what chance gives, as a correlation. 1: the same space; 0: unrelated ones.
The first canonical correlation alone would not do: almost all channels see how dark an image is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Floats: TypeAlias = npt.NDArray[np.float64]
Codes: TypeAlias = npt.NDArray[np.uint8]

LIKE = 0.7  # from this likeness on two channels count as the same one
_RANK = 1e-6  # singular values below this share of the largest are rounding
_TILE = 256  # channels whose spaces are compared at a time


@dataclass(frozen=True, eq=False)
class Matching:
    """permutation: int (C,), channel c of the one is channel permutation[c] of the other. likeness: (C,), 0 to 1.

    own: (C,) likeness of channel c of the one with channel c of the other.
    """

    permutation: npt.NDArray[np.int64]
    likeness: Floats
    own: Floats

    @property
    def moved(self) -> int:
        """Channels that are found, and not in their own place."""
        return int(((self.permutation != np.arange(len(self.permutation))) & (self.likeness >= LIKE)).sum())

    @property
    def found(self) -> int:
        """Channels that have one like them in the other network."""
        return int((self.likeness >= LIKE).sum())


def match_channels(one: Codes, other: Codes) -> Matching:
    """Match the channels of two layers by their codes (n, C, p) of the same n images, in the same order.

    Every channel gets exactly one partner, so that the sum of the likenesses is the largest possible; a channel that
    does not vary is like none. Raises ValueError for different numbers of images or channels.
    """
    if one.shape[:2] != other.shape[:2]:
        raise ValueError(f"codes of shapes {one.shape} and {other.shape}: want the same images and channels")
    alike = likeness(one, other)
    rows, columns = linear_sum_assignment(alike + 1e-9 * np.eye(len(alike)), maximize=True)  # ties: its own place
    return Matching(np.asarray(columns, np.int64), alike[rows, columns], np.diagonal(alike).copy())


def likeness(one: Codes, other: Codes) -> Floats:
    """Likeness (C, C') of every channel of one layer to every one of another: codes (n, C, p) and (n, C', p')."""
    first, second = _spaces(one), _spaces(other)
    result = np.zeros((len(first), len(second)))
    rows = len(one)
    for start in range(0, len(first), _TILE):
        tile = first[start : start + _TILE]
        for begin in range(0, len(second), _TILE):
            part = second[begin : begin + _TILE]
            product = np.concatenate(tile, axis=1).T @ np.concatenate(part, axis=1)
            squares = np.square(product).reshape(len(tile), tile[0].shape[1], len(part), part[0].shape[1])
            result[start : start + len(tile), begin : begin + len(part)] = squares.sum(axis=(1, 3))
    ranks = [np.array([int(space.any(axis=0).sum()) for space in side]) for side in (first, second)]
    return _above_chance(result, ranks[0][:, None], ranks[1][None, :], rows)


def _spaces(codes: Codes) -> list[Floats]:
    """For every channel an orthonormal basis (n, p) of its centred codes; zeros beyond its rank."""
    spaces = []
    for channel in range(codes.shape[1]):
        held = codes[:, channel].astype(np.float64)
        left, values, _ = np.linalg.svd(held - held.mean(axis=0), full_matrices=False)
        alive = values > max(values[0] * _RANK, 1e-9) if len(values) else values > 0
        basis = np.zeros((len(held), codes.shape[2]))
        basis[:, : len(values)] = left * alive
        spaces.append(basis)
    return spaces


def _above_chance(
    squares: Floats, first: npt.NDArray[np.integer], second: npt.NDArray[np.integer], rows: int
) -> Floats:
    """From sums of squared canonical correlations to likenesses.

    Of spaces of a and b dimensions the smaller gives min(a, b) correlations; by chance their squares sum to
    a b / (n - 1). Different dimensions are no likeness: the sum is taken by the larger one.
    """
    larger = np.maximum(np.maximum(first, second), 1)
    chance = first * second / max(rows - 1, 1) / larger
    mean = squares / larger
    return np.asarray(np.sqrt(np.clip((mean - chance) / np.maximum(1 - chance, 1e-9), 0.0, 1.0)))
