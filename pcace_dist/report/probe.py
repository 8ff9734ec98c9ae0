"""Runs the model on the fetched rows once: outputs, and small activation maps of the channels that are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcace_dist.models.forward import Forward
from pcace_dist.report.pictures import shrink_map
from pcace_dist.report.rows import Fetched
from pcace_dist.report.source import Source

Wanted = Mapping[int, Mapping[str, tuple[int, ...]]]  # row number: layer: channels


@dataclass
class Probed:
    """What came out: small maps by (row number, layer, channel), outputs and labels by row number."""

    maps: dict[tuple[int, str, int], npt.NDArray[np.float32]] = field(default_factory=dict)
    outputs: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    groups: dict[int, Any] = field(default_factory=dict)


class Probe:
    """One forward pass per batch; keeps nothing but what was asked for."""

    def __init__(self, source: Source, model: nn.Module, device: torch.device, batch: int, wanted: Wanted) -> None:
        settings = source.job.model.input
        layers = sorted({layer for by_layer in wanted.values() for layer in by_layer})
        self._forward = Forward(model, device, batch, tuple(settings.mean), tuple(settings.std), tuple(layers))
        self._wanted = wanted
        self.found = Probed()

    def add(self, fetched: Fetched) -> None:
        """Forward some rows."""

        def receive(name: str, maps: Tensor, shape: tuple[int, ...]) -> None:
            for place, number in enumerate(fetched.numbers):
                channels = self._wanted.get(number, {}).get(name, ())
                if channels and shape:
                    some = maps[place, list(channels)].float().cpu()
                    for channel, values in zip(channels, some, strict=True):
                        small = shrink_map(values, shape)
                        if small is not None:
                            self.found.maps[number, name, channel] = small

        outputs = self._forward(fetched.images, receive).double().cpu().numpy()
        found = self.found
        for number, row, label, group in zip(
            fetched.numbers, outputs, fetched.labels.tolist(), fetched.groups, strict=True
        ):
            found.outputs[number], found.labels[number], found.groups[number] = row, label, group
