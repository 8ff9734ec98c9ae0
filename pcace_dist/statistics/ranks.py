"""Ranks of channels and their intervals. Pure: no I/O, no Ray.

Channels are ranked by the unclipped score_squared. Intervals: for every channel, all its differences with the other
channels are tested at once (max-t), after Mogstad, Romano, Shaikh & Wilhelm (2024, "Inference for Ranks"): rank_low =
1 + number of channels significantly better, rank_high = C - number significantly worse. Each channel's interval covers
its rank with probability 95 % (marginally, not for all channels at once).

The critical value comes from sign flips of the fold residuals, which are studentised again after each flip: with 16
folds the tails are heavy, and a Gaussian multiplier would miss this. Above MAX_FLIPPED channels it is the Sidak t
quantile, with which intervals are some 5 % wider.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import stdtrit
from torch import Tensor

from pcace_dist.statistics.solve import one_thread

Floats: TypeAlias = npt.NDArray[np.float64]

LEVEL = 0.95
FLIPS = 999
MAX_FLIPPED = 1024
_CHUNK_BYTES = 16 << 20
_TILE = 16  # channels: the flips of their pairs stay in the CPU's cache
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
    """Critical values (C,) of the largest |t| of each channel against all others; residuals: (C, F).

    A flip does not change the sum of squares q of a difference. So |t| grows with u = |sum of flipped| / sqrt(q), and t
    follows from u: t = u sqrt(F - 1) / sqrt(F - u^2).
    """
    count, folds = residuals.shape
    if count > MAX_FLIPPED:
        sidak = stdtrit(folds - 1, 1 - (1 - level ** (1 / (count - 1))) / 2)
        return torch.full((count,), float(sidak), dtype=torch.float64)
    quantile = math.ceil(level * FLIPS) - 1
    u = torch.from_numpy(np.partition(_peaks(residuals).numpy(), quantile, axis=1)[:, quantile].copy()).double()
    return u * math.sqrt(folds - 1) / (folds - u * u).clamp(min=1e-9).sqrt()


def _peaks(residuals: Tensor) -> Tensor:
    """Largest u of each channel against all others under every flip: float32 (C, FLIPS).

    Pairs are processed in tiles, each pair once: it counts for both of its channels.
    """
    flips = _flips(residuals.shape[1]).T
    peaks = torch.zeros((len(residuals), FLIPS))
    tiles = [slice(start, start + _TILE) for start in range(0, len(residuals), _TILE)]
    for index, mine in enumerate(tiles):
        for theirs in tiles[index:]:
            differences = residuals[mine].unsqueeze(1) - residuals[theirs]
            norms = differences.square().sum(dim=2, keepdim=True).sqrt()
            units = torch.where(norms > 0, differences / norms.clamp(min=1e-150), 0.0).float()
            u = (units @ flips).abs_()  # (mine, theirs, FLIPS)
            torch.maximum(peaks[mine], u.amax(dim=1), out=peaks[mine])
            if theirs != mine:
                torch.maximum(peaks[theirs], u.amax(dim=0), out=peaks[theirs])
    return peaks


@lru_cache(maxsize=4)
def _flips(folds: int) -> Tensor:
    """Signs float32 (FLIPS, F); the same for every ranking."""
    signs = np.random.default_rng(0).integers(0, 2, size=(FLIPS, folds)) * 2 - 1
    return torch.from_numpy(signs.astype(np.float32))
