"""The effects' part of encoding a batch: each row's axis, l, and the values whose effects they are. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.config.targets import parse_name
from pcace_dist.datasets.groups import name_of
from pcace_dist.datasets.loader import Batch
from pcace_dist.models.places import Place, tap_name
from pcace_dist.models.targets import target_values
from pcace_dist.statistics.effects.plan import EffectPlan, LayerEffects

Floats: TypeAlias = npt.NDArray[np.float64]


class EffectRows:
    """Encodes rows under a plan's effects."""

    def __init__(self, plan: EffectPlan, device: torch.device) -> None:
        self._plan = plan
        self._device = device
        self._specs = tuple(parse_name(target.of) for target in plan.targets)
        self.places: Mapping[str, Place] = {name: Place.from_json(own) for name, own in plan.places.items()}
        self._taps = {tap_name(layer.name): layer.to(device) for layer in plan.layers}
        self._layers = {layer.name: layer for layer in self._taps.values()}

    @classmethod
    def of(cls, plan: EffectPlan | None, device: torch.device) -> EffectRows | None:
        """None where no target has effects."""
        return cls(plan, device) if plan is not None and plan.targets else None

    def of_tap(self, name: str) -> LayerEffects | None:
        """The layer whose effect is taken from the maps of this name; None where they are a layer's own."""
        return self._taps.get(name)

    def axes_of(self, batch: Batch) -> Tensor:
        """Each row's axis for every target, int64 (n, E); -1 where it has none."""
        groups = None if batch.groups is None else [name_of(group) for group in batch.groups]
        return self._plan.axes_of(batch.labels, groups, len(batch))

    def on_device(self, axes: Tensor, rows: int) -> Tensor:
        """The axes on the device, -1 for the rows that pad a batch to `rows`."""
        padding = torch.full((rows - len(axes), axes.shape[1]), -1, dtype=axes.dtype)
        return torch.cat([axes, padding]).to(self._device)

    def values(self, outputs: Tensor, batch: Batch, axes: Tensor) -> Floats:
        """Values of the targets float64 (n, E); NaN where a row has no axis or no value."""
        values, _ = target_values(self._specs, outputs, batch.labels, batch.columns)
        return np.where(axes.numpy() >= 0, values, np.nan)

    def encode(self, layer: str, values: Tensor) -> Tensor:
        """l as int16 (n, C, E)."""
        return self._layers[layer].encode(values)


def encode_values(plan: EffectPlan, values: Floats) -> Tensor:
    """Values float64 (n, E) as int16, MISSING for NaN."""
    exact = torch.from_numpy(values)
    return plan.encode_targets(exact, torch.zeros_like(exact, dtype=torch.int64))
