"""Fixed-point values: real numbers as int16 on a grid that the plan freezes, so that their sums are exact."""

from __future__ import annotations

import torch
from torch import Tensor

GRID = 16384  # fixed-point values lie in [-GRID, GRID]
MISSING = -32768  # in place of a fixed-point value: there is none
NO_UNIT = float("inf")  # of a grid on which every value is 0: there is no gradient to compute any
REACH = 4  # the grid of a sample holds so many times its largest deviation


def fixed_point(values: Tensor, centre: Tensor, unit: Tensor) -> Tensor:
    """Values on a grid, int16: round((value - centre) / unit), clamped to +-GRID; computed in float64."""
    return ((values.double() - centre) / unit).round_().clamp_(-GRID, GRID).to(torch.int16)


def grid_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and unit, float64 (m,), of the grid for values (n, m): four times the pilot's largest deviation fits."""
    exact = values.double()
    centre = exact.mean(dim=0)
    return centre, unit_of((exact - centre).abs().amax(dim=0))


def unit_of(largest: Tensor) -> Tensor:
    """Unit of the grid for a sample whose largest deviations from its centre are these; 1 / GRID where it has none."""
    reach = REACH * largest.double()
    return torch.where(reach > 0, reach, torch.ones_like(reach)) / GRID
