"""A plan of two small layers, batches without files, and a forward pass that is a table of maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.loader import Batch
from pcace_dist.datasets.rows import RowRef
from pcace_dist.models.tap import Receive
from pcace_dist.statistics.plan import Plan, build_plan
from pcace_dist.worker.encoder import BatchEncoder

CPU = torch.device("cpu")
ROWS, BATCH, FOLDS = 90, 8, 4
LAYERS = {"small": (3, 4), "large": (5, 9)}  # channels, positions
SHAPES: dict[str, tuple[int, ...]] = {"small": (2, 2), "large": (3, 3)}
TARGET = TargetSpec("output", 0)


def maps_of(rows: int, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, *shape, generator=random) for name, shape in LAYERS.items()}


def outputs_of(maps: dict[str, Tensor]) -> Tensor:
    """Two outputs (n, 2) of the maps."""
    return torch.stack([maps["small"].mean((1, 2)), maps["large"].mean((1, 2))], 1)


def tiny_plan() -> Plan:
    maps = maps_of(200, seed=1)
    return build_plan(
        lambda: iter([maps]),
        SHAPES,
        {TARGET.name: outputs_of(maps)[:, 0].double().numpy()},
        components=2,
        knots=5,
        folds=FOLDS,
        scale="pixel",
        facts={},
    )


class TableForward:
    """Stands in for a model: the images of a row hold its number in a table of maps. Pads as `Forward` does."""

    def __init__(self, maps: dict[str, Tensor], batch: int = BATCH) -> None:
        self.maps = maps
        self.outputs = outputs_of(maps)
        self.batch = batch
        self.calls = 0

    def __call__(self, images: Tensor, receive: Receive) -> Tensor:
        self.calls += 1
        rows = images.flatten(1)[:, 0].long()
        padded = torch.cat([rows, rows[-1:].expand(self.batch - len(rows))])
        for name, maps in self.maps.items():
            receive(name, maps[padded], SHAPES[name])
        return self.outputs[rows]


def batch_of(rows: Sequence[int], *, groups: Sequence[Any] | None = None, kept: bool = False) -> Batch:
    """Rows by their numbers."""
    return Batch(
        images=torch.tensor(rows, dtype=torch.uint8).reshape(-1, 1, 1, 1),
        refs=tuple(RowRef("file", 0, row, f"row-{row}") for row in rows),
        labels=np.array([row % 3 - 1 for row in rows]),
        groups=None if groups is None else tuple(groups),
        columns={},
        fold_keys=np.array(rows, dtype=np.uint64),
        kept=tuple({"number": row} for row in rows) if kept else None,
    )


def tiny_encoder(plan: Plan, **options: Any) -> BatchEncoder:
    layers = {layer.name: layer for layer in plan.layers}
    return BatchEncoder(plan, layers, [TARGET], device=CPU, batch_size=BATCH, **options)
