"""Scores of channels from a Gram: jackknifed r^2, interval, first component, Pearson, status.

Pure: no I/O, no Ray. The estimand is the maximal correlation over piecewise-linear transforms of the frozen
plan; the interval is given the plan.

Jackknife on r^2, leaving out a fold at a time. Folds differ in size (a fold is a hash), so the estimate weighs them
as Busing, Meijer & van der Leeden (1999) do: e = F r^2 - sum over folds of (1 - m_f / n) r^2_f, m_f rows in fold f
and r^2_f without it. That removes a bias of order 1/n whatever the sizes. The error is the plain one, se^2 =
(F-1)/F sum (r^2_f - mean)^2, t with F - 1 degrees of freedom: for equal folds both are the same, for unequal ones
theirs covered up to ten points less in simulations, and the plain estimate was biased downwards. The penalty of every
replicate is that of all rows, penalty / n: else the bias law breaks.

Between channels that are all but independent of the target the plain error misses the noise of the bias correction:
one of twelve differed significantly from another in 20 % of the samples. The pseudo-values, from which ranks are
compared, hold it: the variance of their mean is se^2 + (BIAS_ERROR (r^2 - e))^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import basis, solve
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import LayerPlan, TargetPlan
from pcace_dist.statistics.products import unpack_index

Floats: TypeAlias = npt.NDArray[np.float64]

OK = "ok"
CONSTANT = "constant"
TOO_FEW_IMAGES = "too_few_images"
LEVEL = 0.95
MIN_IMAGES = 50
MIN_FOLDS = 4
BIAS_ERROR = 0.25  # standard error of the bias correction relative to it: 0.2 to 0.35 at independence
_BATCH_BYTES = 4 << 20  # of x-x matrices solved at a time
_SHARED_BYTES = 128 << 20  # of x-x matrices and factors that are kept from one target to the next


@dataclass(frozen=True, eq=False)
class ChannelScores:
    """Scores of C channels for one target: arrays (C,), named as the columns of rankings.parquet.

    Finite wherever status is "ok"; NaN elsewhere, except images. pseudo: (C, F), jackknife pseudo-values of r^2: their
    mean is score_squared (see the module for the standard error of that mean); NaN for empty folds. phi float32
    (C, p, K) and theta float32 (C, K): the transforms on the knots (see `transforms`).
    """

    images: npt.NDArray[np.int64]
    score: Floats
    score_squared: Floats
    score_low: Floats
    score_high: Floats
    score_in_sample: Floats
    score_first_component: Floats
    pearson: Floats
    mean_activation: Floats
    activation_variance: Floats
    clamped: Floats
    status: npt.NDArray[np.str_]
    pseudo: Floats
    phi: npt.NDArray[np.float32]
    theta: npt.NDArray[np.float32]

    def without_transforms(self) -> ChannelScores:
        """The same without phi and theta (both with no entries per channel), which take more room than the rest."""
        none = np.empty((len(self.status), 0), np.float32)
        return replace(self, phi=none, theta=none)

    @staticmethod
    def cat(parts: Sequence[ChannelScores]) -> ChannelScores:
        """Channels of several blocks, one after the other."""
        names = [entry.name for entry in fields(ChannelScores)]
        return ChannelScores(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, eq=False)
class Jackknife:
    """Bias-corrected estimate (C,), standard error (C,), pseudo-values (C, F) about it, F - 1 for the t quantile."""

    estimate: Floats
    error: Floats
    pseudo: Floats
    freedom: int

    def interval(self, level: float = LEVEL) -> tuple[Floats, Floats]:
        """Ends of the two-sided interval at `level`."""
        reach = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.error
        return self.estimate - reach, self.estimate + reach


def jackknife(full: Floats, without: Floats, rows: npt.NDArray[np.int64]) -> Jackknife:
    """Delete-a-fold jackknife. full: (C,); without: (C, F) estimates without each fold; rows: (F,), none empty.

    The pseudo-values' residuals are stretched so that they hold the noise of the bias correction too.
    """
    folds = len(rows)
    weights = 1 - rows / rows.sum()
    estimate = folds * full - (weights * without).sum(axis=1)
    residual = (folds - 1) * (without.mean(axis=1, keepdims=True) - without)
    error = np.sqrt(np.square(residual).sum(axis=1) / (folds * (folds - 1)))
    noise = np.square(BIAS_ERROR * (full - estimate))
    stretch = np.sqrt(1 + noise / np.where(error > 0, np.square(error), np.inf))
    residual = residual * stretch[:, None]
    return Jackknife(estimate, error, estimate[:, None] + residual, folds - 1)


def required_images(live: int, knots: int) -> int:
    """Rows below which a channel with `live` components gets no score: twice the free coefficients, at least 50."""
    return max(MIN_IMAGES, 2 * (live + 1) * (knots - 1))


def score_channels(
    gram: Gram,
    layer: LayerPlan,
    target_plans: Sequence[TargetPlan],
    *,
    penalty: float,
    min_images: int | None = None,
) -> list[ChannelScores]:
    """Scores of a Gram's channels, one ChannelScores per target.

    layer: the plan of the same channels (`LayerPlan.block` of a larger one). min_images: instead of
    `required_images`. A channel's result has the same bits whatever other channels are in the Gram.
    """
    if (layer.channels, layer.components) != (gram.channels, gram.components):
        raise StatisticsError(
            f"layer {layer.name}: plan of {layer.channels} channels x {layer.components} components, Gram of"
            f" {gram.channels} x {gram.components}"
        )
    if len(target_plans) != gram.targets:
        raise StatisticsError(f"{len(target_plans)} target plans for a Gram of {gram.targets} targets")
    held = gram if gram.device.type == "cpu" else gram.to("cpu")
    sides = _Sides(held, layer, penalty, share=len(target_plans) > 1)
    return [_score_target(sides, plan, index, min_images) for index, plan in enumerate(target_plans)]


def _score_target(sides: _Sides, target: TargetPlan, index: int, min_images: int | None) -> ChannelScores:
    gram, layer = sides.gram, sides.layer
    rows = gram.rows.numpy()
    used = np.flatnonzero(rows)
    status = _status(gram, layer, index, min_images)
    ok = status == OK
    result = {
        name: np.full(gram.channels, np.nan)
        for name in ("squared", "low", "high", "in_sample", "first", "pearson", "mean", "variance", "clamped")
    }
    pseudo = np.full((gram.channels, gram.folds), np.nan)
    phi = np.full((gram.channels, gram.components, gram.knots), np.nan, np.float32)
    theta = np.full((gram.channels, gram.knots), np.nan, np.float32)
    if ok.any():
        with solve.one_thread():
            solved = _replicates(sides, target, index, np.flatnonzero(ok))
        squared, first = solved.squared, solved.first
        phi[ok], theta[ok] = solved.phi, solved.theta
        found = jackknife(squared[:, 0], squared[:, 1:], rows[used])
        low, high = found.interval()
        result["squared"][ok] = found.estimate
        result["low"][ok], result["high"][ok] = _root(low), _root(high)
        result["in_sample"][ok], result["first"][ok] = np.sqrt(squared[:, 0]), np.sqrt(first)
        pseudo[np.ix_(ok, used)] = found.pseudo
        result["pearson"][ok] = _pearson(gram, index)[ok]
        result["mean"][ok] = _mean_activation(gram, layer)[ok]
        result["variance"][ok] = _activation_variance(gram, layer)[ok]
        result["clamped"][ok] = _clamped(gram, layer)[ok]
    return ChannelScores(
        images=np.full(gram.channels, gram.images, dtype=np.int64),
        score=_root(result["squared"]),
        score_squared=result["squared"],
        score_low=result["low"],
        score_high=result["high"],
        score_in_sample=result["in_sample"],
        score_first_component=result["first"],
        pearson=result["pearson"],
        mean_activation=result["mean"],
        activation_variance=result["variance"],
        clamped=result["clamped"],
        status=status,
        pseudo=pseudo,
        phi=phi,
        theta=theta,
    )


def _root(squared: Floats) -> Floats:
    return np.sqrt(np.clip(squared, 0.0, 1.0))


def _status(gram: Gram, layer: LayerPlan, target: int, min_images: int | None) -> npt.NDArray[np.str_]:
    """ok, constant (in the pilot or in these rows; or the target is) or too_few_images, for every channel."""
    live = layer.live.cpu().numpy().sum(axis=1)
    needed = np.array([required_images(int(count), gram.knots) for count in live])
    if min_images is not None:
        needed = np.maximum(1, np.full_like(needed, min_images))
    few = (gram.images < needed) | (int((gram.rows > 0).sum()) < MIN_FOLDS)
    still = ~_channels_move(gram) | (not _target_moves(gram, target))
    status = np.where(live == 0, CONSTANT, np.where(few, TOO_FEW_IMAGES, np.where(still, CONSTANT, OK)))
    return status.astype(np.str_)


def _channels_move(gram: Gram) -> npt.NDArray[np.bool_]:
    """Whether any component has more than one code: a hat's n sum z^2 exceeds its (sum z)^2. Exact for one code."""
    width = 2 * gram.knots - 1
    total = gram.xx[:, :, : gram.components * width].sum(dim=1, dtype=torch.int64)
    blocks = total.reshape(gram.channels, gram.components, width)
    diagonal, sums = blocks[..., : gram.knots], _hat_sums(blocks, gram.knots)
    # all rows in one code w | S-w: then diagonal * n == sums^2 for every hat
    spread = diagonal.double() * gram.images - sums.double().square()
    moving = spread > solve.NOISE * diagonal.double() * gram.images
    return np.asarray(moving.any(dim=2).any(dim=1).numpy(), dtype=np.bool_)


