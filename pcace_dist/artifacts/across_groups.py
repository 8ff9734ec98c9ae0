"""rankings_across_groups.parquet: what the rankings of many groups have in common, channel by channel. Pure; no Ray.

A row per target, layer and channel: in how many groups it is ranked and among the best TOP, and mean, spread and
extremes of its score and rank over these groups; the same of its effect, over the groups where it has one. All groups
share the plan, so that their scores compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pcace_dist.artifacts.block_scores import BlockScores, each_result
from pcace_dist.artifacts.columns import CHANNEL, LAYER, TARGET, Column, Table
from pcace_dist.artifacts.encoding import parquet_bytes
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.ranks import Ranks
from pcace_dist.statistics.score import OK
from pcace_dist.storage.store import Sink

TOP = 20

TABLE = Table(
    "rankings_across_groups.parquet",
    "Only with `group_by`. A row per target, layer and channel, in the order of the rankings.",
    (
        TARGET,
        LAYER,
        CHANNEL,
        Column("groups", "int32", "groups in which the channel is ranked; where it is 0, the columns below are null"),
        Column(f"groups_in_top_{TOP}", "int32", f"groups in which its rank is {TOP} or better; 0 where there are none"),
        Column("mean_score", "float64", "mean of `score` over these groups"),
        Column("sd_score", "float64", "standard deviation of `score` over these groups"),
        Column("lowest_score", "float64", "the lowest `score`"),
        Column("highest_score", "float64", "the highest `score`"),
        Column("mean_rank", "float64", "mean of `rank`"),
        Column("best_rank", "int32", "the best `rank`"),
        Column(
            "groups_with_effect", "int32", "groups in which it has an effect; where it is 0, the columns below are null"
        ),
        Column("mean_effect", "float64", "mean of `effect` over these groups"),
        Column("sd_effect", "float64", "standard deviation of `effect` over these groups"),
        Column("lowest_effect", "float64", "the lowest `effect`"),
        Column("highest_effect", "float64", "the highest `effect`"),
        Column("mean_effect_rank", "float64", "mean of `effect_rank`"),
    ),
)


class _Effects:
    """Sums of effects over the groups that have them."""

    def __init__(self, channels: int) -> None:
        self.groups = np.zeros(channels, np.int32)
        self.effect, self.square, self.rank = np.zeros(channels), np.zeros(channels), np.zeros(channels)
        self.lowest, self.highest = np.full(channels, np.inf), np.full(channels, -np.inf)

    def add(self, effect: np.ndarray, rank: np.ndarray, ok: np.ndarray) -> None:
        self.groups += ok
        self.effect[ok] += effect[ok]
        self.square[ok] += effect[ok] ** 2
        self.rank[ok] += rank[ok]
        self.lowest[ok] = np.minimum(self.lowest[ok], effect[ok])
        self.highest[ok] = np.maximum(self.highest[ok], effect[ok])

    def columns(self) -> dict[str, pa.Array]:
        count, none = np.maximum(1, self.groups), self.groups == 0
        mean = self.effect / count
        numbers = {
            "mean_effect": mean,
            "sd_effect": np.sqrt(np.maximum(0, self.square / count - mean**2)),
            "lowest_effect": self.lowest,
            "highest_effect": self.highest,
            "mean_effect_rank": self.rank / count,
        }
        columns = {name: pa.array(values, pa.float64(), mask=none) for name, values in numbers.items()}
        return {"groups_with_effect": pa.array(self.groups, pa.int32()), **columns}


class _Sums:
    """Sums over groups for all channels of one target."""

    def __init__(self, channels: int) -> None:
        self.groups, self.in_top = np.zeros(channels, np.int32), np.zeros(channels, np.int32)
        self.score, self.square, self.rank = np.zeros(channels), np.zeros(channels), np.zeros(channels)
        self.lowest, self.highest = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.best_rank = np.full(channels, np.iinfo(np.int32).max, np.int32)
        self.effect = _Effects(channels)

    def add(self, score: np.ndarray, rank: np.ndarray, ok: np.ndarray) -> None:
        self.groups += ok
        self.in_top += ok & (rank <= TOP)
        self.score[ok] += score[ok]
        self.square[ok] += score[ok] ** 2
        self.rank[ok] += rank[ok]
        self.lowest[ok] = np.minimum(self.lowest[ok], score[ok])
        self.highest[ok] = np.maximum(self.highest[ok], score[ok])
        self.best_rank[ok] = np.minimum(self.best_rank[ok], rank[ok])


def across_groups_table(plan: Plan, blocks: Sequence[BlockScores], ranks: Sequence[Ranks]) -> pa.Table:
    """Rows in the order of rankings.parquet. Numbers are null for channels that no group ranks."""
    layers = [layer.name for layer in plan.layers for _ in range(layer.channels)]
    channels = np.concatenate([np.arange(layer.channels, dtype=np.int32) for layer in plan.layers])
    sums = {target.name: _Sums(len(channels)) for target in plan.targets}
    results = zip(each_result(plan, blocks), ranks[::2], ranks[1::2], strict=True)
    for (target, _, scores, effects), by_score, by_effect in results:
        sums[target].add(scores.score, by_score.rank, scores.status == OK)
        sums[target].effect.add(effects.effect, by_effect.rank, effects.status == OK)
    return pa.concat_tables(_table(name, layers, channels, target_sums) for name, target_sums in sums.items())


def _table(target: str, layers: Sequence[str], channels: np.ndarray, sums: _Sums) -> pa.Table:
    none = sums.groups == 0
    count = np.maximum(1, sums.groups)
    mean = sums.score / count
    spread = np.sqrt(np.maximum(0, sums.square / count - mean**2))
    return pa.table(
        {
            "target": pa.array([target] * len(channels), pa.string()),
            "layer": pa.array(layers, pa.string()),
            "channel": pa.array(channels, pa.int32()),
            "groups": pa.array(sums.groups, pa.int32()),
            f"groups_in_top_{TOP}": pa.array(sums.in_top, pa.int32()),
            "mean_score": pa.array(mean, pa.float64(), mask=none),
            "sd_score": pa.array(spread, pa.float64(), mask=none),
            "lowest_score": pa.array(sums.lowest, pa.float64(), mask=none),
            "highest_score": pa.array(sums.highest, pa.float64(), mask=none),
            "mean_rank": pa.array(sums.rank / count, pa.float64(), mask=none),
            "best_rank": pa.array(sums.best_rank, pa.int32(), mask=none),
            **sums.effect.columns(),
        }
    )


def publish_across_groups(sink: Sink, table: pa.Table) -> None:
    sink.put(TABLE.file, parquet_bytes(table))
