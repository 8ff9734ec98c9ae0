"""Principal axes of every channel of a layer, from passes over the pilot.

Pure: maps come in as tensors, batch by batch; activations are not stored. No I/O, no Ray.

Pixels are centred and scaled ("pixel": sqrt(sd^2 + mean over the map of sd^2), "standard": sd, "none": 1).
Where the D x D covariance matrices of a layer's channels are small, they are summed in one pass, and the axes are
exact. There, where the pilot has few rows and each has more pixels, the rows' n x n products give the same axes. Else
the axes come from streaming subspace iteration: a block of p + 5 vectors, one application of the covariance in each
pass, Rayleigh-Ritz at the end (Halko, Martinsson & Tropp 2011; Stewart 1969). Passes are repeated until no
p-dimensional subspace moves by a degree; there are at least 12, unless all move by less than a quarter of a degree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError

SCALES = ("pixel", "standard", "none")
MAX_COMPONENTS = 20
OVERSAMPLING = 5
MIN_ITERATIONS = 12
MAX_ITERATIONS = 40
TOLERANCE = 1.0  # degrees
COVARIANCE_BYTES = 256 << 20  # limit of a layer's covariance matrices; those of all layers may take four times this
_DIRECT_PIXELS = 256  # up to here a full eigen-decomposition is cheaper than iterating: at 14 x 14 by more than half
_DIRECT_ROWS = 256  # the same of the rows
_COPY_BYTES = 32 << 20
_NOISE = 1e-6  # relative size of rounding noise: pixels that vary less are constant

Axes: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


class AxesFinder(Protocol):
    """Finds the principal axes of one layer's channels over repeated passes."""

    @property
    def done(self) -> bool: ...

    def update(self, maps: Tensor) -> None:
        """Takes a batch of maps (B, C, D) of the pass in progress."""

    def end_pass(self) -> None:
        """Closes a pass."""

    def spectrum(self) -> Spectrum:
        """What was found, when it is done."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The leading directions of the scaled pixels: more of them than there are components.

    values: float64 (C, w), variances; vectors: float32 (C, D, w), orthonormal. total: float64 (C,), variance in all.
    mean, scale: float64 (C, D), of the pixels.
    """

    values: Tensor
    vectors: Tensor
    total: Tensor
    mean: Tensor
    scale: Tensor

    def axes(self, first: int, count: int) -> Axes:
        """The axes from number `first` on: weights float32 (C, D, count), offsets float32 (C, count), live bool
        (C, count), explained float32 (C, count); zeros where there are no more."""
        chosen = slice(first, first + count)
        return finish_axes(self.values[:, chosen], self.vectors[:, :, chosen], self.total, self.mean, self.scale, count)


class Moments:
    """Means and variances of every pixel, float64, from one pass. Sums are of deviations from a first guess of the
    mean."""

    def __init__(self) -> None:
        self.rows = 0
        self._shift: Tensor | None = None
        self._sum = self._square = torch.empty(0)

    def shifted(self, maps: Tensor) -> Tensor:
        """Maps (B, C, D) minus the guess, float32, a copy; also adds it to the sums."""
        if self._shift is None:
            self._shift = maps.float().mean(dim=0)
            self._sum = torch.zeros_like(self._shift, dtype=torch.float64)
            self._square = torch.zeros_like(self._sum)
        centred = maps.float() - self._shift
        self._sum += centred.sum(dim=0)
        self._square += centred.square().sum(dim=0)
        self.rows += int(maps.shape[0])
        return centred

    @property
    def excess(self) -> Tensor:
        """Mean minus the guess, float64 (C, D)."""
        return self._sum / self.rows

    def mean(self) -> Tensor:
        """float64 (C, D)."""
        if self._shift is None:
            raise StatisticsError("the pilot has no rows; the principal axes need at least one")
        return self._shift.double() + self.excess

    def variance(self) -> Tensor:
        """float64 (C, D); exactly 0 where a pixel varies by no more than rounding noise, or its square overflows."""
        variance = (self._square / self.rows - self.excess.square()).clamp_(min=0)
        noise = (_NOISE * self.mean()).square()
        sound = (variance > noise) & torch.isfinite(self._square)
        return torch.where(sound, variance, torch.zeros_like(variance))


