"""Products of hat weights, added up row by row in compiled loops, on CPUs: the same integers as those of products.py.

Pure tensors: no I/O, no Ray. A code touches two hats, so a pair of codes has four products, where a product of matrices
has K^2. With the right hats' weights r and u, out of S, these are (S - r)(S - u), (S - r) u, r (S - u) and r u: so one
integer of 64 bits for each pair of intervals holds all that is to be added up, the number of rows and the sums of r, u
and r u, side by side. A row adds (1 + r 2^14) (1 + u 2^28), until a field could overflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.statistics import basis
from pcace_dist.statistics.loops.compiled import in_slices, machine_code, pays

Integers: TypeAlias = npt.NDArray[np.int64]

SPARED = 5e-9  # seconds that the loops save for a row and a pair of codes, about
_STEP_BYTES = 16 << 20  # of codes that are put in the order of their folds at a time
_FEWEST_ROWS = 1024  # in such a step
_FIELD, _PRODUCT = (1 << 14) - 1, (1 << 22) - 1  # the largest values of a field; S is at most 255


def are_worth_it(codes: Tensor, targets: int) -> bool:
    """Whether rows with codes (n, C, p) and so many targets are to be added by the loops."""
    rows, channels, components = codes.shape
    pairs = components * (components + 1) // 2 + targets * components
    return codes.device.type == "cpu" and pays(SPARED * rows * channels * pairs)


def add_products(
    codes: Tensor, target_codes: Tensor, folds: Tensor, knots: int, xx: Tensor, xy: Tensor, yy: Tensor | None
) -> None:
    """Adds the products of n rows to a Gram's sums, which must have room for them.

    codes: uint8 (n, C, p); target_codes: uint8 (n, T); folds: int64 (n,); xx (C, F, XX) and xy (T, C, F, p K K), int32
    or int64; yy: int64 (T, F, K K), None where it is not to change.
    """
    for step in _steps(codes, target_codes, folds, knots, xx.shape[1]):
        in_slices(lambda channels, step=step: step.add(channels, xx.numpy(), xy.numpy()), len(step.x))  # type: ignore[misc]
        if yy is not None:
            step.add_targets(yy.numpy())


@dataclass(frozen=True, eq=False)
class _Step:
    """Rows in the order of their folds. x: (C, p, n), y: (T, n), codes; starts: (F + 1,), where folds begin."""

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.uint8]
    starts: Integers
    knots: int

    @property
    def _grid(self) -> tuple[Integers, npt.NDArray[np.uint8], int, int]:
        """Where folds begin, the interval of each code, the number of knots, codes from one to the next."""
        scale = basis.unit_scale(self.knots)
        intervals = np.minimum(np.arange(256) // scale, self.knots - 2).astype(np.uint8)
        return self.starts, intervals, self.knots, scale

    def add(self, channels: slice, xx: npt.NDArray[np.integer], xy: npt.NDArray[np.integer]) -> None:
        machine_code(_add, calls=_CALLS)(self.x[channels], self.y, *self._grid, xx[channels], xy[:, channels])

    def add_targets(self, yy: Integers) -> None:
        machine_code(_add_alone, calls=_CALLS)(self.y, *self._grid, yy)


def _steps(codes: Tensor, target_codes: Tensor, folds: Tensor, knots: int, fold_count: int) -> Iterator[_Step]:
    rows, channels, components = codes.shape
    longest = max(_FEWEST_ROWS, _STEP_BYTES // max(1, channels * components))
    for first in range(0, rows, longest):
        part = slice(first, first + longest)
        order = torch.argsort(folds[part])
        x = codes[part].flatten(1).index_select(0, order).T.contiguous().reshape(channels, components, -1)
        y = target_codes[part].index_select(0, order).T.contiguous()
        counts = torch.bincount(folds[part], minlength=fold_count).tolist()
        yield _Step(x.numpy(), y.numpy(), np.array([0, *accumulate(counts)], np.int64), knots)


def _add(
    x: np.ndarray,
    y: np.ndarray,
    starts: np.ndarray,
    intervals: np.ndarray,
    knots: int,
    scale: int,
    xx: np.ndarray,
    xy: np.ndarray,
) -> None:
    """Adds the products of hats of x (C, p, n) with one another to xx (C, F, XX), packed, and with those of y (T, n) to
    xy (T, C, F, p K K). intervals: that of each code."""
    components, targets, size, longest = x.shape[1], len(y), knots * knots, _FIELD // scale
    right, cells = (
        np.empty((components + targets, longest), np.int64),
        np.empty((components + targets, longest), np.int64),
    )
    sums = np.zeros(knots + 1 + size, np.int64)
    for fold in range(len(starts) - 1):
        for first in range(starts[fold], starts[fold + 1], longest):
            stop = min(first + longest, starts[fold + 1])
            for target in range(targets):
                place(y[target, first:stop], intervals, scale, right[components + target], cells[components + target])
            for channel in range(len(x)):
                rows, out = stop - first, xx[channel, fold]
                for one in range(components):
                    place(x[channel, one, first:stop], intervals, scale, right[one], cells[one])
                    add_squares(right[one], cells[one], rows, sums, knots, scale, out[one * (2 * knots - 1) :])
                start = components * (2 * knots - 1)
                for one in range(components):
                    for other in range(one + 1, components):
                        add_pair(right, cells, one, other, rows, sums, knots, scale, out[start:])
                        start += size
                    for target in range(targets):
                        of_target = xy[target, channel, fold, one * size :]
                        add_pair(right, cells, one, components + target, rows, sums, knots, scale, of_target)


def _add_alone(
    y: np.ndarray, starts: np.ndarray, intervals: np.ndarray, knots: int, scale: int, yy: np.ndarray
) -> None:
    """Adds the products of hats of each y (T, n) with one another to yy (T, F, K K)."""
    longest = _FIELD // scale
    right, cells = np.empty((1, longest), np.int64), np.empty((1, longest), np.int64)
    sums = np.zeros(knots + 1 + knots * knots, np.int64)
    for target in range(len(y)):
        for fold in range(len(starts) - 1):
            for first in range(starts[fold], starts[fold + 1], longest):
                stop = min(first + longest, starts[fold + 1])
                place(y[target, first:stop], intervals, scale, right[0], cells[0])
                add_pair(right, cells, 0, 0, stop - first, sums, knots, scale, yy[target, fold])


def place(codes: np.ndarray, intervals: np.ndarray, scale: int, right: np.ndarray, cells: np.ndarray) -> None:
    """Of each code the right hat's weight and the interval."""
    for row in range(len(codes)):
        cells[row] = intervals[codes[row]]
        right[row] = codes[row] - cells[row] * scale


