"""Ranks of channels and their intervals. Pure: no I/O, no Ray.

Channels are ranked by the unclipped score_squared. Intervals: for every channel, all its differences with the other
channels are tested at once (max-t), after Mogstad, Romano, Shaikh & Wilhelm (2024, "Inference for Ranks"): rank_low =
1 + number of channels significantly better, rank_high = C - number significantly worse. Each channel's interval covers
its rank with probability 95 % (marginally, not for all channels at once).

The differences are those of the pseudo-values fold by fold: what channels share, as they are seen on the same images,
cancels. The critical value comes from sign flips (flips.py). Above MAX_FLIPPED channels it is the Sidak t quantile,
with which intervals are some 5 % wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.statistics.loops.compiled import machine_code, pays
from pcace_dist.statistics.order.flips import FLIPS, LEVEL, critical_value, signs
from pcace_dist.statistics.solve import one_thread
from pcace_dist.statistics.student import t_quantile

Floats: TypeAlias = npt.NDArray[np.float64]

MAX_FLIPPED = 1024
_CHUNK_BYTES = 16 << 20
_TILE = 16  # channels: what belongs to them stays in the CPU's cache
SPARED = 1e-9  # seconds that the compiled loop saves for a flip of two channels, about
_TINY = 1e-12  # smaller differences of r^2 are rounding


@dataclass(frozen=True, eq=False)
class Ranks:
    """int32 (C,) each, from 1; 0 for channels that are not ranked."""

    rank: npt.NDArray[np.int32]
    low: npt.NDArray[np.int32]
    high: npt.NDArray[np.int32]


def rank_channels(score_squared: Floats, pseudo: Floats, ok: npt.NDArray[np.bool_], *, level: float = LEVEL) -> Ranks:
    """Ranks of the channels that are ok, by score_squared descending; ties keep the order of the input.

    score_squared: float64 (C,); pseudo: float64 (C, F) as ChannelScores.pseudo, NaN columns for empty folds.
    Deterministic (seeded flips). Memory is bounded for any number of channels.
    """
    result = Ranks(*(np.zeros(len(score_squared), dtype=np.int32) for _ in range(3)))
    ranked = np.flatnonzero(ok)
    if not len(ranked):
        return result
    scores = score_squared[ranked]
    order = np.argsort(-scores, kind="stable")
    result.rank[ranked[order]] = np.arange(1, len(ranked) + 1, dtype=np.int32)
    residuals = pseudo[ranked] - scores[:, None]
    residuals = residuals[:, np.isfinite(residuals).all(axis=0)]
    with one_thread():
        better, worse = _significant(scores, residuals, level)
    result.low[ranked] = 1 + better
    result.high[ranked] = len(ranked) - worse
    return result


def _significant(
    scores: Floats, residuals: Floats, level: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each channel, the number of channels significantly better and significantly worse: (C,) each."""
    count, folds = residuals.shape
    better, worse = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    if count < 2 or folds < 2:
        return better, worse
    estimate, residual = torch.from_numpy(scores), torch.from_numpy(residuals)
    critical = _critical(residual, level).unsqueeze(1)
    norms = residual.square().sum(dim=1)
    step = max(1, _CHUNK_BYTES // (8 * count))
    for start in range(0, count, step):
        block = slice(start, start + step)
        norm_sums = norms[block].unsqueeze(1) + norms
        squares = torch.clamp(norm_sums - 2 * residual[block] @ residual.T, min=_TINY * norm_sums, max=None)
        differences = estimate - estimate[block].unsqueeze(1)
        t = differences * (folds * (folds - 1) / squares.clamp(min=1e-300)).sqrt()
        t[differences.abs() <= _TINY] = 0.0
        better[block] = (t > critical[block]).sum(dim=1).numpy()
        worse[block] = (t < -critical[block]).sum(dim=1).numpy()
    return better, worse


def _critical(residuals: Tensor, level: float) -> Tensor:
    """Critical values (C,) of the largest |t| of each channel against all others; residuals: (C, F)."""
    count, folds = residuals.shape
    if count > MAX_FLIPPED:
        sidak = t_quantile(folds, 1 - (1 - level ** (1 / (count - 1))) / 2)
        return torch.full((count,), sidak, dtype=torch.float64)
    return torch.from_numpy(critical_value(_peaks(residuals).numpy(), folds, level))


def _peaks(residuals: Tensor) -> Tensor:
    """Largest u of each channel against all others under every flip: float64 (C, FLIPS).

    The flipped sum of a difference is the difference of the flipped sums. Each pair counts for both of its channels.
    """
    count = len(residuals)
    sums = residuals @ torch.from_numpy(signs(residuals.shape[1])).T.double()
    norms = torch.cdist(residuals, residuals, compute_mode="donot_use_mm_for_euclid_dist")
    factors = torch.where(norms > 0, 1 / norms.clamp(min=1e-150), 0.0)
    peaks = torch.zeros((count, FLIPS), dtype=torch.float64)
    raise_all = machine_code(_raise_all) if pays(SPARED * count**2 * FLIPS) else _raise_by_tiles
    raise_all(sums.numpy(), factors.numpy(), peaks.numpy(), _TILE)
    return peaks


def _raise_by_tiles(sums: Floats, factors: Floats, peaks: Floats, tile: int) -> None:
    """What `_raise_all` does, with the same bits; takes several times as long, but needs no compiler."""
    for start in range(0, len(sums), tile):
        mine = slice(start, start + tile)
        for other in range(start, len(sums), tile):
            theirs = slice(other, other + tile)
            u = np.abs(sums[mine, None] - sums[None, theirs])
            u *= factors[mine, theirs, None]
            np.maximum(peaks[mine], u.max(axis=1), out=peaks[mine])
            np.maximum(peaks[theirs], u.max(axis=0), out=peaks[theirs])


def _raise_all(sums: Floats, factors: Floats, peaks: Floats, tile: int) -> None:
    """Raises peaks (C, n) to the largest |sums_i - sums_j| factors_ij, for all pairs of channels; sums: (C, n). Two i
    and four j at a time, so that each is read once for all of these pairs; the last i may be alone, and is both."""
    count, flips = sums.shape
    for start in range(0, count, tile):
        for other in range(start, count, tile):
            stop = min(count, other + tile)
            for i in range(start, min(count, start + tile), 2):
                k = min(i + 1, count - 1)
                mine, mine_too, raised, raised_too = sums[i], sums[k], peaks[i], peaks[k]
                if other == start:
                    weight = factors[i, k]
                    for flip in range(flips):
                        u = abs(mine[flip] - mine_too[flip]) * weight
                        raised[flip], raised_too[flip] = max(u, raised[flip]), max(u, raised_too[flip])
                j = max(k + 1, other)
                while j + 4 <= stop:
                    own, theirs, weights, others = sums[j : j + 4], peaks[j : j + 4], factors[i, j:], factors[k, j:]
                    for flip in range(flips):
                        first, second = mine[flip], mine_too[flip]
                        a, b = abs(first - own[0, flip]) * weights[0], abs(second - own[0, flip]) * others[0]
                        theirs[0, flip] = max(max(a, b), theirs[0, flip])
                        c, d = abs(first - own[1, flip]) * weights[1], abs(second - own[1, flip]) * others[1]
                        theirs[1, flip] = max(max(c, d), theirs[1, flip])
                        e, f = abs(first - own[2, flip]) * weights[2], abs(second - own[2, flip]) * others[2]
                        theirs[2, flip] = max(max(e, f), theirs[2, flip])
                        g, h = abs(first - own[3, flip]) * weights[3], abs(second - own[3, flip]) * others[3]
                        theirs[3, flip] = max(max(g, h), theirs[3, flip])
                        raised[flip] = max(max(max(a, c), max(e, g)), raised[flip])
                        raised_too[flip] = max(max(max(b, d), max(f, h)), raised_too[flip])
                    j += 4
                while j < stop:
                    weight, weight_too = factors[i, j], factors[k, j]
                    for flip in range(flips):
                        a, b = (
                            abs(mine[flip] - sums[j, flip]) * weight,
                            abs(mine_too[flip] - sums[j, flip]) * weight_too,
                        )
                        peaks[j, flip] = max(max(a, b), peaks[j, flip])
                        raised[flip], raised_too[flip] = max(a, raised[flip]), max(b, raised_too[flip])
                    j += 1
