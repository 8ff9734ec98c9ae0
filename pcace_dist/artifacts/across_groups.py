"""rankings_across_groups.parquet: what the rankings of many groups have in common, channel by channel. Pure; no Ray.

A row per target, layer and channel: in how many groups it is ranked and among the best TOP, and mean, spread and
extremes of its score and rank over these groups; the same of its effect, over the groups where it has one. All groups
share the plan, so that their scores compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pcace_dist.artifacts.block_scores import BlockScores, each_ranked
from pcace_dist.artifacts.columns import CHANNEL, LAYER, TARGET, Column, Table
from pcace_dist.artifacts.encoding import parquet_bytes
from pcace_dist.statistics.order.ranks import Ranks
from pcace_dist.statistics.plan import Plan
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


class _OverGroups:
    """Mean, spread and extremes of one value of all channels, a score or an effect, over the groups that have it."""

    def __init__(self, channels: int) -> None:
        self.groups, self.in_top = np.zeros(channels, np.int32), np.zeros(channels, np.int32)
        self._sum, self._square, self._ranks = np.zeros(channels), np.zeros(channels), np.zeros(channels)
        self._lowest, self._highest = np.full(channels, np.inf), np.full(channels, -np.inf)
        self._best_rank = np.full(channels, np.iinfo(np.int32).max, np.int32)

    def add(self, value: np.ndarray, rank: np.ndarray, ok: np.ndarray) -> None:
        """Add a group: values and ranks (channels,), which count where `ok`."""
        self.groups += ok
        self.in_top += ok & (rank <= TOP)
        self._sum[ok] += value[ok]
        self._square[ok] += value[ok] ** 2
        self._ranks[ok] += rank[ok]
        self._lowest[ok] = np.minimum(self._lowest[ok], value[ok])
        self._highest[ok] = np.maximum(self._highest[ok], value[ok])
        self._best_rank[ok] = np.minimum(self._best_rank[ok], rank[ok])

    def columns(self, value: str, rank: str) -> dict[str, pa.Array]:
        """Columns by name, of a value and its rank of these names; null where no group has it."""
        count = np.maximum(1, self.groups)
        mean = self._sum / count
        numbers = {
            f"mean_{value}": mean,
            f"sd_{value}": np.sqrt(np.maximum(0, self._square / count - mean**2)),
            f"lowest_{value}": self._lowest,
            f"highest_{value}": self._highest,
            f"mean_{rank}": self._ranks / count,
            f"best_{rank}": self._best_rank,
        }
        return {name: pa.array(values, mask=self.groups == 0) for name, values in numbers.items()}


def across_groups_table(plan: Plan, blocks: Sequence[BlockScores], ranks: Sequence[Ranks]) -> pa.Table:
    """Rows in the order of rankings.parquet. Numbers are null for channels that no group ranks."""
    layers = [layer.name for layer in plan.layers for _ in range(layer.channels)]
    channels = np.concatenate([np.arange(layer.channels, dtype=np.int32) for layer in plan.layers])
    scores = {target.name: _OverGroups(len(channels)) for target in plan.targets}
    effects = {target.name: _OverGroups(len(channels)) for target in plan.targets}
    for ranked in each_ranked(plan, blocks, ranks):
        scores[ranked.target].add(ranked.scores.score, ranked.by_score.rank, ranked.scores.status == OK)
        effects[ranked.target].add(ranked.effects.effect, ranked.by_effect.rank, ranked.effects.status == OK)
    return pa.concat_tables(_table(name, layers, channels, scores[name], effects[name]) for name in scores)


def _table(
    target: str, layers: Sequence[str], channels: np.ndarray, scores: _OverGroups, effects: _OverGroups
) -> pa.Table:
    columns = {
        "target": pa.array([target] * len(channels), pa.string()),
        "layer": pa.array(layers, pa.string()),
        "channel": pa.array(channels, pa.int32()),
        "groups": pa.array(scores.groups, pa.int32()),
        f"groups_in_top_{TOP}": pa.array(scores.in_top, pa.int32()),
        "groups_with_effect": pa.array(effects.groups, pa.int32()),
        **scores.columns("score", "rank"),
        **effects.columns("effect", "effect_rank"),
    }
    return pa.table({column.name: columns[column.name] for column in TABLE.columns})


def publish_across_groups(sink: Sink, table: pa.Table) -> None:
    sink.put(TABLE.file, parquet_bytes(table))
