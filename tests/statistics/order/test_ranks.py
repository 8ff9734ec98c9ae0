from __future__ import annotations

import numpy as np
import pytest
import torch

from pcace_dist.statistics.loops import compiled
from pcace_dist.statistics.order import flips, ranks
from pcace_dist.statistics.order.ranks import rank_channels
from tests.statistics.helpers import Array

FOLDS = 16


def pseudo_values(truth: Array, noise: float, rng: np.random.Generator, shared: float = 0.3) -> Array:
    """Fold pseudo-values with a part that all channels share; their mean has standard deviation `noise`."""
    own = rng.normal(size=(len(truth), FOLDS))
    common = rng.normal(size=(1, FOLDS))
    return np.asarray(truth[:, None] + noise * np.sqrt(FOLDS) * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own))


def ranked(pseudo: Array) -> ranks.Ranks:
    return rank_channels(pseudo.mean(axis=1), pseudo, np.ones(len(pseudo), dtype=bool))


def test_ranks_follow_the_score_and_ties_keep_their_order() -> None:
    scores = np.array([0.1, 0.5, -0.2, 0.5, 0.3])
    all_ranks = rank_channels(scores, np.repeat(scores[:, None], 4, axis=1), np.ones(5, dtype=bool))
    assert all_ranks.rank.tolist() == [4, 1, 5, 2, 3]


def test_without_noise_intervals_are_the_ranks_and_ties_share() -> None:
    scores = np.array([0.1, 0.5, -0.2, 0.5, 0.3])
    all_ranks = rank_channels(scores, np.repeat(scores[:, None], 4, axis=1), np.ones(5, dtype=bool))
    assert all_ranks.low.tolist() == [4, 1, 5, 1, 3] and all_ranks.high.tolist() == [4, 2, 5, 2, 3]


def test_channels_that_are_not_ok_are_not_ranked_and_change_nothing() -> None:
    rng = np.random.default_rng(0)
    pseudo = pseudo_values(np.linspace(0, 1, 8), 0.05, rng)
    ok = np.array([True, False] * 4)
    noisy, scores = pseudo.copy(), pseudo.mean(axis=1)
    noisy[~ok], scores[~ok] = np.nan, np.nan
    all_ranks, alone = rank_channels(scores, noisy, ok), ranked(pseudo[ok])
    assert all_ranks.rank[~ok].tolist() == all_ranks.low[~ok].tolist() == all_ranks.high[~ok].tolist() == [0] * 4
    assert all_ranks.rank[ok].tolist() == alone.rank.tolist()
    assert all_ranks.low[ok].tolist() == alone.low.tolist() and all_ranks.high[ok].tolist() == alone.high.tolist()


def test_empty_folds_are_left_out() -> None:
    pseudo = pseudo_values(np.linspace(0, 1, 6), 0.05, np.random.default_rng(0))
    wider = np.concatenate([pseudo, np.full((6, 3), np.nan)], axis=1)
    all_ranks = rank_channels(pseudo.mean(axis=1), wider, np.ones(6, dtype=bool))
    assert all_ranks.low.tolist() == ranked(pseudo).low.tolist()


@pytest.mark.parametrize("count", [0, 1])
def test_no_or_one_channel(count: int) -> None:
    all_ranks = rank_channels(np.zeros(count), np.zeros((count, 4)), np.ones(count, dtype=bool))
    assert all_ranks.rank.tolist() == all_ranks.low.tolist() == all_ranks.high.tolist() == [1] * count


def test_intervals_are_the_same_every_time() -> None:
    pseudo = pseudo_values(np.linspace(0, 0.2, 40), 0.03, np.random.default_rng(1))
    one, other = ranked(pseudo), ranked(pseudo)
    assert one.low.tolist() == other.low.tolist() and one.high.tolist() == other.high.tolist()
    assert (one.low <= one.rank).all() and (one.rank <= one.high).all()


@pytest.mark.parametrize(
    "truth",
    [np.linspace(0, 1, 12), np.zeros(12), np.repeat([0.0, 0.1, 0.2], 4), np.linspace(0, 0.02, 12)],
    ids=["spread", "equal", "clusters", "near"],
)
@pytest.mark.parametrize("flips", [True, False])
def test_rank_intervals_cover_on_average_and_for_the_worst_channel(
    truth: Array, flips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not flips:
        monkeypatch.setattr(ranks, "MAX_FLIPPED", 0)
    rng = np.random.default_rng(2)
    best = 1 + (truth[None, :] > truth[:, None]).sum(axis=1)
    last = len(truth) - (truth[None, :] < truth[:, None]).sum(axis=1)
    covered = []
    for _ in range(120):
        all_ranks = ranked(pseudo_values(truth, 0.02, rng))
        covered.append((all_ranks.low <= best) & (all_ranks.high >= last))
    assert np.mean(covered) >= 0.93
    assert np.mean(covered, axis=0).min() >= 0.88


@pytest.mark.parametrize("count", [2, 5, 16, 17, 40])  # tiles of 16, whole and not
def test_intervals_are_those_of_every_difference_flipped_by_hand(count: int) -> None:
    rng = np.random.default_rng(count)
    pseudo = pseudo_values(rng.uniform(0, 0.2, count), 0.03, rng)
    all_ranks, scores = ranked(pseudo), pseudo.mean(axis=1)
    signs = flips.signs(FOLDS).astype(np.float64)

    def t(differences: Array) -> Array:
        error = differences.std(axis=-1, ddof=1) / np.sqrt(FOLDS)
        return np.asarray(differences.mean(axis=-1) / error)

    for i in range(count):
        others = np.delete(pseudo, i, axis=0) - pseudo[i]
        residuals = others - others.mean(axis=1, keepdims=True)
        largest = np.abs(t(residuals[:, None] * signs)).max(axis=0)
        critical = np.sort(largest)[int(np.ceil(0.95 * flips.FLIPS)) - 1]
        apart = t(others)
        assert all_ranks.low[i] == 1 + (apart > critical).sum()
        assert all_ranks.high[i] == count - (apart < -critical).sum()
        assert all_ranks.rank[i] == 1 + (scores > scores[i]).sum()


@pytest.mark.parametrize("count", [1, 2, 17, 40])
def test_the_compiled_loop_gives_the_same_bits(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    residuals = torch.from_numpy(np.random.default_rng(count).normal(size=(count, FOLDS)))
    residuals[-1] = residuals[0]  # no difference at all
    peaks = []
    for loading in (np.inf, 0.0):
        monkeypatch.setattr(compiled, "LOADING", loading)
        peaks.append(ranks._peaks(residuals))
    assert torch.equal(*peaks)


def test_well_separated_channels_have_narrow_intervals() -> None:
    all_ranks = ranked(pseudo_values(np.linspace(0, 1, 12), 0.005, np.random.default_rng(3)))
    assert (all_ranks.high - all_ranks.low).max() == 0


def test_what_channels_share_on_the_same_images_makes_intervals_narrower() -> None:
    """The differences are paired fold by fold: with each channel's folds in an order of its own, the same pseudo-values
    have wider intervals."""
    rng = np.random.default_rng(4)
    pseudo = pseudo_values(np.linspace(0, 1, 30), 0.1, rng, shared=0.95)
    unpaired = rng.permuted(pseudo, axis=1)
    paired, apart = (np.mean(own.high - own.low) for own in map(ranked, (pseudo, unpaired)))
    assert paired < 0.5 * apart
