"""New knots for rows that are kept as codes. Pure tensors: no I/O, no Ray.

A code is a position on its knot axis in steps of 1/S, some 249 levels at 9 knots. So new knots can be chosen from the
codes alone, at quantiles of the given rows. Every old code has exactly one new code: a table lookup. Values beyond the
ends of the old knots stay at these ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pcace_dist.statistics import basis
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes, LayerPlan, TargetPlan, robust_spread

LEVELS = 256
QUANTILES = 2048  # points of a histogram from which new knots are chosen
_ROWS = 4096  # looked up at a time: the index of a lookup takes eight bytes for each code


def positions(knots: Tensor) -> Tensor:
    """The value of each code on knots (..., K): (..., 256), same dtype; codes beyond the last one get its value."""
    count = knots.shape[-1]
    scale = basis.unit_scale(count)
    codes = torch.arange(LEVELS).clamp(max=basis.top_code(count))
    left = torch.div(codes, scale, rounding_mode="floor").clamp(max=count - 2)
    share = (codes - left * scale).to(knots.dtype) / scale
    return torch.lerp(knots[..., left], knots[..., left + 1], share)


def histograms(codes: Tensor) -> Tensor:
    """How often each code occurs in codes (n, ...): int64 (..., 256)."""
    shape = codes.shape[1:]
    flat = codes.reshape(codes.shape[0], -1)
    columns = flat.shape[1]
    counts = torch.zeros(columns * LEVELS, dtype=torch.int64)
    offsets = torch.arange(columns) * LEVELS
    for start in range(0, len(flat), _ROWS):
        entries = flat[start : start + _ROWS].long() + offsets
        counts += torch.bincount(entries.flatten(), minlength=columns * LEVELS)
    return counts.reshape(*shape, LEVELS)


def knots_of(counts: Tensor, old: Tensor, knots: int, tails: float = 0.0) -> tuple[Tensor, Tensor]:
    """New knots (..., knots) at uniform quantiles of rows with these code counts (..., 256) on `old` knots (..., K),
    and the rows' robust spread (...,). tails: see `basis.choose_knots`.

    The spread is the unit of the penalty. Where the rows cover only a small part of the old axis, the old spread would
    be too large for the new knots, and the penalty would not let a transform bend.
    """
    shape = counts.shape[:-1]
    flat, values = counts.reshape(-1, LEVELS), positions(old).reshape(-1, LEVELS)
    cumulated = flat.cumsum(1)
    rows = cumulated[:, -1:]
    points = min(QUANTILES, max(1, int(rows.max())))
    # the middles of equal parts, from the smallest value to the largest
    row_numbers = (torch.linspace(0, 1, points, dtype=torch.float64) * (rows - 1).clamp(min=0)).round_().long()
    codes_chosen = torch.searchsorted(cumulated, row_numbers + 1).clamp(max=LEVELS - 1)
    sample = values.gather(1, codes_chosen).T.contiguous()
    return basis.choose_knots(sample, knots, tails).reshape(*shape, knots), robust_spread(sample).reshape(shape)


@dataclass(frozen=True, eq=False)
class Recoding:
    """Tables from codes on old knots to codes on new ones: uint8 (256, ...) of columns (...,)."""

    table: Tensor

    @classmethod
    def between(cls, old: Tensor, new: Tensor) -> Recoding:
        """From knots (..., K) to knots (..., K')."""
        values = positions(old).movedim(-1, 0).contiguous()
        return cls(basis.encode(values, new))

    def __call__(self, codes: Tensor) -> Tensor:
        """New codes of codes (n, ...)."""
        table = self.table.reshape(LEVELS, -1)
        flat = codes.reshape(len(codes), -1)
        parts = [table.gather(0, flat[start : start + _ROWS].long()) for start in range(0, len(flat), _ROWS)]
        return torch.cat(parts).reshape(codes.shape) if parts else codes


def refit(
    layer: LayerPlan, targets: tuple[TargetPlan, ...], codes: LayerCodes, rows: RowCodes, knots: int, tails: float
) -> tuple[LayerPlan, tuple[TargetPlan, ...], LayerCodes, RowCodes]:
    """Plan and rows with `knots` new knots at quantiles of these rows, and with their spread; channels and targets."""
    layer_knots, layer_spread = knots_of(histograms(codes.codes), layer.knots, knots, tails)
    recoded = LayerCodes(Recoding.between(layer.knots, layer_knots)(codes.codes), codes.means)
    old_targets = torch.from_numpy(np.stack([target.knots for target in targets]))
    new_targets, target_spread = knots_of(histograms(rows.target_codes), old_targets, knots, tails)
    plans = tuple(
        replace(target, knots=new_knots.numpy(), spread=float(new_spread))
        for target, new_knots, new_spread in zip(targets, new_targets.unbind(0), target_spread, strict=True)
    )
    target_codes = Recoding.between(old_targets, new_targets)(rows.target_codes)
    return (
        replace(layer, knots=layer_knots, spread=layer_spread),
        plans,
        recoded,
        RowCodes(rows.folds, target_codes, rows.target_fixed),
    )