def pixel_scale(variance: Tensor, scale: str) -> Tensor:
    """The divisor of each pixel, from the pixels' variances (C, D); never 0."""
    if scale == "pixel":
        result = (variance + variance.mean(dim=1, keepdim=True)).sqrt()
    elif scale == "standard":
        result = variance.sqrt()
    elif scale == "none":
        return torch.ones_like(variance)
    else:
        raise StatisticsError(f"statistics.scale: {scale!r} is none of {', '.join(SCALES)}")
    return torch.where(result > 0, result, torch.ones_like(result))


class CovarianceAxes:
    """Exact axes in one pass: from the channels' D x D covariance matrices; of few rows with many pixels from the rows
    themselves, which take less memory then, and no iteration."""

    def __init__(self, channels: int, pixels: int, components: int, scale: str) -> None:
        self.done = False
        self._components = components
        self._scale = scale
        self._moments = Moments()
        self._shape = (channels, pixels, pixels)
        self._sum: Tensor | None = None
        self._rows: list[Tensor] = []  # that are not in the sum: those seen last, or all of few
        self._most_rows = 0 if _is_direct(pixels, components) else _DIRECT_ROWS

    def update(self, maps: Tensor) -> None:
        for part in _row_tiles(maps):
            self._rows.append(self._moments.shifted(part))
            if self._moments.rows > self._most_rows:
                self._add_up()

    def _add_up(self) -> None:
        for rows in self._rows:
            if self._sum is None:
                self._sum = torch.zeros(self._shape, device=rows.device)
            centred = rows.transpose(0, 1)
            self._sum.baddbmm_(centred.transpose(1, 2), centred)
        self._rows.clear()

    def end_pass(self) -> None:
        self.done = True

    def spectrum(self) -> Spectrum:
        variance = self._moments.variance()
        scale = pixel_scale(variance, self._scale)
        factor = ((variance > 0) / scale).float()
        width = min(self._components, self._shape[1])
        find = self._from_rows if self._sum is None else self._from_covariance
        values, vectors = find(factor, variance == 0, width)
        return Spectrum(values, vectors, (variance / scale.square()).sum(dim=1), self._moments.mean(), scale)

    def _from_rows(self, factor: Tensor, constant: Tensor, width: int) -> tuple[Tensor, Tensor]:
        centred = (torch.cat(self._rows) - self._moments.excess.float()) * factor
        return _leading_of_rows(centred.masked_fill_(constant, 0.0).transpose(0, 1), width)

    def _from_covariance(self, factor: Tensor, constant: Tensor, width: int) -> tuple[Tensor, Tensor]:
        assert self._sum is not None
        covariance = self._sum / self._moments.rows
        excess = self._moments.excess.float()
        covariance -= excess.unsqueeze(2) * excess.unsqueeze(1)
        covariance *= factor.unsqueeze(2) * factor.unsqueeze(1)
        covariance.masked_fill_(constant.unsqueeze(2) | constant.unsqueeze(1), 0.0)  # or a square overflowed
        return _leading(covariance, width)


