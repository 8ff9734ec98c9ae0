"""rankings.parquet: a row per target, group, layer and channel. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pcace_dist.artifacts.block_scores import BlockScores, each_ranking
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.ranks import Ranks
from pcace_dist.statistics.score import OK, ChannelScores

NUMBERS = (
    "score",
    "score_squared",
    "score_low",
    "score_high",
    "score_in_sample",
    "score_first_component",
    "pearson",
    "mean_activation",
    "activation_variance",
    "weight_norm",
    "clamped",
)


def rankings_table(
    plan: Plan,
    blocks: Sequence[BlockScores],
    ranks: Sequence[Ranks],
    weight_norms: Mapping[str, Sequence[float | None]],
    group_type: pa.DataType,
) -> pa.Table:
    """rankings.parquet: a row per target x group x layer x channel, sorted so (README, What comes out).

    ranks: those of `rank_tasks`, in its order.
    """
    ordered = sorted(blocks, key=lambda b: b.block.index)
    layers = np.concatenate([np.repeat(b.block.layer, b.block.stop - b.block.start) for b in ordered])
    channels = np.concatenate([np.arange(b.block.start, b.block.stop, dtype=np.int32) for b in ordered])
    norms = np.concatenate([np.asarray(weight_norms[name], np.float64) for name in (y.name for y in plan.layers)])
    return pa.concat_tables(
        _ranking(target, group, group_type, layers, channels, norms, scores, own)
        for (target, group, scores), own in zip(each_ranking(plan, ordered), ranks, strict=True)
    )


def _ranking(
    target: str,
    group: Any,
    group_type: pa.DataType,
    layers: np.ndarray,
    channels: np.ndarray,
    norms: np.ndarray,
    scores: ChannelScores,
    ranks: Ranks,
) -> pa.Table:
    ok = scores.status == OK
    sure = ok & np.isfinite(scores.pseudo).any(axis=1)  # sample-level ACE gives no intervals
    count = len(channels)
    numbers = {name: getattr(scores, name) for name in NUMBERS if name != "weight_norm"} | {"weight_norm": norms}
    return pa.table(
        {
            "target": pa.array([target] * count, pa.string()),
            "group": pa.array([group] * count, group_type),
            "layer": pa.array(layers.tolist(), pa.string()),
            "channel": pa.array(channels, pa.int32()),
            "images": pa.array(scores.images, pa.int64()),
            "rank": pa.array(ranks.rank, pa.int32(), mask=~ok),
            "layer_rank": pa.array(_layer_ranks(layers, ranks.rank, ok), pa.int32(), mask=~ok),
            "rank_low": pa.array(ranks.low, pa.int32(), mask=~sure),
            "rank_high": pa.array(ranks.high, pa.int32(), mask=~sure),
            **{name: pa.array(numbers[name], pa.float64(), mask=np.isnan(numbers[name])) for name in NUMBERS},
            "status": pa.array(scores.status.tolist(), pa.string()),
        }
    )


def _layer_ranks(layers: np.ndarray, rank: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Rank within the layer, from the rank over all layers."""
    result = np.zeros(len(rank), np.int32)
    for layer in np.unique(layers):
        rows = np.flatnonzero((layers == layer) & ok)
        result[rows[np.argsort(rank[rows])]] = np.arange(1, len(rows) + 1)
    return result
