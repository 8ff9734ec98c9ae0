from __future__ import annotations

import numpy as np
import pytest
import torch

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.effects.grid import MISSING
from pcace_dist.statistics.effects.sums import EffectSums, sums_bytes

N, C, E, F = 700, 5, 2, 16


def rows(seed: int = 0, count: int = N) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    values = torch.from_numpy(random.integers(-16384, 16385, (count, C, E)).astype(np.int16))
    targets = torch.from_numpy(random.integers(-16384, 16385, (count, E)).astype(np.int16))
    targets[random.random(count) < 0.1, 1] = MISSING
    return values, targets, torch.from_numpy(random.integers(0, F, count).astype(np.uint8))


def same(one: EffectSums, other: EffectSums) -> bool:
    return all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())


def test_sums_are_those_of_plain_integers() -> None:
    values, targets, folds = rows()
    sums = EffectSums(C, E, F).update(values, targets, folds)
    for effect in range(E):
        for fold in range(F):
            mine = (folds == fold) & (targets[:, effect] != MISSING)
            y, held = targets[mine, effect].long(), values[mine, :, effect].long()
            state = {name: tensor[effect, ..., fold] for name, tensor in sums.state().items()}
            assert state["rows"] == mine.sum() and state["y"] == y.sum() and state["yy"] == (y * y).sum()
            assert torch.equal(state["l"], held.sum(0))
            assert torch.equal(state["ll"], (held * held).sum(0))
            assert torch.equal(state["ly"], (held * y[:, None]).sum(0))


def test_any_partition_order_and_grouping_gives_the_same_state() -> None:
    values, targets, folds = rows()
    whole = EffectSums(C, E, F).update(values, targets, folds)
    order = torch.from_numpy(np.random.default_rng(1).permutation(N))
    parts = [EffectSums(C, E, F).update(values[at], targets[at], folds[at]) for at in torch.split(order, 97)]
    assert same(whole, parts[0].merge(parts[1:4]).merge([EffectSums(C, E, F).merge(parts[4:])]))
    blocks = EffectSums(C, E, F)
    for channels in (slice(0, 2), slice(2, 5)):
        blocks.update(values[:, channels], targets, folds, channels=channels)
    assert same(whole, blocks)
    assert same(whole, EffectSums.from_bytes(whole.to_bytes())) and whole.to_bytes() == blocks.to_bytes()


def test_channels_and_folds_are_selected() -> None:
    values, targets, folds = rows()
    sums = EffectSums(C, E, F).update(values, targets, folds)
    assert same(sums.select(slice(1, 3)), EffectSums(2, E, F).update(values[:, 1:3], targets, folds))
    left = (folds != 3) & (folds != 7)
    assert same(sums.without([3, 7]), EffectSums(C, E, F).update(values[left], targets[left], folds[left]))
    assert sums.nbytes == sums_bytes(C, E, F)


def test_extremes_do_not_overflow() -> None:
    values, targets = torch.full((3000, 1, 1), -16384, dtype=torch.int16), torch.full((3000, 1), 16384).to(torch.int16)
    sums = EffectSums(1, 1, 1).update(values, targets, torch.zeros(3000, dtype=torch.uint8))
    assert int(sums.state()["ly"]) == -3000 * 2**28 and int(sums.state()["ll"]) == 3000 * 2**28


def test_what_does_not_fit_is_refused() -> None:
    values, targets, folds = rows()
    with pytest.raises(StatisticsError, match="l of shape"):
        EffectSums(C + 1, E, F).update(values, targets, folds)
    with pytest.raises(StatisticsError, match="different sizes"):
        EffectSums(C, E, F).merge([EffectSums(C, E, F + 1)])
    with pytest.raises(StatisticsError, match="not a sums of effects file"):
        EffectSums.from_bytes(b"something else")