class SubspaceIteration:
    """Axes by repeated passes: the first sums the moments, each later one applies the covariance to a block.

    The state is (C, D, p+5) for any number of rows. The start is seeded, and signs are deterministic.
    """

    def __init__(self, channels: int, pixels: int, components: int, scale: str) -> None:
        self.done = False
        self._components = components
        self._scale_name = scale
        self._moments = Moments()
        self._iterations = 0
        width = min(pixels, components + OVERSAMPLING)
        start = torch.randn((1, pixels, width), generator=torch.Generator().manual_seed(0))
        self._block = torch.linalg.qr(start).Q.expand(channels, -1, -1)
        self._axes = self._block[:, :, :components]
        self._next_axes = self._block[:, :, components:]
        self._values = torch.zeros((channels, width), dtype=torch.float64)
        self._mean = self._scale = self._columns = self._offsets = self._image = self._sums = torch.empty(0)

    def update(self, maps: Tensor) -> None:
        if self._scale.numel() == 0:
            for part in _row_tiles(maps):
                self._moments.shifted(part)
            return
        by_channel = maps.float().transpose(0, 1)
        scores = torch.bmm(by_channel, self._columns) - self._offsets
        self._image.baddbmm_(by_channel.transpose(1, 2), scores)
        self._sums += scores.sum(dim=1, keepdim=True)

    def end_pass(self) -> None:
        if self._scale.numel() == 0:
            self._mean = self._moments.mean()
            self._scale = pixel_scale(self._moments.variance(), self._scale_name)
            self._block = self._block.to(self._mean.device).contiguous()
        else:
            self._iterate()
        self._begin()

    def _begin(self) -> None:
        moving = (self._moments.variance() > 0) / self._scale
        self._columns = self._block * moving.float().unsqueeze(2)
        self._offsets = torch.bmm(self._mean.float().unsqueeze(1), self._columns)
        self._image = torch.zeros_like(self._block)
        self._sums = torch.zeros_like(self._offsets)

    def _iterate(self) -> None:
        """After one application of the covariance: Rayleigh-Ritz, the angle to the last subspace, the next block."""
        moving = ((self._moments.variance() > 0) / self._scale).float().unsqueeze(2)
        image = (self._image - self._mean.float().unsqueeze(2) * self._sums) * moving / self._moments.rows
        inner = torch.bmm(self._block.transpose(1, 2), image).double()
        values, rotation = torch.linalg.eigh((inner + inner.transpose(1, 2)) / 2)
        rotation = rotation.flip(2).float()
        self._values = values.flip(1).clamp(min=0)
        axes = torch.bmm(self._block, rotation[:, :, : self._components])
        angle = largest_angle(self._axes, axes, self._values > _NOISE * self._values[:, :1])
        self._axes = axes
        self._iterations += 1
        steady = angle < TOLERANCE and self._iterations > 1
        self.done = (steady and self._iterations >= MIN_ITERATIONS) or self._iterations >= MAX_ITERATIONS
        self.done = self.done or angle < TOLERANCE / 4
        if self.done:
            self._next_axes = torch.bmm(self._block, rotation[:, :, self._components :])
        self._block = torch.linalg.qr(torch.bmm(image, rotation)).Q

    def spectrum(self) -> Spectrum:
        vectors = torch.cat([self._axes, self._next_axes], dim=2)
        total = (self._moments.variance() / self._scale.square()).sum(dim=1)
        return Spectrum(self._values, vectors, total, self._mean, self._scale)


def largest_angle(old: Tensor, new: Tensor, live: Tensor) -> float:
    """Largest principal angle (degrees) between orthonormal bases (C, D, p), over channels.

    live: bool (C, >= p); directions without variance may turn freely and do not count.
    """
    cosines = torch.bmm(old.transpose(1, 2), new).double()
    # the part of each live new axis that lies outside the old subspace
    outside = (1 - cosines.square().sum(dim=1)).clamp(min=0)
    outside = torch.where(live[:, : new.shape[2]], outside, torch.zeros_like(outside))
    return math.degrees(math.asin(min(1.0, float(outside.sum(dim=1).amax()) ** 0.5)))


def finish_axes(values: Tensor, vectors: Tensor, total: Tensor, mean: Tensor, scale: Tensor, components: int) -> Axes:
    """Weights, offsets, live and explained from eigenvalues (C, w) and axes (C, D, w) of the scaled pixels.

    Signs: the entry of largest absolute value is positive. Components without variance have zero weights.
    """
    channels, pixels, width = vectors.shape
    share = values.double() / torch.where(total > 0, total, torch.ones_like(total)).unsqueeze(1)
    live = (share > _NOISE) & (total > 0).unsqueeze(1)
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)
    columns = vectors.double() * signs / scale.unsqueeze(2) * live.unsqueeze(1)
    weights = torch.zeros((channels, pixels, components), dtype=torch.float32, device=vectors.device)
    weights[:, :, :width] = columns.float()
    offsets = (mean.unsqueeze(1) @ weights.double()).squeeze(1).float()
    padded_live = torch.zeros((channels, components), dtype=torch.bool, device=vectors.device)
    padded_live[:, :width] = live
    explained = torch.zeros((channels, components), dtype=torch.float32, device=vectors.device)
    explained[:, :width] = torch.where(live, share, torch.zeros_like(share)).float()
    return weights, offsets, padded_live, explained


