"""What goes into second moments: for each row the output, and what goes through the channels or what they tell.

`Effects` are the target's fixed-point value and l of each channel, as they were kept. `Transforms` are the target's hat
functions and s_c = sum over the components j of phi_cj(x_cj), on a grid. Integers int16, so that any order of the rows
gives the same sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.artifacts.attempt import BlockPart
from pcace_dist.commands.select.rows import KeptRows
from pcace_dist.statistics.effects.grid import GRID, MISSING
from pcace_dist.statistics.effects.plan import EffectPlan
from pcace_dist.statistics.products import hats
from pcace_dist.statistics.recode import positions
from pcace_dist.statistics.sets.moments import Moments

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

_ROWS = 4096  # looked up at a time: the index of a lookup takes eight bytes for each code


class Series(Protocol):
    """The variables of one target, group and layer: the output's first, then those of `channels`."""

    @property
    def channels(self) -> Integers:
        """Their numbers in the layer."""

    @property
    def first(self) -> int:
        """How many variables the output has."""

    @property
    def units(self) -> Floats:
        """Of the variables' grids."""

    def values(self, part: BlockPart) -> tuple[Tensor, Tensor]:
        """Variables int16 (n, V) and folds (n,) of the rows that have them."""


@dataclass(frozen=True, eq=False)
class Effects:
    """y and l of some channels of a layer for one target, by its number among the run's targets with effects."""

    rows: KeptRows
    layer: str
    number: int
    channels: Integers
    first: int = 1

    @property
    def _plan(self) -> EffectPlan:
        assert self.rows.plan.effects is not None
        return self.rows.plan.effects

    @property
    def units(self) -> Floats:
        """In the target's unit."""
        of_l = self._plan.layer(self.layer).units[self.number].numpy()[self.channels]
        return np.append(1.0, of_l / self._plan.targets[self.number].unit)

    @cached_property
    def _kept_number(self) -> int:
        kept = self.rows.kept_codes.plan.effects
        assert kept is not None
        return kept.numbers_of(self._plan)[self.number]

    def values(self, part: BlockPart) -> tuple[Tensor, Tensor]:
        assert part.codes is not None and part.rows.effect_fixed is not None
        y = part.rows.effect_fixed[:, self.number]
        known = y != MISSING
        through = part.codes.effects_of(slice(None), slice(None))[known][:, self.channels, self._kept_number]
        return torch.cat([y[known, None], through], 1), part.rows.folds[known]


@dataclass(frozen=True, eq=False)
class Transforms:
    """Hat functions of a target, by its number among the run's, and s of some channels of a layer.

    tables: int16 (c, p, 256), the part of s_c that a code of component j has.
    """

    knots: int
    number: int
    channels: Integers
    tables: Tensor

    @classmethod
    def of(cls, rows: KeptRows, layer: str, target: int, transforms: Sequence[dict[str, Any]]) -> Transforms:
        """From a layer's rows of transforms.parquet."""
        channels = np.array([row["channel"] for row in transforms], np.int64)
        values = positions(rows.kept_codes.plan.layer(layer).knots.double())[channels, : rows.plan.components].numpy()
        tables = [_table(row, codes) for row, codes in zip(transforms, values, strict=True)]
        return cls(rows.plan.knots, target, channels, torch.from_numpy(np.stack(tables)))

    @property
    def first(self) -> int:
        return self.knots

    @property
    def units(self) -> Floats:
        return np.ones(self.knots + len(self.channels))

    def values(self, part: BlockPart) -> tuple[Tensor, Tensor]:
        assert part.codes is not None
        output = hats(part.rows.target_codes[:, self.number], self.knots).T.to(torch.int16)
        codes = part.codes.codes[:, self.channels, : self.tables.shape[1]]
        told = torch.cat([self._told(some) for some in torch.split(codes, _ROWS)])
        return torch.cat([output, told], 1), part.rows.folds

    def _told(self, codes: Tensor) -> Tensor:
        """s (n, c) of codes (n, c, p)."""
        parts = self.tables.gather(2, codes.permute(1, 2, 0).long())
        return parts.sum(1, dtype=torch.int16).T


def _table(row: dict[str, Any], values: Floats) -> npt.NDArray[np.int16]:
    """phi_j at the values (p, 256) of all codes, about its middle, on a grid that holds their sum: int16 (p, 256)."""
    count = len(values)
    knots, phi = (np.array(row[name], np.float64).reshape(count, -1) for name in ("knots", "phi"))
    curves = np.stack([np.interp(*each) for each in zip(values, knots, phi, strict=True)])
    curves -= (curves.max(1, keepdims=True) + curves.min(1, keepdims=True)) / 2
    reach = curves.max(1).sum()
    return np.asarray(np.rint(curves * (GRID / reach if reach > 0 else 0)), np.int16)


def moments_bytes(series: Series, folds: int) -> int:
    """Bytes of the sums of a series."""
    return Moments.nbytes_of(len(series.units), folds)
