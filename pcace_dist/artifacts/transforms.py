"""Which transforms are published: theta and phi_j of all channels of a small run, of the best and worst of a large one.

transforms.parquet must stay small whatever the number of groups, targets and channels, and a report shows some tens of
channels of a layer. So: at most MOST_ROWS rows, divided evenly over targets x groups x layers, two thirds of them for
the best of the layer and one third for the worst. Everything else could be solved again from the attempts. Pure; no
I/O, no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.artifacts.columns import KEYS, Column, Table
from pcace_dist.artifacts.encoding import parquet_bytes
from pcace_dist.datasets.groups import group_order
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.score import OK, ChannelScores
from pcace_dist.storage.store import Sink

MOST_ROWS = 100_000  # 43 MB before compression at five components and nine knots

TABLE = Table(
    "transforms.parquet",
    f"A row per target, group, layer and channel, in the order of the rankings; of runs with more than {MOST_ROWS:,} "
    "such rows the best and the worst channels of each layer.",
    (
        *KEYS,
        Column("target_knots", "list of float64", "K knots of the target"),
        Column("theta", "list of float32", "theta at these knots: straight between them, constant beyond"),
        Column("knots", "list of float32", "K knots of component 1, then of 2, ..."),
        Column("phi", "list of float32", "phi_j at these knots"),
    ),
)


@dataclass(frozen=True, eq=False)
class BlockTransforms:
    """Transforms of c channels of one layer for one target and group.

    scores: float64 (c,), unclipped; phi: float32 (c, p, K); theta: float32 (c, K).
    """

    target: int
    group: Any
    layer: str
    channels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    phi: npt.NDArray[np.float32]
    theta: npt.NDArray[np.float32]

    def best_and_worst(self, best: int, worst: int) -> BlockTransforms:
        """The best and worst of the channels, in the order of their numbers."""
        if len(self.channels) <= best + worst:
            return self
        order = np.lexsort((self.channels, -self.scores))
        chosen = np.sort(np.concatenate([order[:best], order[len(order) - worst :]]))
        parts = (getattr(self, name)[chosen] for name in ("channels", "scores", "phi", "theta"))
        return BlockTransforms(self.target, self.group, self.layer, *parts)

    @staticmethod
    def cat(parts: Sequence[BlockTransforms]) -> BlockTransforms:
        """Blocks of one target, group and layer, in the order of the channels."""
        ordered = sorted(parts, key=lambda part: part.channels[:1].tolist())
        joined = (
            np.concatenate([getattr(p, name) for p in ordered]) for name in ("channels", "scores", "phi", "theta")
        )
        return BlockTransforms(ordered[0].target, ordered[0].group, ordered[0].layer, *joined)


def best_and_worst_counts(plan: Plan, groups: int) -> tuple[int, int]:
    """How many of the best and of the worst channels of a layer are published, for every target and group."""
    count = max(3, MOST_ROWS // max(1, len(plan.targets) * groups * len(plan.layers)))
    return count - count // 3, count // 3


def pick_transforms(
    plan: Plan, layer: str, start: int, scores: Mapping[Any, Sequence[ChannelScores]]
) -> list[BlockTransforms]:
    """Transforms of the best and worst channels of a block: that of `layer` which begins at channel `start`.

    The layer's best and worst are among them. scores: for each group a ChannelScores per target, with transforms.
    """
    picked = []
    for group, by_target in scores.items():
        for target, of_target in enumerate(by_target):
            ok = np.flatnonzero(of_target.status == OK)
            channels = (start + ok).astype(np.int32)
            all_ok = BlockTransforms(
                target, group, layer, channels, of_target.score_squared[ok], of_target.phi[ok], of_target.theta[ok]
            )
            picked.append(all_ok.best_and_worst(*best_and_worst_counts(plan, len(scores))))
    return picked


def transforms_table(plan: Plan, blocks: Sequence[BlockTransforms], group_type: pa.DataType) -> pa.Table:
    """transforms.parquet: a row per target, group, layer and channel, in the rankings' order (docs/outputs.md)."""
    parts: dict[tuple[int, Any, str], list[BlockTransforms]] = {}
    for block in blocks:
        parts.setdefault((block.target, block.group, block.layer), []).append(block)
    share = best_and_worst_counts(plan, len({block.group for block in blocks}))
    layers = {layer.name: index for index, layer in enumerate(plan.layers)}
    order = sorted(parts, key=lambda key: (key[0], group_order(key[1]), layers[key[2]]))
    curves = [BlockTransforms.cat(parts[key]).best_and_worst(*share) for key in order]
    counts = [len(c.channels) for c in curves]
    axes = {layer.name: layer.knots.numpy() for layer in plan.layers}

    def repeated(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([value for value, count in zip(values, counts, strict=True) for _ in range(count)], kind)

    return pa.table(
        {
            "target": repeated([plan.targets[c.target].name for c in curves], pa.string()),
            "group": repeated([c.group for c in curves], group_type),
            "layer": repeated([c.layer for c in curves], pa.string()),
            "channel": pa.array([channel for c in curves for channel in c.channels.tolist()], pa.int32()),
            "target_knots": _lists(
                [np.tile(plan.targets[c.target].knots, len(c.channels)) for c in curves], plan.knots, np.float64
            ),
            "theta": _lists([c.theta for c in curves], plan.knots, np.float32),
            "knots": _lists([axes[c.layer][c.channels] for c in curves], plan.components * plan.knots, np.float32),
            "phi": _lists([c.phi for c in curves], plan.components * plan.knots, np.float32),
        }
    )


def _lists(parts: Sequence[npt.NDArray[Any]], width: int, kind: type) -> pa.Array:
    """All values one after the other, as a column of lists of `width`."""
    flat: npt.NDArray[Any] = np.concatenate([*(part.reshape(-1) for part in parts), np.empty(0)]).astype(kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), width)


def publish_transforms(sink: Sink, plan: Plan, curves: Sequence[BlockTransforms], group_type: pa.DataType) -> None:
    """transforms.parquet: theta and phi of the channels that `best_and_worst` chooses."""
    sink.put(TABLE.file, parquet_bytes(transforms_table(plan, curves, group_type)))