def _leading(covariance: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues and eigenvectors (C, D, ...) of symmetric matrices (C, D, D): `width` of them, and up to
    OVERSAMPLING more, which need not have settled."""
    pixels = covariance.shape[1]
    if _is_direct(pixels, width):
        values, vectors = torch.linalg.eigh(covariance.double())
        more = width + OVERSAMPLING
        return values.flip(1)[:, :more].clamp(min=0), vectors.flip(2)[:, :, :more].float()
    start = torch.randn((1, pixels, width + OVERSAMPLING), generator=torch.Generator().manual_seed(0))
    block = torch.linalg.qr(start).Q.to(covariance.device).expand(covariance.shape[0], -1, -1)
    axes = block[:, :, :width]
    for _ in range(20):
        for _ in range(10):
            block = torch.linalg.qr(torch.bmm(covariance, block)).Q
        inner = torch.bmm(block.transpose(1, 2), torch.bmm(covariance, block)).double()
        values, rotation = torch.linalg.eigh((inner + inner.transpose(1, 2)) / 2)
        values = values.flip(1).clamp(min=0)
        block = torch.bmm(block, rotation.flip(2).float())
        angle = largest_angle(axes, block[:, :, :width], values > _NOISE * values[:, :1])
        axes = block[:, :, :width]
        if angle < TOLERANCE / 20:
            break
    return values, block


def _leading_of_rows(rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The same of the covariance matrices of rows (C, n, D) with mean 0, from their n x n products: if X X' u = n v u,
    X' u is an eigenvector of X' X / n with the same value v."""
    products = torch.bmm(rows, rows.transpose(1, 2)).double() / rows.shape[1]
    values, weights = torch.linalg.eigh(products)
    chosen = weights.flip(2)[:, :, : width + OVERSAMPLING].float()
    vectors = torch.linalg.qr(torch.bmm(rows.transpose(1, 2), chosen)).Q
    return values.flip(1)[:, : chosen.shape[2]].clamp(min=0), vectors


def _is_direct(pixels: int, width: int) -> bool:
    """Whether covariance matrices of so many pixels are decomposed in full."""
    return pixels <= max(_DIRECT_PIXELS, 4 * width)


def _row_tiles(maps: Tensor) -> tuple[Tensor, ...]:
    rows = max(1, _COPY_BYTES // max(1, 4 * maps[0].numel())) if maps.shape[0] else 1
    return torch.split(maps, rows)


def usual_passes(pixels: int) -> int:
    """Passes over the pilot that the axes of maps with so many pixels usually take, for a progress."""
    return 1 if pixels <= _DIRECT_PIXELS else 1 + MIN_ITERATIONS


def choose_finders(batch: Mapping[str, Tensor], components: int, scale: str) -> dict[str, AxesFinder]:
    """A finder for each layer: covariance matrices (one pass) where they are small, smallest first; else iteration."""
    finders: dict[str, AxesFinder] = {}
    available = 4 * COVARIANCE_BYTES
    for name in sorted(batch, key=lambda name: (batch[name].shape[1] * batch[name].shape[2] ** 2, name)):
        _, channels, pixels = batch[name].shape
        size = 4 * channels * pixels * pixels
        if size <= min(available, COVARIANCE_BYTES):
            finders[name] = CovarianceAxes(channels, pixels, components, scale)
            available -= size
        else:
            finders[name] = SubspaceIteration(channels, pixels, components, scale)
    return finders
