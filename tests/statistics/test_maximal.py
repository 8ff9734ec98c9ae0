from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import maximal
from pcace_dist.statistics.maximal import maximal_correlation


def planted(n: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Channel 0 carries the target through a square, channel 1 is noise, channel 2 is dead."""
    generator = torch.Generator().manual_seed(0)
    strength = torch.randn(n, generator=generator)
    maps = 0.3 * torch.randn((n, 3, 6, 6), generator=generator)
    maps[:, 0] += strength[:, None, None]
    maps[:, 2] = 0
    return maps, strength.square() + 0.3 * torch.randn(n, generator=generator)


def test_a_planted_channel_is_found() -> None:
    scores = maximal_correlation(*planted())
    assert scores.score[0] > 0.9 and scores.score[1] < 0.25
    assert scores.status.tolist() == ["ok", "ok", "constant"]
    assert abs(scores.pearson[0]) < 0.2


def test_arrays_and_tensors_of_any_layout_give_the_same() -> None:
    maps, y = planted()
    expected = maximal_correlation(maps, y).score_squared
    others: list[tuple[Any, Any]] = [
        (maps.numpy(), y.numpy()),
        (maps.flatten(2), y),
        (maps.double(), y.double()),
        (maps.contiguous(memory_format=torch.channels_last), y),
    ]
    for other_maps, other_y in others:
        assert np.array_equal(maximal_correlation(other_maps, other_y).score_squared, expected, equal_nan=True)


def test_vectors_have_one_component() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4))
    scores = maximal_correlation(x, np.abs(x[:, 2]))
    assert scores.score[2] > 0.95 and scores.score.argmax() == 2
    assert scores.score_first_component[2] == pytest.approx(scores.score_in_sample[2], abs=1e-6)


def test_channels_in_blocks_equal_channels_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, y = planted()
    expected = maximal_correlation(maps, y).score_squared
    monkeypatch.setattr(maximal, "_BLOCK", 2)
    assert np.array_equal(maximal_correlation(maps, y).score_squared, expected, equal_nan=True)


def test_rows_that_share_an_id_share_a_fold() -> None:
    maps, y = planted()
    twice = np.repeat(np.arange(500), 2)
    assert np.isfinite(maximal_correlation(maps, y, fold_ids=twice).score[0])
    eight = maximal_correlation(maps, y, fold_ids=np.arange(1000) % 8)
    assert int(np.isfinite(eight.pseudo[0]).sum()) == 8


def test_wrong_input_is_refused() -> None:
    maps, y = planted(100)
    with pytest.raises(StatisticsError, match="target"):
        maximal_correlation(maps, y[:-1])
    with pytest.raises(StatisticsError, match="NaN"):
        maximal_correlation(maps, torch.full((100,), torch.nan))
    with pytest.raises(StatisticsError, match="NaN"):
        maximal_correlation(maps * torch.inf, y)
    with pytest.raises(StatisticsError, match="fold_ids"):
        maximal_correlation(maps, y, fold_ids=np.zeros(3))