def _target_moves(gram: Gram, target: int) -> bool:
    matrix = gram.yy[target].sum(dim=0).reshape(gram.knots, gram.knots).double()
    sums = matrix.sum(dim=1) / basis.unit_scale(gram.knots)
    diagonal = matrix.diagonal() * gram.images
    return bool((diagonal - sums.square() > solve.NOISE * diagonal).any())


def _hat_sums(blocks: Tensor, knots: int) -> Tensor:
    """Sums of hats (..., K) from packed diagonal blocks (..., 2K-1): all hats of a row sum to S. Exact integers."""
    sums = blocks[..., :knots].clone()
    sums[..., :-1] += blocks[..., knots:]
    sums[..., 1:] += blocks[..., knots:]
    return torch.div(sums, basis.unit_scale(knots), rounding_mode="floor")


def transforms(
    gram: Gram, layer: LayerPlan, target: TargetPlan, *, index: int = 0, penalty: float
) -> tuple[Floats, Floats]:
    """The transforms behind score_in_sample on the knots, phi (C, p, K) and theta (C, K); index: the target's number.

    The correlation of theta(y) with the sum of the phi is positive; scales are arbitrary. They are straight between
    knots and constant beyond the ends.
    """
    with solve.one_thread():
        parts = list(_solutions(_Sides(gram, layer, penalty), target, index, np.arange(gram.channels)))
    phi, theta = torch.cat([one.x[:, 0] for one in parts]), torch.cat([one.y[:, 0] for one in parts])
    return phi.numpy(), theta.numpy()