def add_squares(
    right: np.ndarray, cells: np.ndarray, rows: int, sums: np.ndarray, knots: int, scale: int, out: np.ndarray
) -> None:
    """Adds to the first 2 K - 1 of out the products of each hat with itself, then of each with the next. sums: zeros,
    which they are again afterwards."""
    for row in range(rows):
        own = right[row]
        sums[np.uintp(cells[row])] += 1 + (own << 14) + ((own * own) << 42)
    for knot in range(knots - 1):
        count, own, square = sums[knot] & _FIELD, (sums[knot] >> 14) & _FIELD, (sums[knot] >> 42) & _PRODUCT
        sums[knot] = 0
        out[knot] += scale * scale * count - 2 * scale * own + square
        out[knots + knot] += scale * own - square
        out[knot + 1] += square


def add_pair(
    right: np.ndarray,
    cells: np.ndarray,
    one: int,
    other: int,
    rows: int,
    sums: np.ndarray,
    knots: int,
    scale: int,
    out: np.ndarray,
) -> None:
    """Adds to the first K K of out the products of the hats of two codes. sums: K + 1 zeros, then those of each pair of
    intervals at the place of its left hats' product; zeros again afterwards."""
    size, before = knots * knots, knots + 1
    mine, theirs, row_of, column_of = right[one], right[other], cells[one], cells[other]
    for row in range(rows):
        cell = before + row_of[row] * knots + column_of[row]
        sums[np.uintp(cell)] += (1 + (mine[row] << 14)) * (1 + (theirs[row] << 28))
    corners, aboves, lefts, heres = sums[:size], sums[1:], sums[knots:], sums[before:]
    for entry in range(size):
        corner, above, left, here = corners[entry], aboves[entry], lefts[entry], heres[entry]
        both = (corner >> 42 & _PRODUCT) - (above >> 42 & _PRODUCT) - (left >> 42 & _PRODUCT) + (here >> 42 & _PRODUCT)
        own, beside = (above >> 14 & _FIELD) - (here >> 14 & _FIELD), (left >> 28 & _FIELD) - (here >> 28 & _FIELD)
        out[entry] += scale * scale * (here & _FIELD) + scale * (own + beside) + both
    sums[:] = 0


_CALLS = (place, add_squares, add_pair)
