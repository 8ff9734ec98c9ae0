"""Effects from their sums, with jackknife intervals that hold the axes' noise too. Pure: no I/O, no Ray.

    effect = Cov(l, y) / Var(y)

Leaving out a fold at a time gives the noise of the images; the plan brings what another draw of the axes' images would
change, as pseudo-values by the same folds (axes.py). Both are of images that fold by fold are the same or independent,
so their pseudo-values add up: the interval is effect +- t(F - 1) se, se^2 = sum of squared residuals / (F (F - 1)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.statistics.effects.plan import EffectPlan
from pcace_dist.statistics.effects.sums import EffectSums
from pcace_dist.statistics.folds import on_used
from pcace_dist.statistics.student import t_quantile

Floats: TypeAlias = npt.NDArray[np.float64]

OK, OFF, NO_GRADIENT, NOT_OF_THE_MODEL = "ok", "off", "no_gradient", "not_of_the_model"
CONSTANT, TOO_FEW_IMAGES = "constant", "too_few_images"
LEVEL = 0.95
MIN_IMAGES = 50
MIN_FOLDS = 4
MIN_BEHIND = 16  # images behind the axes of a ranking
WITH_AXIS = 0.9  # share of the ranking's images that must have an axis


@dataclass(frozen=True, eq=False)
class EffectScores:
    """Effects of C channels for one target: arrays (C,), finite where the status is "ok", NaN elsewhere.

    sd: standard deviation of l in units of the target's. pseudo: (C, F), pseudo-values: their mean is the effect, the
    variance of the mean their variance by the number of folds; NaN for empty folds.
    """

    effect: Floats
    low: Floats
    high: Floats
    sd: Floats
    status: npt.NDArray[np.str_]
    pseudo: Floats

    @classmethod
    def none(cls, channels: int, folds: int, status: str) -> EffectScores:
        """No effects, and why."""
        effect, low, high, sd = np.full((4, channels), np.nan)
        return cls(effect, low, high, sd, np.full(channels, status), np.broadcast_to(np.nan, (channels, folds)))

    @staticmethod
    def cat(parts: Sequence[EffectScores]) -> EffectScores:
        """Channels of several blocks, one after the other."""
        names = [entry.name for entry in fields(EffectScores)]
        return EffectScores(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def score_effects(
    plan: EffectPlan | None,
    sums: EffectSums | None,
    targets: Sequence[str],
    *,
    layer: str,
    channels: slice,
    group: str,
    images: int,
    folds: int,
) -> list[EffectScores]:
    """Effects of some channels of a layer in the ranking of one group, an EffectScores for each target.

    plan: None where the run has no effects. sums: of these channels; None where no row had any. group: its name;
    images: of the ranking, those without an axis among them.
    """
    count = channels.stop - channels.start
    if plan is None or sums is None:
        status = OFF if plan is None else TOO_FEW_IMAGES
        return [EffectScores.none(count, folds, _why_none(plan, target, status)) for target in targets]
    noise = plan.noise(layer, channels, group, folds)
    scores = []
    for target in targets:
        index = plan.index(target)
        if index is None:
            scores.append(EffectScores.none(count, folds, _why_none(plan, target, OFF)))
            continue
        own = {name: tensor[index].cpu().numpy() for name, tensor in sums.state().items()}
        status = _status(own, images, plan.behind(index, group))
        units = plan.layer(layer).units[index, channels].numpy()
        status = status if np.isfinite(units).all() else NO_GRADIENT
        unit = units / plan.targets[index].unit
        scores.append(_scored(own, unit, noise[index]) if status == OK else EffectScores.none(count, folds, status))
    return scores


def _why_none(plan: EffectPlan | None, target: str, status: str) -> str:
    return status if plan is None else plan.statuses.get(target, status)


def _status(sums: dict[str, npt.NDArray[np.int64]], images: int, behind: int) -> str:
    rows = sums["rows"]
    known = int(rows.sum())
    few = known < max(MIN_IMAGES, WITH_AXIS * images) or (rows > 0).sum() < MIN_FOLDS or behind < MIN_BEHIND
    if few:
        return TOO_FEW_IMAGES
    _, variance = _moments(sums, np.flatnonzero(rows))
    return OK if (variance > 0).all() else CONSTANT


def _scored(sums: dict[str, npt.NDArray[np.int64]], unit: Floats, noise: Floats) -> EffectScores:
    """unit: (C,), of l in the target's; noise: (C, F)."""
    rows = sums["rows"]
    used = np.flatnonzero(rows)
    covariance, variance = _moments(sums, used)
    every = unit[:, None] * covariance / variance  # (C, 1 + used)
    effect, without = every[:, 0], every[:, 1:]
    folds = len(used)
    residual = (folds - 1) * (without.mean(axis=1, keepdims=True) - without) + on_used(noise, used)
    error = np.sqrt(np.square(residual).sum(axis=1) / (folds * (folds - 1)))
    reach = t_quantile(folds, (1 + LEVEL) / 2) * error
    pseudo = np.full((len(effect), len(rows)), np.nan)
    pseudo[:, used] = effect[:, None] + residual
    n = rows.sum()
    spread = np.maximum(0.0, sums["ll"].sum(1) / n - np.square(sums["l"].sum(1) / n))
    sd = unit * np.sqrt(spread / variance[0])
    return EffectScores(effect, effect - reach, effect + reach, sd, np.full(len(effect), OK), pseudo)


def _moments(sums: dict[str, npt.NDArray[np.int64]], used: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Cov(l, y) (C, R) and Var(y) (R,) of all rows, then without each of the folds `used`; in units of the grids."""
    n, y, yy, l_sum, product = (_replicates(sums[name], used) for name in ("rows", "y", "yy", "l", "ly"))
    safe = np.maximum(n, 1.0)
    variance = yy / safe - np.square(y / safe)
    exact = 1e-12 * np.maximum(yy / safe, 1.0)  # rounding of the subtraction
    return product / safe - (l_sum / safe) * (y / safe), np.where(variance > exact, variance, 0.0)


def _replicates(sums: npt.NDArray[np.int64], used: npt.NDArray[np.int64]) -> Floats:
    """Sums (..., F) by fold as those of all rows and without each fold: (..., 1 + used)."""
    total = sums.sum(axis=-1, keepdims=True)
    return np.concatenate([total, total - sums[..., used]], axis=-1).astype(np.float64)
