"""The axes of effects, made from the pilot, and what another draw of their images would change. Pure.

With one axis g_k for each key k (label, group, or one for all) the effect of channel c in a ranking r of n images is

    effect  =  sum over k of < g_k , V_rk >
    V_rk    =  sum over images i of r with key k of (a_i - abar) (y_i - ybar) / (n Var y)

It is linear in g_k, a mean over m_k images j: image j brings s_j = < g_j , V_rk >, and another draw of the images
changes the effect as it changes these means. By fold f of the images, the pseudo-value is F times the sum over j in f
of (s_j - mean s) / m_k, times sqrt(m_k / (m_k - 1)). abar is a mean over the pilot: where rows of a ranking have
several keys, its noise counts as well, through w_r = sum over k of g_k Cov(1[key is k], y) / Var y.

Three passes: over the pilot's maps (V), over gradients of the axes' images (g, s), over the maps again (the grid of l).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.statistics.effects.grid import unit_of

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

MIN_PILOT = 30  # rows of a group in the pilot from which its ranking has a noise of its own


@dataclass(frozen=True, eq=False)
class PilotTable:
    """The pilot's n rows as one target sees them.

    y: float64 (n,). keys: int64 (n,), number of the row's key, -1 for none. groups: int64 (n,), number of the row's
    group, -1 where rows are not ranked by groups. folds: int64 (n,). count, fold_count: how many keys and folds there
    are.
    """

    y: Floats
    keys: Integers
    groups: Integers
    folds: Integers
    count: int
    fold_count: int

    @cached_property
    def cells(self) -> tuple[Integers, Integers]:
        """Pairs (group, key) that occur, (cells, 2), and each row's pair, (n,), -1 without a key."""
        known = self.keys >= 0
        pairs, place = np.unique(np.stack([self.groups[known], self.keys[known]], 1), axis=0, return_inverse=True)
        cell = np.full(len(self.y), -1)
        cell[known] = place.ravel()
        return pairs, cell

    @cached_property
    def members(self) -> list[npt.NDArray[np.bool_]]:
        """Which rows with a key are in each ranking: all of them, then the groups that have enough, in order."""
        known = self.keys >= 0
        return [known, *(known & (self.groups == group) for group in self.ranked_groups)]

    @cached_property
    def ranked_groups(self) -> list[int]:
        """The groups that have a ranking in `members`: with or without a key, they have enough rows."""
        counts = np.bincount(self.groups[self.groups >= 0], minlength=1)
        return [int(group) for group in np.flatnonzero(counts >= MIN_PILOT)]


