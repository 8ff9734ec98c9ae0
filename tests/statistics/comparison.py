"""What the comparisons with other estimators share: rank agreement, and correlations on rows that were held out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from pcace_dist.statistics.ace import Ace
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.score import ChannelScores, score_channels
from tests.statistics.mnist import Activations

Floats = npt.NDArray[np.float64]
PENALTY = 0.3


def spearman(one: Floats, other: Floats) -> float:
    """Rank correlation of the channels that both sides score; nan where one side does not vary."""
    both = np.isfinite(one) & np.isfinite(other)
    one, other = one[both], other[both]
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def correlations(one: Floats, other: Floats) -> Floats:
    """Correlation of rows (C, m) with rows (C, m); 0 where one side does not vary."""
    a, b = one - one.mean(axis=1, keepdims=True), other - other.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return np.where(norms > 1e-12, (a * b).sum(axis=1) / np.maximum(norms, 1e-12), 0.0)


def gram_of(plan: Plan, rows: Activations, folds: npt.NDArray[np.int64]) -> Gram:
    layer = plan.layers[0]
    own = layer.encode(*layer.project(rows.maps))
    codes, fixed = plan.encode_targets(rows.target[:, None])
    return Gram(layer.channels, plan.components, 1, plan.knots, plan.folds).update(
        own.codes, own.means, codes, fixed, folds
    )


def dealt(count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(count) % 16


def scored(plan: Plan, rows: Activations, *, penalty: float = PENALTY) -> ChannelScores:
    gram = gram_of(plan, rows, dealt(len(rows.target)))
    return score_channels(gram, plan.layers[0], plan.targets, penalty=penalty)[0]


def held_out(plan: Plan, fit: Activations, held: Activations, *, penalty: float = PENALTY) -> Floats:
    """Correlation (C,) of the fitted transforms on held-out rows."""
    layer, target = plan.layers[0], plan.targets[0]
    scores = scored(plan, fit, penalty=penalty)
    phi, theta = np.nan_to_num(scores.phi), np.nan_to_num(scores.theta)  # a channel without a score predicts nothing
    x, knots = held.components(layer), layer.knots.double().numpy()
    total = np.zeros((layer.channels, len(x)))
    for channel in range(layer.channels):
        for component in range(layer.components):
            if bool(layer.live[channel, component]):
                line = phi[channel, component]
                total[channel] += np.interp(x[:, channel, component], knots[channel, component], line)
    return correlations(total, np.stack([np.interp(held.target, target.knots, line) for line in theta]))


def ace_held_out(found: Ace, x: Floats, y: Floats, held_x: Floats, held_y: Floats) -> Floats:
    """The same for sample-level ACE: transforms interpolated between the rows of the fit. x (n, C, p)."""
    by_y = np.argsort(y, kind="stable")
    theta = np.stack([np.interp(held_y, y[by_y], line[by_y]) for line in found.theta])
    total = np.zeros((x.shape[1], len(held_x)))
    for channel in range(x.shape[1]):
        for component in range(x.shape[2]):
            order = np.argsort(x[:, channel, component], kind="stable")
            line = found.phi[channel, component][order]
            total[channel] += np.interp(held_x[:, channel, component], x[order, channel, component], line)
    return correlations(total, theta)
