"""Products of hat weights, added up row by row in compiled loops, on CPUs: the same integers as those of products.py.

Pure tensors: no I/O, no Ray. A code touches two hats, so a pair of codes has four products, where a product of matrices
has K^2: a row takes a fifth of the time with short folds, and half of the time of byte products with long ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, combinations
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
    """Rows in the order of their folds. x: (C, p, n), y: (T, 1, 1, n), codes; starts: (F + 1,), where folds begin."""

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
        x, components, size = self.x[channels], self.x.shape[1], self.knots**2
        first = components * (2 * self.knots - 1)
        within = [(a, b, first + number * size) for number, (a, b) in enumerate(combinations(range(components), 2))]
        machine_code(_add_squares)(x, *self._grid, xx[channels])
        self._add_pairs(x, x, within, xx[channels])
        for y, sums in zip(self.y, xy, strict=True):
            self._add_pairs(x, y, [(a, 0, a * size) for a in range(components)], sums[channels])

    def add_targets(self, yy: Integers) -> None:
        for y, sums in zip(self.y, yy, strict=True):
            self._add_pairs(y, y, [(0, 0, 0)], sums[None])

    def _add_pairs(
        self,
        x: npt.NDArray[np.uint8],
        y: npt.NDArray[np.uint8],
        places: list[tuple[int, int, int]],
        sums: npt.NDArray[np.integer],
    ) -> None:
        pairs = np.array(places, np.int64).reshape(-1, 3)
        machine_code(_add_pairs)(x, y, pairs, *self._grid, sums)


def _steps(codes: Tensor, target_codes: Tensor, folds: Tensor, knots: int, fold_count: int) -> Iterator[_Step]:
    rows, channels, components = codes.shape
    longest = max(_FEWEST_ROWS, _STEP_BYTES // max(1, channels * components))
    for first in range(0, rows, longest):
        part = slice(first, first + longest)
        order = torch.argsort(folds[part])
        x = codes[part].flatten(1).index_select(0, order).T.contiguous().reshape(channels, components, -1)
        y = target_codes[part].index_select(0, order).T.contiguous()[:, None, None]
        counts = torch.bincount(folds[part], minlength=fold_count).tolist()
        yield _Step(x.numpy(), y.numpy(), np.array([0, *accumulate(counts)], np.int64), knots)


def _add_squares(
    x: np.ndarray, starts: np.ndarray, intervals: np.ndarray, knots: int, scale: int, out: np.ndarray
) -> None:
    """Adds to the first p (2 K - 1) of out (C, F, ...), for each component of x (C, p, n) the products of each hat with
    itself, then of each with the next. intervals: that of each code."""
    for channel in range(x.shape[0]):
        for fold in range(len(starts) - 1):
            for component in range(x.shape[1]):
                sums = out[channel, fold, component * (2 * knots - 1) :]
                for row in range(starts[fold], starts[fold + 1]):
                    code = x[channel, component, row]
                    knot = np.int64(intervals[code])
                    right = np.int32(code) - np.int32(knot * scale)
                    left = np.int32(scale) - right
                    sums[knot] += left * left
                    sums[knots + knot] += left * right
                    sums[knot + 1] += right * right


def _add_pairs(
    x: np.ndarray,
    y: np.ndarray,
    pairs: np.ndarray,
    starts: np.ndarray,
    intervals: np.ndarray,
    knots: int,
    scale: int,
    out: np.ndarray,
) -> None:
    """Adds to out (C, F, ...) the products of the hats of components of x (C, p, n) and y (C or 1, q, n).

    pairs: (P, 3), a component of x, one of y, and where in out their K x K products begin."""
    for channel in range(x.shape[0]):
        other = min(channel, y.shape[0] - 1)
        for fold in range(len(starts) - 1):
            for pair in range(len(pairs)):
                mine = x[channel, pairs[pair, 0], starts[fold] : starts[fold + 1]]
                theirs = y[other, pairs[pair, 1], starts[fold] : starts[fold + 1]]
                sums = out[channel, fold, pairs[pair, 2] :]
                for row in range(len(mine)):
                    code, second = mine[row], theirs[row]
                    knot, column = np.int64(intervals[code]), np.int64(intervals[second])
                    right = np.int32(code) - np.int32(knot * scale)
                    upper = np.int32(second) - np.int32(column * scale)
                    left, lower = np.int32(scale) - right, np.int32(scale) - upper
                    place = knot * knots + column
                    sums[place] += left * lower
                    sums[place + 1] += left * upper
                    sums[place + knots] += right * lower
                    sums[place + knots + 1] += right * upper