@dataclass(frozen=True, eq=False)
class _Replicates:
    """r^2 of all rows and without each non-empty fold (C, 1+F); of all rows the first component's r^2, phi, theta."""

    squared: Floats
    first: Floats
    phi: Floats
    theta: Floats


def _replicates(sides: _Sides, target: TargetPlan, index: int, channels: npt.NDArray[np.int64]) -> _Replicates:
    parts = list(_solutions(sides, target, index, channels))
    columns = (
        [one.squared for one in parts],
        [one.squared_first[:, 0] for one in parts],
        [one.x[:, 0] for one in parts],
        [one.y[:, 0] for one in parts],
    )
    return _Replicates(*(torch.cat(column).numpy() for column in columns))


def _solutions(
    sides: _Sides, target: TargetPlan, index: int, channels: npt.NDArray[np.int64]
) -> Iterator[solve.Solution]:
    """Solutions of a few channels at a time, (c, 1+F, ...): all rows, then without each non-empty fold."""
    gram, used, n = sides.gram, sides.used, sides.n
    syy, mean_y = _target_covariance(gram, index, used, n)
    penalty_y = sides.weight * solve.penalty_matrix(
        torch.from_numpy(target.knots), torch.tensor(target.spread, dtype=torch.float64)
    )
    white = solve.whiten_target(syy, penalty_y)
    for side in sides.of(channels):
        sxy = _cross_covariance(gram, side, index, used, n, mean_y)
        count = len(side.channels)
        found = solve.canonical(
            side.sxx.flatten(0, 1),
            sxy.flatten(0, 1),
            syy.repeat(count, 1, 1),
            side.white,
            white.repeat(count, 1, 1),
            gram.components,
        )
        shape = (count, len(n))
        yield solve.Solution(
            x=found.x.reshape(*shape, gram.components, gram.knots),
            y=found.y.reshape(*shape, gram.knots),
            squared=found.squared.reshape(shape),
            squared_first=found.squared_first.reshape(shape),
        )