class AxisMaker:
    """Axes and their noise for the C channels of one layer and one target; maps are block sums of D positions."""

    def __init__(self, rows: PilotTable, channels: int, positions: int) -> None:
        self._rows = rows
        self._pairs, _ = rows.cells
        shape = (len(self._pairs), channels, positions)
        self._maps = torch.zeros(shape)  # by cell: sum of the maps,
        self._products = torch.zeros(shape)  # and of the maps times the target
        self._gradients = torch.zeros((rows.count, channels, positions), dtype=torch.float64)
        self._drawn = torch.zeros(rows.count, rows.fold_count, dtype=torch.float64)  # images behind each axis
        self._parts: dict[tuple[int, int], Tensor] = {}  # by ranking and key: sum of s_j by fold and channel
        self._largest = torch.zeros(channels)
        self._centring = torch.zeros(len(rows.members), channels, rows.fold_count, dtype=torch.float64)
        self._means: list[tuple[float, float, int]] = []  # mean and variance of y, rows, by ranking
        for member in rows.members:
            y = rows.y[member]
            self._means.append((float(y.mean()), float(y.var()), len(y)) if len(y) else (0.0, 0.0, 0))

    # -- first: the pilot's maps

    def add_maps(self, maps: Tensor, rows: slice) -> None:
        """Block sums float32 (n, C, D) of some of the pilot's rows."""
        _, cell = self._rows.cells
        place = torch.from_numpy(cell[rows])
        known = place >= 0
        values = maps.float().cpu()[known]
        y = torch.from_numpy(self._rows.y[rows] - self._means[0][0])[known].float()
        self._maps.index_add_(0, place[known], values)
        self._products.index_add_(0, place[known], values * y[:, None, None])

    @cached_property
    def mean_maps(self) -> Tensor:
        """abar, float32 (C, D)."""
        return self._maps.sum(0) / max(1, self._means[0][2])

    @cached_property
    def _weights(self) -> list[dict[int, Tensor]]:
        """V (C, D) by ranking and key."""
        pairs, _ = self._rows.cells
        found: list[dict[int, Tensor]] = []
        for ranking, group in enumerate([None, *self._rows.ranked_groups]):
            mean, variance, rows = self._means[ranking]
            of_keys: dict[int, Tensor] = {}
            for place, (own, key) in enumerate(pairs.tolist()):
                if group is None or own == group:
                    deviation = self._products[place] - (mean - self._means[0][0]) * self._maps[place]
                    deviation = deviation - self.mean_maps * float(self._deviations(ranking)[place])
                    scaled = deviation / (rows * variance) if variance > 0 else torch.zeros_like(deviation)
                    of_keys[key] = of_keys[key] + scaled if key in of_keys else scaled
            found.append(of_keys)
        return found

    def _deviations(self, ranking: int) -> Floats:
        """Sums over the cells (cells,) of y less its mean in a ranking."""
        _, cell = self._rows.cells
        known = cell >= 0
        y = self._rows.y[known] - self._means[ranking][0]
        return np.asarray(np.bincount(cell[known], weights=y, minlength=len(self._pairs)), np.float64)

    # -- second: gradients of the axes' images

    def add_gradients(self, gradients: Tensor, keys: Integers, folds: Integers) -> None:
        """Gradients (m, C, D), means over each block's positions, of images with these keys and folds."""
        for gradient, key, fold in zip(gradients.double().cpu(), keys.tolist(), folds.tolist(), strict=True):
            self._gradients[key] += gradient
            self._drawn[key, fold] += 1
            for ranking in self._rankings_of.get(key, ()):
                part = self._parts.setdefault((ranking, key), torch.zeros(self._centring.shape[1:]).double())
                part[:, fold] += (gradient * self._weights[ranking][key]).sum(1)

    @cached_property
    def _rankings_of(self) -> dict[int, list[int]]:
        """The rankings in which rows of a key are."""
        found: dict[int, list[int]] = {}
        for ranking, of_keys in enumerate(self._weights):
            for key in of_keys:
                found.setdefault(key, []).append(ranking)
        return found

    @cached_property
    def images(self) -> Integers:
        """Images behind each axis, (keys,)."""
        return self._drawn.sum(1).to(torch.int64).numpy()

    @cached_property
    def rows_of_keys(self) -> Integers:
        """Rows of the pilot with each key, (keys,)."""
        known = self._rows.keys[self._rows.keys >= 0]
        return np.bincount(known, minlength=self._rows.count)

    @cached_property
    def axes(self) -> Tensor:
        """Mean gradients, float32 (keys, C, D); 0 where a key has no image."""
        return (self._gradients / self._drawn.sum(1).clamp(min=1)[:, None, None]).float()

    @cached_property
    def offsets(self) -> Tensor:
        """< axis, mean map >, float32 (keys, C)."""
        return (self.axes * self.mean_maps).sum(2)

    def behind(self) -> list[int]:
        """Images behind the axes of each ranking's keys."""
        return [int(sum(self.images[key] for key in of_keys)) for of_keys in self._weights]

    # -- third: the pilot's maps again

    def add_projected(self, values: Tensor, maps: Tensor, rows: slice) -> None:
        """l, float32 (n, C), and block sums (n, C, D) of some of the pilot's rows."""
        known = torch.from_numpy(self._rows.keys[rows] >= 0)
        if not bool(known.any()):
            return
        self.add_values(values.cpu()[known])
        folds = torch.from_numpy(self._rows.folds[rows])[known]
        apart = maps.float().cpu()[known] - self.mean_maps
        for ranking, axis in enumerate(self._centring_axes):
            if axis is not None:
                self._centring[ranking].index_add_(1, folds, (apart * axis).sum(2).double().T)

    def add_values(self, values: Tensor) -> None:
        """l, float32 (n, C), of some images: what the grid must reach."""
        if len(values):
            self._largest = torch.maximum(self._largest, values.float().cpu().abs().amax(0))

    @cached_property
    def _centring_axes(self) -> list[Tensor | None]:
        """w (C, D) by ranking; None where all rows have one key, and the mean map makes no difference."""
        found: list[Tensor | None] = []
        for ranking, (group, of_keys) in enumerate(zip([None, *self._rows.ranked_groups], self._weights, strict=True)):
            _, variance, rows = self._means[ranking]
            deviations = self._deviations(ranking)
            if len(of_keys) < 2 or variance <= 0:
                found.append(None)
                continue
            axis = torch.zeros_like(self.mean_maps)
            for place, (own, key) in enumerate(self._pairs.tolist()):
                if group is None or own == group:
                    axis += self.axes[key] * float(deviations[place] / (rows * variance))
            found.append(axis)
        return found

    @property
    def units(self) -> Tensor:
        """Units of l's grid, float64 (C,)."""
        return unit_of(self._largest)

    def noise(self) -> Tensor:
        """Pseudo-values of the axes' noise and the mean maps', float32 (rankings, C, F)."""
        folds = self._rows.fold_count
        noise = -folds * self._centring / max(1, self._means[0][2])
        for (ranking, key), part in self._parts.items():
            drawn = self._drawn[key]
            images = float(drawn.sum())
            residual = part - drawn * part.sum(1, keepdim=True) / images
            noise[ranking] += folds / images * (images / max(1.0, images - 1)) ** 0.5 * residual
        return noise.float()
