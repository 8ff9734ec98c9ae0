"""Effects by every image's own gradient: passes with a backward pass for each target, in place of plain ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.loader import Batch
from pcace_dist.models.effects.places import tap_name
from pcace_dist.models.forward import Forward
from pcace_dist.models.tap import Receive
from pcace_dist.models.targets import target_tensor
from pcace_dist.statistics.effects.plan import LayerEffects


class ImageGradients:
    """Forwards batches with their gradients. Hands on l, float32 (B, C, E), under the name of each layer's place."""

    def __init__(
        self, forward: Forward, layers: Mapping[str, LayerEffects], specs: Sequence[TargetSpec], *, path: bool
    ) -> None:
        """layers: on the device. specs: the functions whose effects are taken. path: gradients are means along one."""
        self._forward = forward
        self._layers = layers
        self._specs = specs
        self._means = {name: layer.mean_of_positions for name, layer in layers.items()} if path else None

    def of(self, batch: Batch) -> Callable[[Tensor, Receive], Tensor]:
        """The pass of one batch, as `Forward`."""
        return partial(self._run, batch)

    def _run(self, batch: Batch, images: Tensor, receive: Receive) -> Tensor:
        targets = [
            partial(self._values, spec, rows=len(images), labels=batch.labels, columns=batch.columns)
            for spec in self._specs
        ]
        outputs, maps, found = self._forward.with_gradients(images, receive, targets, self._means)
        with torch.no_grad():
            for name, layer in self._layers.items():
                parts = [own[name] for own in found]
                values = [
                    torch.zeros(maps[name].shape[:2], device=maps[name].device)
                    if gradient is None
                    else layer.along(maps[name], gradient)
                    for gradient in parts
                ]
                receive(tap_name(name), torch.stack(values, 2), ())
        return outputs

    @staticmethod
    def _values(spec: TargetSpec, outputs: Tensor, *, rows: int, **known: object) -> Tensor:
        """The target of the rows that are no padding."""
        return target_tensor(spec, outputs[:rows], **known)  # type: ignore[arg-type]
