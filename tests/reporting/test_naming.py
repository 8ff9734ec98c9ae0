"""Names of channels: the AUC against another implementation, planted words, and what is left of names without truth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score

from pcace_dist.reporting.naming import SHARE, interval, most_active, suggest

ROWS, WORDS, CHANNELS = 400, 30, 12


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def halves(rows: int) -> npt.NDArray[np.bool_]:
    return np.asarray(np.arange(rows) % 2 == 0, np.bool_)


def test_the_auc_is_that_of_another_implementation(random: np.random.Generator) -> None:
    similarity = random.normal(size=(ROWS, WORDS)).round(1)  # with ties
    activation = similarity[:, :CHANNELS] + random.normal(size=(ROWS, CHANNELS))
    first = halves(ROWS)
    found = suggest(similarity, activation, first)
    flags = [most_active(activation[half]) for half in (first, ~first)]
    for channel in range(CHANNELS):
        chosen, held_out = (
            [roc_auc_score(flag[:, channel], similarity[half, word]) for word in range(WORDS)]
            for flag, half in zip(flags, (first, ~first), strict=True)
        )
        expected = np.argsort(-np.array(chosen), kind="stable")[:3]
        assert found.words[channel].tolist() == expected.tolist()
        assert found.auc[channel] == pytest.approx([held_out[word] for word in expected])


def test_a_planted_word_is_found_and_holds(random: np.random.Generator) -> None:
    similarity = random.normal(size=(ROWS, WORDS))
    activation = np.stack([similarity[:, 7], -similarity[:, 3]], 1) + 0.3 * random.normal(size=(ROWS, 2))
    found = suggest(similarity, activation, halves(ROWS))
    assert found.words[0, 0] == 7 and found.low[0, 0] > 0.85
    assert 3 not in found.words[1]  # the images that activate it are the least like the word


def test_without_truth_the_chosen_word_does_not_hold(random: np.random.Generator) -> None:
    aucs, covered = [], []
    for _ in range(40):
        similarity, activation = random.normal(size=(ROWS, WORDS)), random.normal(size=(ROWS, CHANNELS))
        first = halves(ROWS)
        chosen_by = np.concatenate([similarity[first]] * 2), np.concatenate([activation[first]] * 2)
        again = suggest(*chosen_by, np.arange(ROWS) < ROWS // 2)
        assert again.auc[:, 0].mean() > 0.6  # the same images that chose it flatter it
        found = suggest(similarity, activation, first)
        aucs.append(found.auc[:, 0].mean())
        covered.append(((found.low <= 0.5) & (found.high >= 0.5)).mean())
    assert abs(np.mean(aucs) - 0.5) < 0.02
    assert np.mean(covered) > 0.93


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.3])
def test_the_interval_holds_the_auc(random: np.random.Generator, shift: float) -> None:
    from scipy import stats

    truth, repetitions, active, others = stats.norm.cdf(shift / np.sqrt(2)), 400, 20, 180
    found = np.array(
        [(random.normal(size=active)[:, None] + shift > random.normal(size=others)).mean() for _ in range(repetitions)]
    )
    low, high = interval(found, active, others)
    assert ((low <= truth) & (truth <= high)).mean() > 0.93
    assert (low <= found).all() and (found <= high).all()


def test_an_auc_of_one_is_not_certain() -> None:
    low, high = interval(np.array([1.0, np.nan]), 20, 180)
    assert 0.8 < low[0] < 0.999 and high[0] == 1.0 and np.isnan(low[1])


def test_the_most_active_are_a_tenth_but_for_ties() -> None:
    spread = np.arange(100)
    idle = np.where(spread < 97, 0, spread)  # nearly always the same
    tied = np.where(spread < 85, 0, 1)
    flags = most_active(np.stack([spread, idle, tied], 1))
    assert flags.sum(0).tolist() == [100 * SHARE, 3, 15]


def test_a_channel_that_too_few_images_activate_has_no_name(random: np.random.Generator) -> None:
    activation = np.zeros((ROWS, 1))
    activation[:3] = 1
    found = suggest(random.normal(size=(ROWS, WORDS)), activation, halves(ROWS))
    assert (found.words == -1).all() and np.isnan(found.auc).all()
