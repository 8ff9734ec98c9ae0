"""Intervals that hold all channels at once: an independent calculation, coverage of planted scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit

from pcace_dist.statistics.order import flips, simultaneous
from pcace_dist.statistics.order.simultaneous import simultaneous_intervals
from tests.statistics.helpers import Array

FOLDS = 16


def pseudo_values(truth: Array, noise: float, rng: np.random.Generator, shared: float = 0.5) -> Array:
    own, common = rng.normal(size=(len(truth), FOLDS)), rng.normal(size=(1, FOLDS))
    return np.asarray(truth[:, None] + noise * np.sqrt(FOLDS) * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own))


def test_the_ends_are_those_of_every_flip_by_hand() -> None:
    pseudo = pseudo_values(np.linspace(0.2, 0.6, 9), 0.02, np.random.default_rng(0))
    low, high = simultaneous_intervals(pseudo.mean(axis=1), pseudo)
    residual = pseudo - pseudo.mean(axis=1, keepdims=True)
    largest = []
    for signs in flips.signs(FOLDS).astype(np.float64):
        flipped = residual * signs
        largest.append(np.abs(flipped.mean(axis=1) / (flipped.std(axis=1, ddof=1) / np.sqrt(FOLDS))).max())
    critical = np.sort(largest)[int(np.ceil(0.95 * flips.FLIPS)) - 1]
    reach = critical * pseudo.std(axis=1, ddof=1) / np.sqrt(FOLDS)
    assert low**2 == pytest.approx(pseudo.mean(axis=1) - reach, rel=1e-5)
    assert high**2 == pytest.approx(pseudo.mean(axis=1) + reach, rel=1e-5)


def test_one_channel_has_no_less_than_its_own_interval() -> None:
    pseudo = pseudo_values(np.array([0.4]), 0.02, np.random.default_rng(0))
    low, high = simultaneous_intervals(pseudo.mean(axis=1), pseudo)
    reach = stdtrit(FOLDS - 1, 0.975) * pseudo.std(ddof=1) / np.sqrt(FOLDS)
    assert high[0] ** 2 - low[0] ** 2 >= 2 * reach * (1 - 1e-9)


def test_ends_are_scores_and_a_channel_without_noise_has_a_point() -> None:
    truth = np.array([-0.01, 0.5, 0.999])
    pseudo = pseudo_values(truth, 0.05, np.random.default_rng(0))
    pseudo[1] = 0.5
    low, high = simultaneous_intervals(pseudo.mean(axis=1), pseudo)
    assert low[0] == 0 and high[2] == 1 and low[1] == high[1] == pytest.approx(np.sqrt(0.5))


def test_channels_are_looked_at_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    pseudo = pseudo_values(np.linspace(0.2, 0.6, 40), 0.02, np.random.default_rng(0))
    pseudo[:, 3] = np.nan
    whole = simultaneous_intervals(np.nanmean(pseudo, axis=1), pseudo)
    monkeypatch.setattr(simultaneous, "_TILE", 7)
    tiled = simultaneous_intervals(np.nanmean(pseudo, axis=1), pseudo)
    assert tiled[0].tolist() == whole[0].tolist() and tiled[1].tolist() == whole[1].tolist()


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_all_scores_lie_in_them_at_once_and_more_is_shared_the_narrower_they_are(shared: float) -> None:
    """300 rankings of 40 channels: marginal intervals would hold all of them in 13 % (shared 0)."""
    rng, truth = np.random.default_rng(3), np.linspace(0.3, 0.6, 40)
    held, widths = [], []
    for _ in range(300):
        pseudo = pseudo_values(truth, 0.01, rng, shared)
        low, high = simultaneous_intervals(pseudo.mean(axis=1), pseudo)
        held.append(((low**2 <= truth) & (truth <= high**2)).all())
        widths.append(np.mean(high**2 - low**2))
    assert np.mean(held) >= 0.95 - 2 * 0.0126
    sidak = 2 * stdtrit(FOLDS - 1, 1 - (1 - 0.95 ** (1 / 40)) / 2) * 0.01
    assert np.mean(widths) / sidak == pytest.approx(1.0 if shared == 0 else 0.76, abs=0.06)
