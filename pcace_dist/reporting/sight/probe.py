"""Runs the model once on the fetched rows: outputs, and small activation maps of the wanted channels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcace_dist.artifacts.reading.rows import Fetched
from pcace_dist.models.forward import Forward
from pcace_dist.reporting.sight.tokens import NO_TOKENS, Floats, TokenLayer
from pcace_dist.reporting.source import ReportSource

Wanted = Mapping[int, Mapping[str, tuple[int, ...]]]  # row number: layer: channels


@dataclass
class Probed:
    """The results: small maps, the values of tokens apart from them, and where a map is largest (row, column), by
    (layer, channel) and row number; outputs, labels and groups by row number."""

    maps: dict[tuple[str, int], dict[int, Floats]] = field(default_factory=lambda: defaultdict(dict))
    apart: dict[tuple[str, int], dict[int, Floats]] = field(default_factory=lambda: defaultdict(dict))
    strongest: dict[tuple[str, int], dict[int, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))
    outputs: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    groups: dict[int, Any] = field(default_factory=dict)


class Probe:
    """One forward pass for each batch; keeps only the wanted maps."""

    def __init__(
        self,
        source: ReportSource,
        model: nn.Module,
        device: torch.device,
        batch: int,
        channels_of_row: Wanted,
        tokens: Mapping[str, TokenLayer],
    ) -> None:
        settings = source.origin.job.model.input
        layers = sorted({layer for by_layer in channels_of_row.values() for layer in by_layer})
        self._forward = Forward(model, device, batch, tuple(settings.mean), tuple(settings.std), tuple(layers))
        self._wanted = channels_of_row
        self._tokens = tokens
        self.found = Probed()

    def add(self, fetched: Fetched) -> None:
        """Forward some rows."""

        def receive(name: str, maps: Tensor, shape: tuple[int, ...]) -> None:
            tokens = self._tokens.get(name, NO_TOKENS)
            grid = tokens.grid(shape)
            for position, number in enumerate(fetched.numbers):
                channels = self._wanted.get(number, {}).get(name, ())
                if channels and shape:
                    channel_maps = maps[position, list(channels)].float().cpu()
                    for channel, values in zip(channels, channel_maps, strict=True):
                        picture, apart = tokens.pictures(values, shape)
                        if grid is not None:
                            largest = int(values[len(tokens.apart) :].argmax())
                            self.found.strongest[name, channel][number] = divmod(largest, grid[1])
                        if picture is not None:
                            self.found.maps[name, channel][number] = picture
                        if len(apart):
                            self.found.apart[name, channel][number] = apart

        outputs = self._forward(fetched.images, receive).double().cpu().numpy()
        probed = self.found
        for number, row, label, group in zip(
            fetched.numbers, outputs, fetched.labels.tolist(), fetched.groups, strict=True
        ):
            probed.outputs[number], probed.labels[number], probed.groups[number] = row, label, group
