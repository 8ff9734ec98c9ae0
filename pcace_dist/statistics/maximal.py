"""The statistic for tensors in memory: the entry point for a notebook. No I/O, no Ray.

The same arithmetic as in a run whose pilot has all rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import build_plan
from pcace_dist.statistics.score import ChannelScores, score_channels

_BATCH = 256
_BLOCK = 64  # channels whose sums are held at a time


def maximal_correlation(
    maps: Tensor | npt.NDArray[Any],
    target: Tensor | npt.NDArray[Any],
    *,
    components: int = 5,
    knots: int = 9,
    folds: int = 16,
    penalty: float = 0.3,
    scale: str = "pixel",
    fold_ids: Tensor | npt.NDArray[Any] | None = None,
) -> ChannelScores:
    """Maximal correlation of every channel's maps with the target, bias-corrected, with 95 % intervals.

    maps: (n, C, ...) activation maps, or (n, C); target: (n,). Both finite.
    fold_ids: integers (n,); rows with equal values are in one jackknife fold. Without them, rows are assigned to
    `folds` folds at random (seeded). StatisticsError for NaN, infinite values or shapes that do not fit.
    """
    values = torch.as_tensor(maps)
    y = torch.as_tensor(target).detach().cpu().double().numpy()
    if values.dim() < 2 or y.shape != values.shape[:1] or not len(y):
        raise StatisticsError(f"maps {tuple(values.shape)} and target {y.shape}: want (n, C, ...) and (n,), n > 0")
    shape = tuple(values.shape[2:])
    flat = values.detach().float().flatten(2) if shape else values.detach().float().unsqueeze(2)
    fold_of_row = _fold_of_row(len(y), folds, fold_ids)

    def passes() -> Iterator[Mapping[str, Tensor]]:
        return ({"maps": part} for part in torch.split(flat, _BATCH))

    plan = build_plan(
        passes,
        {"maps": shape},
        {"target": y},
        components=components,
        knots=knots,
        folds=folds,
        scale=scale,
        facts={},
    )
    codes, fixed = plan.encode_targets(y[:, None])
    blocks = []
    for first in range(0, flat.shape[1], _BLOCK):
        layer = plan.layers[0].block(slice(first, first + _BLOCK))
        gram = Gram(layer.channels, components, 1, knots, folds)
        block_codes = layer.encode(*layer.project(flat[:, first : first + _BLOCK].cpu()))
        gram.update(block_codes.codes, block_codes.means, codes, fixed, fold_of_row)
        blocks += score_channels(gram, layer, plan.targets, penalty=penalty)
    return ChannelScores.cat(blocks)


def _fold_of_row(n: int, folds: int, fold_ids: Tensor | npt.NDArray[Any] | None) -> npt.NDArray[np.int64]:
    if fold_ids is None:
        fold_of_label: npt.NDArray[np.int64] = np.random.default_rng(0).permutation(n) % folds
        return fold_of_label
    ids = torch.as_tensor(fold_ids).cpu().numpy()
    if ids.shape != (n,):
        raise StatisticsError(f"fold_ids: shape {ids.shape} where ({n},) is due")
    labels, numbers = np.unique(ids, return_inverse=True)
    # a few values are folds themselves; many values are assigned to folds at random
    are_many = len(labels) > folds
    fold_of_label = np.random.default_rng(0).permutation(len(labels)) if are_many else np.arange(len(labels))
    return np.asarray((fold_of_label % folds)[numbers], dtype=np.int64)
