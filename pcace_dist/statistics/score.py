"""Scores of channels from a Gram: jackknifed r^2, interval, first component, Pearson, status.

Pure: no I/O, no Ray. The estimand is the maximal correlation over piecewise-linear transforms of the frozen
plan; score_low and score_high hold what another pilot's plan would change (plan_noise/), where that is known.

Jackknife on r^2, leaving out a fold at a time. Folds differ in size (a fold is a hash), so the estimate weights them
as Busing, Meijer & van der Leeden (1999) do: e = F r^2 - sum over folds of (1 - m_f / n) r^2_f, with m_f rows in fold f
and r^2_f without it. This removes a bias of order 1/n for any fold sizes. The error is the plain one, se^2 = (F-1)/F
sum (r^2_f - mean)^2, t with F - 1 degrees of freedom. For equal folds, both kinds are the same. For unequal folds,
intervals with their error covered up to ten points less in simulations, and the plain estimate was biased downwards.
The penalty of every replicate is that of all rows, penalty / n; otherwise the bias does not follow 1/n.

That se is the error of r^2. The error of e is larger, by the noise of the bias correction: with it alone, one of twelve
channels that were independent of the target differed significantly from another in 20 % of the samples, and at n = 200
and p = 5 intervals held 86 to 93 %. So the residuals are stretched: the variance of the pseudo-values' mean is
se^2 + (BIAS_ERROR (1 + e) (r^2 - e))^2, for intervals and ranks (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import basis, solve
from pcace_dist.statistics.effects.grid import GRID
from pcace_dist.statistics.folds import on_used
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.lanes import LANES, LAPACK, Lanes, Side, Solved, check_solver
from pcace_dist.statistics.plan import LayerPlan, TargetPlan
from pcace_dist.statistics.plan_noise import ANOTHER
from pcace_dist.statistics.products import packed_size, unpack_index
from pcace_dist.statistics.student import t_quantile

Floats: TypeAlias = npt.NDArray[np.float64]

OK = "ok"
CONSTANT = "constant"
TOO_FEW_IMAGES = "too_few_images"
LEVEL = 0.95
MIN_IMAGES = 50
FEWER_KNOTS = (9, 5, 3)  # that are suggested where images are few
MIN_FOLDS = 4
BIAS_ERROR = 0.25  # at e = 0, the standard error that the bias correction adds, relative to it; twice that at e = 1
_BATCH_BYTES = 4 << 20  # of x-x matrices solved at a time: enough that the overhead of calls is small
_PROBLEMS = 2048  # channels x replicates x targets solved at a time
_INT64_IMAGES = (2**31 - 1) // GRID  # up to here n^2 GRID^2 stays below 2^62


@dataclass(frozen=True, eq=False)
class ChannelScores:
    """Scores of C channels for one target: arrays (C,), named as the columns of rankings.parquet.

    Finite where status is "ok", else NaN, except images. pseudo: (C, F), jackknife pseudo-values of r^2; their mean is
    score_squared (the module's docstring has the standard error of this mean); NaN for empty folds. plan_noise: (C, F),
    residuals that another pilot would bring (plan_noise/); NaN where that is not known: score_low and score_high are
    then those given the plan. phi float32
    (C, p, K) and theta float32 (C, K): the values on the knots of the transforms that give score_in_sample; linear
    between knots, constant beyond the ends. The correlation of theta(y) with the sum of the phi is positive; scales are
    arbitrary.
    """

    images: npt.NDArray[np.int64]
    score: Floats
    score_squared: Floats
    score_low: Floats
    score_high: Floats
    score_low_given_plan: Floats
    score_high_given_plan: Floats
    score_in_sample: Floats
    score_first_component: Floats
    pearson: Floats
    mean_activation: Floats
    activation_variance: Floats
    clamped: Floats
    support: Floats
    status: npt.NDArray[np.str_]
    pseudo: Floats
    plan_noise: Floats
    phi: npt.NDArray[np.float32]
    theta: npt.NDArray[np.float32]

    @property
    def pseudo_of_another(self) -> Floats:
        """The pseudo-values with what another pilot would change, where that is known: what ranks' intervals go by."""
        if np.isnan(self.plan_noise).all():
            return self.pseudo
        return self.pseudo + ANOTHER * np.nan_to_num(self.plan_noise)

    def without_transforms(self) -> ChannelScores:
        """The same scores without phi and theta (no entries per channel), which take more memory than the rest."""
        none = np.empty((len(self.status), 0), np.float32)
        return replace(self, phi=none, theta=none)

    @staticmethod
    def cat(parts: Sequence[ChannelScores]) -> ChannelScores:
        """Channels of several blocks, one after the other."""
        names = [entry.name for entry in fields(ChannelScores)]
        return ChannelScores(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, eq=False)
class Jackknife:
    """Bias-corrected estimate (C,), and residuals (C, F) that hold its error and that of the bias correction."""

    estimate: Floats
    residual: Floats

    @property
    def pseudo(self) -> Floats:
        """Pseudo-values (C, F); their mean is the estimate."""
        return self.estimate[:, None] + self.residual

    @property
    def error(self) -> Floats:
        """Standard error (C,)."""
        return standard_error(self.residual)

    def interval(self, noise: Floats | None = None, *, level: float = LEVEL) -> tuple[Floats, Floats]:
        """Ends of the two-sided interval at `level`; noise: further residuals (C, F)."""
        residual = self.residual if noise is None else self.residual + noise
        reach = t_quantile(residual.shape[1], (1 + level) / 2) * standard_error(residual)
        return self.estimate - reach, self.estimate + reach


def standard_error(residual: Floats) -> Floats:
    """Of a mean (C,), from its residuals (C, F)."""
    folds = residual.shape[1]
    return np.asarray(np.sqrt(np.square(residual).sum(axis=1) / (folds * (folds - 1))))


def jackknife(full: Floats, without: Floats, rows: npt.NDArray[np.int64]) -> Jackknife:
    """Delete-a-fold jackknife of r^2. full: (C,); without: (C, F), r^2 without each fold; rows: (F,), none empty."""
    folds = len(rows)
    weights = 1 - rows / rows.sum()
    estimate = folds * full - (weights * without).sum(axis=1)
    residual = (folds - 1) * (without.mean(axis=1, keepdims=True) - without)
    error = standard_error(residual)
    correction = BIAS_ERROR * (1 + np.clip(estimate, 0, 1)) * (full - estimate)
    stretch = np.sqrt(1 + np.square(correction) / np.where(error > 0, np.square(error), np.inf))
    return Jackknife(estimate, residual * stretch[:, None])


def required_images(live: int, knots: int) -> int:
    """The least number of rows for a score of a channel with `live` components: twice the free coefficients, at least
    50."""
    return max(MIN_IMAGES, 2 * (live + 1) * (knots - 1))


def usable_images(live: int, knots: int) -> int:
    """From so many rows on, intervals are narrow enough to be of use: five times the least number."""
    return 5 * required_images(live, knots)


def most_components(images: int, knots: int, at_most: int) -> int:
    """The largest number of components, at most this, with which so many images make a score; 0 where none does."""
    return next((number for number in range(at_most, 0, -1) if required_images(number, knots) <= images), 0)


def settings_for(images: int, components: int, knots: int) -> tuple[int, int] | None:
    """Components and knots, no more than these, with which so many images make a score: fewer components first, then
    fewer knots. None where no setting would do."""
    for fewer in sorted({knots, *(k for k in FEWER_KNOTS if k < knots)}, reverse=True):
        number = most_components(images, fewer, components)
        if number:
            return number, fewer
    return None


def score_channels(
    gram: Gram,
    layer: LayerPlan,
    target_plans: Sequence[TargetPlan],
    *,
    penalty: float,
    min_images: int | None = None,
    min_folds: int = MIN_FOLDS,
    noise: Sequence[Floats | None] = (),
    solver: str = LAPACK,
) -> list[ChannelScores]:
    """Scores of a Gram's channels, one ChannelScores per target.

    layer: the plan of the same channels (`LayerPlan.block` of a larger one). min_images: replaces `required_images`.
    min_folds: with rows, that a score takes; 2 at least.
    noise: of the plan, (C, F) for each target (`PlanNoise.of`), None where it has none. solver: lapack or lanes
    (lanes.py); they differ in the last places.
    The bits of a channel's result do not depend on the other channels in the Gram.
    """
    if (layer.channels, layer.components) != (gram.channels, gram.components):
        raise StatisticsError(
            f"layer {layer.name}: plan of {layer.channels} channels x {layer.components} components, Gram of"
            f" {gram.channels} x {gram.components}"
        )
    if len(target_plans) != gram.targets:
        raise StatisticsError(f"{len(target_plans)} target plans for a Gram of {gram.targets} targets")
    on_cpu = gram if gram.device.type == "cpu" else gram.to("cpu")
    moving = [_target_moves(on_cpu, index) for index in range(gram.targets)]
    status = _status(on_cpu, layer, min_images, min_folds)
    ok = np.flatnonzero(status == OK)
    solved: dict[int, Solved] = {}
    if len(ok) and any(moving):
        solve_all = _solve_in_lanes if check_solver(solver) == LANES else _solve
        replicates = LeaveOneOut.of_rows(on_cpu.rows)
        solved = solve_all(on_cpu, layer, target_plans, np.flatnonzero(moving), ok, penalty, replicates)
    constant = np.where(status == OK, CONSTANT, status)
    stats = ChannelStats.of(on_cpu, layer) if solved else None
    return [
        _scores(on_cpu, stats, index, status if moves else constant, solved.get(index), own)
        for index, (moves, own) in enumerate(zip_longest(moving, noise))
    ]


def in_sample(
    gram: Gram, layer: LayerPlan, targets: Sequence[TargetPlan], folds: Sequence[int], *, penalty: float
) -> Floats:
    """r^2 of all rows, then of each of these folds by itself: (T, C, 1 + folds), not corrected; 0 where the channel or
    the target does not vary."""
    every, channels = np.arange(gram.targets), np.arange(gram.channels)
    solved = _solve(gram, layer, targets, every, channels, penalty, Alone.of_rows(gram.rows, folds))
    return np.stack([solved[index].squared for index in every.tolist()])


def scores_of_few_rows(
    rows: npt.NDArray[np.int64], layer: LayerPlan, targets: int, *, knots: int, min_images: int | None = None
) -> list[ChannelScores] | None:
    """The result of `score_channels` for a Gram with rows[f] rows in fold f, if these are too few for a score of any
    channel; else None. So the Gram of such a group need not be computed."""
    status = _status_by_rows(rows, layer, knots, min_images, MIN_FOLDS)
    if (status == OK).any():
        return None
    images = np.full(layer.channels, rows.sum(), dtype=np.int64)
    shape = (layer.channels, layer.components, knots)
    return [_empty(images, status, len(rows), shape) for _ in range(targets)]


@dataclass(frozen=True, eq=False)
class ChannelStats:
    """Statistics of a Gram's channels that do not depend on the target: mean and variance of the map's mean over the
    images, and the share of codes at the first or last knot; (C,) each."""

    mean: Floats
    variance: Floats
    clamped: Floats

    @classmethod
    def of(cls, gram: Gram, layer: LayerPlan) -> ChannelStats:
        return cls(_mean_activation(gram, layer), _activation_variance(gram, layer), _clamped(gram, layer))


def _scores(
    gram: Gram,
    stats: ChannelStats | None,
    index: int,
    status: npt.NDArray[np.str_],
    solved: Solved | None,
    noise: Floats | None,
) -> ChannelScores:
    """Scores for one target. solved: the replicates of the channels that are ok; noise: of the plan, (C, F)."""
    images = np.full(gram.channels, gram.images, dtype=np.int64)
    result = _empty(images, status, gram.folds, (gram.channels, gram.components, gram.knots))
    ok = status == OK
    if solved is None or stats is None or not ok.any():
        return result
    rows = gram.rows.numpy()
    used = np.flatnonzero(rows)
    r_squared = jackknife(solved.squared[:, 0], solved.squared[:, 1:], rows[used])
    low_given_plan, high_given_plan = r_squared.interval()
    low, high = low_given_plan, high_given_plan
    if noise is not None:
        own = on_used(noise[ok], used)
        result = replace(result, plan_noise=result.plan_noise.copy())
        result.plan_noise[np.ix_(ok, used)] = own
        low, high = r_squared.interval(ANOTHER * own)
    result.pseudo[np.ix_(ok, used)] = r_squared.pseudo
    for column, values in (
        (result.score, _root(r_squared.estimate)),
        (result.score_squared, r_squared.estimate),
        (result.score_low, _root(low)),
        (result.score_high, _root(high)),
        (result.score_low_given_plan, _root(low_given_plan)),
        (result.score_high_given_plan, _root(high_given_plan)),
        (result.score_in_sample, np.sqrt(solved.squared[:, 0])),
        (result.score_first_component, np.sqrt(solved.first)),
        (result.pearson, _pearson(gram, index)[ok]),
        (result.mean_activation, stats.mean[ok]),
        (result.activation_variance, stats.variance[ok]),
        (result.clamped, stats.clamped[ok]),
        (result.support, _support(gram, index, solved.theta)),
        (result.phi, solved.phi),
        (result.theta, solved.theta),
    ):
        column[ok] = values
    return result


def _empty(
    images: npt.NDArray[np.int64], status: npt.NDArray[np.str_], folds: int, shape: tuple[int, int, int]
) -> ChannelScores:
    """No scores yet; shape: channels, components, knots."""
    channels, components, knots = shape

    def column() -> Floats:
        return np.full(channels, np.nan)

    return ChannelScores(
        images=images,
        score=column(),
        score_squared=column(),
        score_low=column(),
        score_high=column(),
        score_low_given_plan=column(),
        score_high_given_plan=column(),
        score_in_sample=column(),
        score_first_component=column(),
        pearson=column(),
        mean_activation=column(),
        activation_variance=column(),
        clamped=column(),
        support=column(),
        status=status,
        pseudo=np.full((channels, folds), np.nan),
        plan_noise=np.broadcast_to(np.nan, (channels, folds)),  # takes no memory
        phi=np.full((channels, components, knots), np.nan, np.float32),
        theta=np.full((channels, knots), np.nan, np.float32),
    )


def _root(squared: Floats) -> Floats:
    return np.sqrt(np.clip(squared, 0.0, 1.0))


def _status(gram: Gram, layer: LayerPlan, min_images: int | None, min_folds: int) -> npt.NDArray[np.str_]:
    """ok, constant (in the pilot or in these rows) or too_few_images, for every channel and any target that moves."""
    status = _status_by_rows(gram.rows.numpy(), layer, gram.knots, min_images, min_folds)
    if (status == OK).any():
        status[(status == OK) & ~_channels_move(gram)] = CONSTANT
    return status


def _status_by_rows(
    rows: npt.NDArray[np.int64], layer: LayerPlan, knots: int, min_images: int | None, min_folds: int
) -> npt.NDArray[np.str_]:
    """The part of `_status` that follows from the number of rows in each fold."""
    live = layer.live.cpu().numpy().sum(axis=1)
    required = np.array([required_images(int(count), knots) for count in live])
    if min_images is not None:
        required = np.maximum(1, np.full_like(required, min_images))
    too_few = (rows.sum() < required) | ((rows > 0).sum() < min_folds)
    status = np.where(live == 0, CONSTANT, np.where(too_few, TOO_FEW_IMAGES, OK))
    return status.astype(f"U{len(TOO_FEW_IMAGES)}")


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
    matrix, sums = _target_sums(gram, target)
    diagonal = matrix.diagonal() * gram.images
    return bool((diagonal - sums.square() > solve.NOISE * diagonal).any())


def _target_sums(gram: Gram, target: int) -> tuple[Tensor, Tensor]:
    """Second moments (K, K) and sums (K,) of a target's hats over all rows, float64, in units of S^2 and S."""
    matrix = gram.yy[target].sum(dim=0).reshape(gram.knots, gram.knots).double()
    return matrix, matrix.sum(dim=1) / basis.unit_scale(gram.knots)


def _support(gram: Gram, target: int, theta: Floats) -> Floats:
    """The share (C,) of the images that a score rests on: the participation ratio of theta's variance over the images,
    of which each counts at the two knots about it, by its hats. 1 where theta parts the images into two halves, about q
    where it tells a share q of them from all others, 1/3 for a normal variable that stays as it is.

    theta: (C, K), on the knots. With theta less its mean, m_j = E h_j the mass of knot j, and c_j = E[h_j(y) theta_j
    theta(y)] its part of the variance, the support is (sum c_j)^2 / sum(c_j^2 / m_j). Exact from the sums over images.
    """
    second, sums = (part.numpy() for part in _target_sums(gram, target))
    masses, moments = sums / sums.sum(), second / second.sum()
    centred = theta - (theta @ masses)[:, None]
    parts = centred * (centred @ moments)
    held = masses > 0
    return np.asarray(
        np.square(parts.sum(axis=1)) / (np.square(parts[:, held]) / masses[held]).sum(axis=1), dtype=np.float64
    )


def _hat_sums(blocks: Tensor, knots: int) -> Tensor:
    """Sums of hats (..., K) from packed diagonal blocks (..., 2K-1), as all hats of a row sum to S. Exact integers."""
    sums = blocks[..., :knots].clone()
    sums[..., :-1].add_(blocks[..., knots:])
    sums[..., 1:].add_(blocks[..., knots:])
    return (
        sums.div_(basis.unit_scale(knots)) if sums.is_floating_point() else sums.floor_divide_(basis.unit_scale(knots))
    )


def _solve(
    gram: Gram,
    layer: LayerPlan,
    plans: Sequence[TargetPlan],
    targets: npt.NDArray[np.int64],
    channels: npt.NDArray[np.int64],
    penalty: float,
    replicates: Resampling,
) -> dict[int, Solved]:
    """The replicates of some channels for some targets (both as indices in the Gram). plans: of all targets.

    A block of channels is solved for one batch of targets after another, so that memory is bounded. Moments are in
    units of S^2 times the rows of their replicate.
    """
    with solve.one_thread():
        unit = basis.unit_scale(gram.knots) ** 2
        lamda = penalty / gram.images * unit * replicates.n
        sides = [_target_side(gram, index, plans[index], replicates, lamda) for index in targets.tolist()]
        size = solve.padded(gram.components * gram.knots)
        step = max(1, _BATCH_BYTES // (8 * size * size * len(replicates.n)))
        parts = [
            _solve_some(gram, layer, torch.from_numpy(targets), sides, torch.from_numpy(block), replicates, lamda)
            for block in np.split(channels, range(step, len(channels), step))
        ]
    length = math.sqrt(unit * gram.images)  # of transforms for moments in other units
    result = {}
    for position, index in enumerate(targets.tolist()):
        of_target = [[column[position] for column in part] for part in parts]
        squared, first, phi, theta = (torch.cat(column).numpy() for column in zip(*of_target, strict=True))
        result[index] = Solved(squared, first, length * phi, length * theta)
    return result


def _solve_in_lanes(
    gram: Gram,
    layer: LayerPlan,
    plans: Sequence[TargetPlan],
    targets: npt.NDArray[np.int64],
    channels: npt.NDArray[np.int64],
    penalty: float,
    replicates: LeaveOneOut,
) -> dict[int, Solved]:
    """The same as `_solve`, by statistics/lanes.py."""
    scale, every = basis.unit_scale(gram.knots), len(channels) == gram.channels
    per_row = penalty / gram.images * scale**2
    own = slice(None) if every else channels
    curvature = solve.Curvature.of(layer.knots[own].double().cpu(), layer.spread[own].double().cpu())
    lanes = Lanes(gram.xx.numpy()[own], curvature, gram.rows.numpy(), scale=scale, penalty=per_row)
    lamda = per_row * replicates.n
    with solve.one_thread():
        sides = [Side(*_target_side(gram, index, plans[index], replicates, lamda)) for index in targets.tolist()]
    products = np.ascontiguousarray(gram.xy.numpy()[:, own])  # else the loops are compiled once more
    solved = lanes.solve(sides, products if len(targets) == gram.targets else products[targets])
    length = math.sqrt(scale**2 * gram.images)  # of transforms for moments in other units
    return {
        index: Solved(part.squared, part.first, length * part.phi, length * part.theta)
        for index, part in zip(targets.tolist(), solved, strict=True)
    }


def _solve_some(
    gram: Gram,
    layer: LayerPlan,
    targets: Tensor,
    sides: Sequence[tuple[solve.Target, Tensor]],
    channels: Tensor,
    replicates: Resampling,
    lamda: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """squared (t, c, R), first (t, c), phi (t, c, p, K) and theta (t, c, K)."""
    moments, sums, moving = _channel_moments(gram, channels, replicates)
    curvature = solve.Curvature.of(layer.knots[channels].double().cpu(), layer.spread[channels].double().cpu())
    sides_x = solve.Channels.of(moments, curvature, lamda)
    step = max(1, _PROBLEMS // (len(channels) * len(replicates.n)))
    parts = []
    for start in range(0, len(targets), step):
        target_sides = sides[start : start + step]
        sxy = _cross_moments(
            gram, targets[start : start + step], channels, replicates, sums, [side[1] for side in target_sides]
        )
        if moving is not None:
            sxy.mul_(moving.unsqueeze(3))
        solution = solve.canonical(sides_x, [side[0] for side in target_sides], sxy)
        parts.append((solution.squared, solution.squared_first, solution.x[:, :, 0], solution.y[:, :, 0]))
    squared, first, phi, theta = (torch.cat(column) for column in zip(*parts, strict=True))
    return squared, first, phi, theta


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """The jackknife's replicates: all rows; then, for each fold with rows, all rows without this fold.

    used: int64 (R - 1,), the folds with rows; n: float64 (R,), rows of each replicate.
    """

    used: Tensor
    n: Tensor

    @classmethod
    def of_rows(cls, rows: Tensor) -> LeaveOneOut:
        used = rows.nonzero().flatten()
        n = rows.sum() - torch.cat([torch.zeros(1, dtype=torch.int64), rows[used]])
        return cls(used, n.double())

    def of(self, sums: Tensor, out: Tensor | None = None) -> Tensor:
        """Sums of the replicates (..., R, k) from sums by fold (..., F, k): integers, exact in float64."""
        by_fold = sums if len(self.used) == sums.shape[-2] else sums.index_select(-2, self.used)
        by_fold = by_fold.double()
        shape = (*by_fold.shape[:-2], len(self.n), by_fold.shape[-1])
        out = torch.empty(shape, dtype=torch.float64) if out is None else out
        total = by_fold.sum(dim=-2, keepdim=True)
        out[..., :1, :] = total
        torch.sub(total, by_fold, out=out[..., 1:, :])
        return out


@dataclass(frozen=True, eq=False)
class Alone:
    """Other replicates: all rows; then the rows of single folds.

    used: int64 (R - 1,), these folds; n: float64 (R,), rows of each replicate.
    """

    used: Tensor
    n: Tensor

    @classmethod
    def of_rows(cls, rows: Tensor, folds: Sequence[int]) -> Alone:
        used = torch.tensor(folds, dtype=torch.int64)
        return cls(used, torch.cat([rows.sum(0, keepdim=True), rows[used]]).double())

    def of(self, sums: Tensor, out: Tensor | None = None) -> Tensor:
        """Sums of the replicates (..., R, k), as `LeaveOneOut.of`."""
        parts = torch.cat([sums.sum(dim=-2, keepdim=True), sums.index_select(-2, self.used)], dim=-2).double()
        return parts if out is None else out.copy_(parts)


Resampling: TypeAlias = LeaveOneOut | Alone


def _target_side(
    gram: Gram, index: int, plan: TargetPlan, replicates: Resampling, lamda: Tensor
) -> tuple[solve.Target, Tensor]:
    """A target in every replicate, and the means of its hats (R, K)."""
    n = replicates.n
    second = replicates.of(gram.yy[index]).reshape(len(n), gram.knots, gram.knots)
    sums = second.sum(dim=2) / basis.unit_scale(gram.knots)
    means = sums / n.unsqueeze(1)
    moments = second - sums.unsqueeze(2) * means.unsqueeze(1)
    moving = _moving(moments.diagonal(dim1=1, dim2=2), second.diagonal(dim1=1, dim2=2))
    moments *= moving.unsqueeze(2) * moving.unsqueeze(1)
    spread = torch.tensor(plan.spread, dtype=torch.float64)
    penalty = lamda.reshape(-1, 1, 1) * solve.penalty_matrix(torch.from_numpy(plan.knots), spread)
    return solve.Target.of(moments, penalty), means


def _channel_moments(gram: Gram, channels: Tensor, replicates: Resampling) -> tuple[Tensor, Tensor, Tensor | None]:
    """Centred moments of hats in every replicate (c, R, M, M) and their sums (c, R, M), zero beyond p K; and, unless
    all hats move, 1 for hats that move and 0 for others (c, R, M)."""
    knots, components, n = gram.knots, gram.components, replicates.n
    count, size = len(channels), components * knots
    padded_size = solve.padded(size)
    packed = gram.xx.index_select(0, channels)
    diagonals = replicates.of(packed[..., : components * (2 * knots - 1)])
    diagonals = diagonals.reshape(count, len(n), components, 2 * knots - 1)
    sums = torch.nn.functional.pad(_hat_sums(diagonals, knots).flatten(2), (0, padded_size - size))
    moments = torch.empty((count, len(n), padded_size * padded_size), dtype=torch.float64)
    replicates.of(_unpack(packed, components, knots), moments)
    moments = moments.reshape(count, len(n), padded_size, padded_size)
    diagonal = moments.diagonal(dim1=2, dim2=3)
    second = diagonal.clone()
    moments.addcmul_(sums.unsqueeze(3), (sums / n.unsqueeze(1)).unsqueeze(2), value=-1)
    moving = _moving(diagonal, second)
    if bool(moving[..., :size].all()):
        return moments, sums, None
    moments.mul_(moving.unsqueeze(3)).mul_(moving.unsqueeze(2))
    return moments, sums, moving


def _cross_moments(
    gram: Gram, targets: Tensor, channels: Tensor, replicates: Resampling, sums: Tensor, means_y: Sequence[Tensor]
) -> Tensor:
    """Centred moments of channels' hats with targets' in every replicate: (t, c, R, M, K), zeros beyond p K."""
    knots, size = gram.knots, gram.components * gram.knots
    xy = gram.xy.index_select(0, targets).index_select(1, channels)
    result = torch.zeros((*xy.shape[:2], *sums.shape[1:], knots), dtype=torch.float64)
    replicates.of(xy, result.flatten(3)[..., : size * knots])
    means = torch.stack(list(means_y)).unsqueeze(1).unsqueeze(3)  # (t, 1, R, 1, K)
    return result.addcmul_(sums.unsqueeze(3), means, value=-1)


@lru_cache(maxsize=16)
def _places(components: int, knots: int) -> npt.NDArray[np.int64]:
    """Packed position of every entry of the symmetric matrix (M M,); beyond p K the number of packed entries."""
    size = components * knots
    padded_size = solve.padded(size)
    places = torch.full((padded_size, padded_size), packed_size(components, knots), dtype=torch.int64)
    places[:size, :size] = unpack_index(components, knots)
    return places.flatten().numpy()


def _unpack(packed: Tensor, components: int, knots: int) -> Tensor:
    """Packed x-x entries (c, F, XX) as symmetric matrices (c, F, M M), zero beyond p K."""
    padded = torch.nn.functional.pad(packed, (0, 1)).numpy()
    # numpy's take is faster than torch's, above all without checks of the indices
    return torch.from_numpy(np.take(padded, _places(components, knots), axis=2, mode="clip"))


def _moving(variance: Tensor, second: Tensor) -> Tensor:
    """1 for hats that move (their variance is more than rounding noise), else 0."""
    return (variance > solve.NOISE * second).double()


def _pearson(gram: Gram, target: int) -> Floats:
    """Correlation (C,) of the map's mean with the target, from exact integers; 0 where either does not vary."""
    n = gram.images
    sums, squares, products = (_exact(part, n) for part in (gram.mean_sum, gram.mean_square, gram.mean_target[target]))
    y_sum, y_square = int(gram.target_sum[target]), int(gram.target_square[target])
    y_variance = float(n * y_square - y_sum**2)
    variance = (n * squares - sums**2).astype(np.float64)
    covariance = (n * products - y_sum * sums).astype(np.float64)
    moves = (variance > 0) & (y_variance > 0)
    length = np.where(moves, np.sqrt(np.maximum(variance, 0)) * math.sqrt(max(0.0, y_variance)), 1.0)
    return np.where(moves, np.clip(covariance / length, -1.0, 1.0), 0.0)


def _exact(sums: Tensor, images: int) -> npt.NDArray[Any]:
    """Sums of fixed-point values as integers whose products are exact: Python's integers where int64 is too small."""
    beyond_int64 = images >= _INT64_IMAGES
    return sums.numpy().astype(object) if beyond_int64 else sums.numpy()


def _mean_activation(gram: Gram, layer: LayerPlan) -> Floats:
    centre, unit = layer.mean_centre.cpu().numpy(), layer.mean_unit.cpu().numpy()
    return np.asarray(centre + unit * gram.mean_sum.numpy() / gram.images, dtype=np.float64)


def _activation_variance(gram: Gram, layer: LayerPlan) -> Floats:
    """Variance (C,) of the map's mean over the images, from exact integers."""
    n = gram.images
    sums, squares = _exact(gram.mean_sum, n), _exact(gram.mean_square, n)
    spread = (n * squares - sums**2).astype(np.float64)
    return np.asarray(np.square(layer.mean_unit.cpu().numpy() / n) * spread, dtype=np.float64)


def _clamped(gram: Gram, layer: LayerPlan) -> Floats:
    """Share of the live components' codes at the first or last knot."""
    live = layer.live.cpu().numpy()
    ends = (gram.clamped.numpy() * live).sum(axis=1)
    return np.asarray(ends / np.maximum(1, gram.images * live.sum(axis=1)), dtype=np.float64)