@dataclass(frozen=True, eq=False)
class _Side:
    """A few channels in every replicate, whatever the target: covariance (c, R, M, M), means and whether a hat moves
    (c, R, M), and the covariance's factor."""

    channels: Tensor
    sxx: Tensor
    mean: Tensor
    moving: Tensor
    white: solve.Whitener


class _Sides:
    """The channels' side of all solutions of one Gram; with `share` it is worked out once for all targets."""

    def __init__(self, gram: Gram, layer: LayerPlan, penalty: float, *, share: bool = False) -> None:
        rows = gram.rows
        self.gram = gram
        self.layer = layer
        self.used = rows.nonzero().flatten()
        self.n = rows.sum() - torch.cat([torch.zeros(1, dtype=torch.int64), rows[self.used]])
        self.weight = penalty / gram.images if gram.images else 0.0
        self._size = solve.padded(gram.components * gram.knots)
        self._room = _SHARED_BYTES if share else 0
        self._held: dict[bytes, _Side] = {}

    def of(self, channels: npt.NDArray[np.int64]) -> Iterator[_Side]:
        """The sides of these channels, a few at a time."""
        matrix = 8 * self._size * self._size * len(self.n)
        step = max(1, _BATCH_BYTES // matrix)
        for start in range(0, len(channels), step):
            taken = channels[start : start + step]
            side = self._held.get(taken.tobytes())
            if side is None:
                side = self._work_out(torch.from_numpy(taken))
                if self._room >= 2 * matrix * len(taken):
                    self._room -= 2 * matrix * len(taken)
                    self._held[taken.tobytes()] = side
            yield side

    def _work_out(self, taken: Tensor) -> _Side:
        sxx, mean, moving = _channel_covariance(self.gram, taken, self.used, self.n)
        stiffness = _penalties(self.layer, taken, self.gram.knots, self.weight, self._size)
        white = solve.whitener(sxx.flatten(0, 1), stiffness.repeat_interleave(len(self.n), dim=0))
        return _Side(taken, sxx, mean, moving, white)


def _leave_out(sums: Tensor, axis: int, used: Tensor) -> Tensor:
    """All rows, then without each non-empty fold: integers in float64; `axis` is the folds'."""
    held = sums.index_select(axis, used).to(torch.int64)
    total = held.sum(dim=axis, keepdim=True)
    return torch.cat([total, total - held], dim=axis).double()


def _target_covariance(gram: Gram, index: int, used: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance (R, K, K) and mean (R, K) of the target's hats in every replicate."""
    scale = basis.unit_scale(gram.knots)
    moments = _leave_out(gram.yy[index], 0, used).reshape(len(n), gram.knots, gram.knots)
    mean = moments.sum(dim=2) / scale / (scale * n.unsqueeze(1))
    second = moments / (scale**2 * n.reshape(-1, 1, 1))
    covariance = second - mean.unsqueeze(2) * mean.unsqueeze(1)
    moving = _moving(covariance.diagonal(dim1=1, dim2=2), second.diagonal(dim1=1, dim2=2))
    return covariance * moving.unsqueeze(2) * moving.unsqueeze(1), mean


def _channel_covariance(gram: Gram, channels: Tensor, used: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance of hats in every replicate (C, R, M, M), their means, whether they move (C, R, M); zero beyond p K."""
    knots, components = gram.knots, gram.components
    scale = basis.unit_scale(knots)
    size = components * knots
    extra = solve.padded(size) - size
    count, width = len(channels), 2 * knots - 1
    packed = _leave_out(gram.xx[channels], 1, used)
    diagonals = packed[..., : components * width].reshape(count, len(n), components, width)
    mean = _hat_sums(diagonals, knots).flatten(2) / (scale * n.unsqueeze(1))
    mean = torch.nn.functional.pad(mean, (0, extra))
    sxx = _unpack(packed * _per_row(scale, n), components, knots)
    second = sxx.diagonal(dim1=2, dim2=3).clone()
    sxx.addcmul_(mean.unsqueeze(3), mean.unsqueeze(2), value=-1)
    moving = _moving(sxx.diagonal(dim1=2, dim2=3), second)
    if not bool(moving.all()):
        sxx.mul_(moving.unsqueeze(3)).mul_(moving.unsqueeze(2))
    return sxx, mean, moving


def _cross_covariance(gram: Gram, side: _Side, index: int, used: Tensor, n: Tensor, mean_y: Tensor) -> Tensor:
    """Covariance of a target's hats with those of channels in every replicate: (C, R, M, K), zeros beyond p K."""
    knots, size = gram.knots, gram.components * gram.knots
    inverse = _per_row(basis.unit_scale(knots), n)
    cross = _leave_out(gram.xy[index, side.channels], 1, used).reshape(len(side.channels), len(n), size, knots)
    cross = torch.nn.functional.pad(cross * inverse.unsqueeze(2), (0, 0, 0, solve.padded(size) - size))
    return (cross - side.mean.unsqueeze(3) * mean_y.unsqueeze(1)).mul_(side.moving.unsqueeze(3))


def _per_row(scale: int, n: Tensor) -> Tensor:
    """1 / (S^2 n) in every replicate: (R, 1)."""
    return (1.0 / (scale**2 * n.double())).unsqueeze(1)


def _unpack(packed: Tensor, components: int, knots: int) -> Tensor:
    """Packed x-x entries (C, R, XX) as symmetric matrices (C, R, M, M), zero beyond p K."""
    size = components * knots
    full = solve.padded(size)
    places = torch.full((full, full), packed.shape[2], dtype=torch.int64)
    places[:size, :size] = unpack_index(components, knots)
    filled = torch.nn.functional.pad(packed, (0, 1))
    return filled.index_select(2, places.flatten()).reshape(*packed.shape[:2], full, full)


def _moving(variance: Tensor, second: Tensor) -> Tensor:
    """1 for hats whose variance is more than rounding, else 0."""
    return (variance > solve.NOISE * second).double()


def _penalties(layer: LayerPlan, channels: Tensor, knots: int, weight: float, size: int) -> Tensor:
    """Block-diagonal penalties (C, M, M) of some channels."""
    blocks = solve.penalty_matrix(layer.knots[channels].double().cpu(), layer.spread[channels].double().cpu())
    result = torch.zeros((len(channels), size, size), dtype=torch.float64)
    for component in range(layer.components):
        place = slice(component * knots, (component + 1) * knots)
        result[:, place, place] = weight * blocks[:, component]
    return result


def _pearson(gram: Gram, target: int) -> Floats:
    """Correlation (C,) of the map's mean with the target, from exact integers; 0 where either does not vary."""
    n = gram.images
    sums = [int(value) for value in gram.mean_sum]
    squares = [int(value) for value in gram.mean_square]
    products = [int(value) for value in gram.mean_target[target]]
    y_sum, y_square = int(gram.target_sum[target]), int(gram.target_square[target])
    y_variance = n * y_square - y_sum**2
    result = np.zeros(gram.channels)
    for channel, (total, square, product) in enumerate(zip(sums, squares, products, strict=True)):
        variance = n * square - total**2
        if variance > 0 and y_variance > 0:
            ratio = float(n * product - total * y_sum) / (float(variance) ** 0.5 * float(y_variance) ** 0.5)
            result[channel] = min(1.0, max(-1.0, ratio))
    return result


def _mean_activation(gram: Gram, layer: LayerPlan) -> Floats:
    centre, unit = layer.mean_centre.cpu().numpy(), layer.mean_unit.cpu().numpy()
    return np.asarray(centre + unit * gram.mean_sum.numpy() / gram.images, dtype=np.float64)


def _activation_variance(gram: Gram, layer: LayerPlan) -> Floats:
    """Variance (C,) of the map's mean over the images, from exact integers."""
    n = gram.images
    pairs = zip(gram.mean_sum.tolist(), gram.mean_square.tolist(), strict=True)
    spread = np.array([float(n * square - total * total) for total, square in pairs])
    return np.asarray(np.square(layer.mean_unit.cpu().numpy() / n) * spread, dtype=np.float64)


def _clamped(gram: Gram, layer: LayerPlan) -> Floats:
    """Share of the live components' codes at the first or last knot."""
    live = layer.live.cpu().numpy()
    ends = (gram.clamped.numpy() * live).sum(axis=1)
    return np.asarray(ends / np.maximum(1, gram.images * live.sum(axis=1)), dtype=np.float64)
