"""The effects' part of encoding a batch: each row's axis, l, and the values whose effects they are. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.config.targets import TargetSpec, parse_name
from pcace_dist.datasets.groups import name_of
from pcace_dist.datasets.loader import Batch
from pcace_dist.models.device import to_device
from pcace_dist.models.effects.places import Place, tap_name
from pcace_dist.models.forward import Forward
from pcace_dist.models.tap import Receive
from pcace_dist.models.targets import target_values
from pcace_dist.statistics.effects.plan import EffectPlan, LayerEffects
from pcace_dist.worker.effects.choice import PATH
from pcace_dist.worker.effects.image import ImageGradients

Floats: TypeAlias = npt.NDArray[np.float64]
ForwardPass: TypeAlias = Callable[[Tensor, Receive], Tensor]


class EffectRows:
    """Encodes rows under a plan's effects."""

    def __init__(self, plan: EffectPlan, targets: Sequence[TargetSpec], device: torch.device) -> None:
        """targets: the job's."""
        self._plan = plan
        self._device = device
        known = {target.name: target for target in targets}
        self._specs = tuple(known.get(target.of) or parse_name(target.of) for target in plan.targets)
        self.places: Mapping[str, Place] = {name: Place.from_json(own) for name, own in plan.places.items()}
        self._taps = {tap_name(layer.name): layer.to(device) for layer in plan.layers}
        self._layers: Mapping[str, LayerEffects] = {layer.name: layer for layer in self._taps.values()}

    @classmethod
    def of(cls, plan: EffectPlan | None, targets: Sequence[TargetSpec], device: torch.device) -> EffectRows | None:
        """None where no target has effects."""
        return cls(plan, targets, device) if plan is not None and plan.targets else None

    def pass_of(self, forward: Forward) -> Callable[[Batch], ForwardPass]:
        """How a batch is forwarded: as it is, or with its gradients."""
        if not self._plan.of_images:
            return lambda _: forward
        return ImageGradients(forward, self._layers, self._specs, path=self._plan.gradient == PATH).of

    def axes_of(self, batch: Batch) -> Tensor:
        """Each row's axis for every target, int64 (n, E); -1 where it has none."""
        groups = None if batch.groups is None else [name_of(group) for group in batch.groups]
        return self._plan.axes_of(batch.labels, groups, len(batch))

    def projector(self, axes: Tensor) -> Callable[[str, Tensor, dict[str, Tensor]], None]:
        """For one batch of n rows with these axes: takes maps by their name, padded or not, and puts l, float32 (n, C,
        E), under the layer's name. Maps of other names are passed over."""
        rows = len(axes)
        on_device: list[Tensor] = []

        def project(name: str, maps: Tensor, effects: dict[str, Tensor]) -> None:
            layer = self._taps.get(name)
            if layer is None:
                return
            if self._plan.of_images:  # these are l already
                effects[layer.name] = maps[:rows]
                return
            if not on_device:  # once for all layers
                padding = torch.full((len(maps) - rows, axes.shape[1]), -1, dtype=axes.dtype)
                on_device.append(to_device(torch.cat([axes, padding]), self._device))
            effects[layer.name] = layer.project(maps, on_device[0])[:rows]

        return project

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
