"""Codes and hat functions: the integers in all sums of this package.

Pure maths on tensors: no I/O, no Ray, no knowledge of layers or images.

A value x between knots t_j and t_j+1 has the position u = j + (x - t_j) / (t_j+1 - t_j), clamped to [0, K-1].
Its code is the integer round(S u) with S = 255 // (K-1): one uint8. A code c = j S + r puts the integer weight S - r on
the hat function of knot j, and r on that of knot j+1. So the K weights of a code always sum to S, and a straight line
in x is in the span of the basis.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError

MIN_KNOTS = 3
MAX_KNOTS = 65
_TILE = 1 << 19  # values times intervals encoded at a time: the working set stays in the CPU's cache
_DEVICE_TILE = 1 << 25  # on other devices: few kernels
_RESOLUTION = 1e-6  # knots closer than this share of the range count as equal


def unit_scale(knots: int) -> int:
    """S, the total integer weight of one row on two neighbouring hats: 255 // (knots - 1)."""
    if not MIN_KNOTS <= knots <= MAX_KNOTS:
        raise StatisticsError(f"statistics.knots: {knots} is not between {MIN_KNOTS} and {MAX_KNOTS}")
    return 255 // (knots - 1)


def top_code(knots: int) -> int:
    """The largest code, which belongs to the last knot: (knots - 1) * S."""
    return (knots - 1) * unit_scale(knots)


@dataclass(frozen=True, eq=False)
class Intervals:
    """What codes of values (n, ...) are computed from: left ends and reciprocal widths (K-1, 1, ...) of the K-1
    intervals between strictly increasing knots (..., K)."""

    lower: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, knots: Tensor) -> Intervals:
        knots_first = knots.movedim(-1, 0).unsqueeze(1)
        widths = knots_first[1:] - knots_first[:-1]
        return cls(knots_first[:-1].contiguous(), (1.0 / widths).contiguous())

    def to(self, device: torch.device) -> Intervals:
        return Intervals(self.lower.to(device), self.inverse.to(device))

    def encode(self, values: Tensor) -> Tensor:
        """Codes uint8 (n, ...) of values (n, ...), of the knots' dtype.

        u is a sum over the K-1 intervals, each term clamped to [0, 1], so that no search and no branch depends on the
        value. Values outside the knots get the end codes. NaN is not allowed (rows with NaN are set aside before).
        """
        scale = unit_scale(len(self.lower) + 1)
        terms = values.numel() * len(self.lower)
        tile = _TILE if values.device.type == "cpu" else _DEVICE_TILE
        if terms <= tile:
            return self._positions(values, scale).to(torch.uint8)
        out = torch.empty(values.shape, dtype=torch.uint8, device=values.device)
        step = max(1, tile * values.shape[0] // terms)
        for start in range(0, values.shape[0], step):
            out[start : start + step] = self._positions(values[start : start + step], scale)
        return out

    def _positions(self, values: Tensor, scale: int) -> Tensor:
        total, *others = torch.sub(values, self.lower).mul_(self.inverse).clamp_(0.0, 1.0).unbind(0)
        for term in others:
            total.add_(term)
        return total.mul_(scale).round_()


def encode(values: Tensor, knots: Tensor) -> Tensor:
    """Codes of `values` (n, ...) on strictly increasing `knots` (..., K), for all rows: uint8 (n, ...)."""
    return Intervals.of(knots.to(values.dtype)).encode(values)


def choose_knots(values: Tensor, knots: int, tails: float = 0.0) -> Tensor:
    """Knots of each column of `values` (n, m): (m, knots), strictly increasing, same dtype.

    The knots are uniform quantiles, from the smallest to the largest value, or without a share `tails` of the values at
    each end, so that no hat rests on a few of them. Every knot is a value of the sample. Where values tie, an atom gets
    one knot, and the other knots halve the fullest intervals. With fewer distinct values than knots, all of these are
    knots, and the other knots lie beyond the maximum at the mean spacing.
    """
    unit_scale(knots)
    if values.shape[0] == 0:
        raise StatisticsError("the pilot has no rows; knots need at least one")
    ordered = sorted_rows(values.T.contiguous())
    last = values.shape[0] - 1
    picks = torch.linspace(tails * last, (1 - tails) * last, knots, dtype=torch.float64).round_().long()
    result = ordered[:, picks.to(values.device)].contiguous()
    resolution = _resolution(ordered)
    tied = ((result[:, 1:] - result[:, :-1]) <= resolution.unsqueeze(1)).any(dim=1)
    for column in tied.nonzero().flatten().tolist():
        column_knots = _knots_with_ties(
            ordered[column].double().cpu().numpy(), knots, float(resolution[column]), picks.numpy()
        )
        result[column] = torch.from_numpy(column_knots).to(result)
    return result


def sorted_rows(rows: Tensor) -> Tensor:
    """Each row (m, n) sorted. NumPy does it with vector instructions: in a fifteenth of torch's time, with AVX-512."""
    return torch.from_numpy(np.sort(rows.numpy(), axis=1)) if rows.is_cpu else torch.sort(rows, dim=1).values


def _resolution(ordered: Tensor) -> Tensor:
    """Smallest distance (m,) that two knots of a sorted row (m, n) must exceed."""
    low, high = ordered[:, 0], ordered[:, -1]
    rounding = 4 * torch.finfo(ordered.dtype).eps * torch.maximum(low.abs(), high.abs())
    return torch.maximum((high - low) * _RESOLUTION, rounding).clamp_(min=1e-30)


def _knots_with_ties(
    ordered: npt.NDArray[np.float64], knots: int, resolution: float, picks: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """`choose_knots` for one sorted column with ties."""
    distinct, level = _levels(ordered, resolution)
    if len(distinct) <= knots:
        return _pad(distinct, knots)
    counts = np.bincount(level, minlength=len(distinct))
    inner = np.concatenate([[0], np.cumsum(counts)])  # rows below each level
    chosen = sorted(set(level[picks].tolist()))
    while len(chosen) < knots:
        rows_between = [inner[b] - inner[a + 1] for a, b in pairwise(chosen)]
        fullest = int(np.argmax(rows_between))
        a, b = chosen[fullest], chosen[fullest + 1]
        middle = (inner[a + 1] + inner[b]) / 2
        split = int(np.clip(np.searchsorted(inner, middle, side="right") - 1, a + 1, b - 1))
        chosen.insert(fullest + 1, split)
    return np.asarray(distinct[chosen], dtype=np.float64)


def _levels(
    ordered: npt.NDArray[np.float64], resolution: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Distinct values of a sorted column (first of each run closer than `resolution`), and each row's level."""
    distinct = [ordered[0]]
    for value in np.unique(ordered)[1:]:
        if value - distinct[-1] > resolution:
            distinct.append(value)
    levels = np.asarray(distinct)
    return levels, np.searchsorted(levels, ordered, side="right") - 1


def _pad(distinct: npt.NDArray[np.float64], knots: int) -> npt.NDArray[np.float64]:
    largest = float(distinct[-1])
    spacing = (largest - float(distinct[0])) / (len(distinct) - 1) if len(distinct) > 1 else max(1.0, abs(largest))
    beyond = largest + spacing * np.arange(1, knots - len(distinct) + 1)
    return np.concatenate([distinct, beyond])
