"""What a pilot that took every row leaves to the main pass: its batches, which need not be forwarded again.

A pilot of a small data set reads the very batches of the main pass, unit by unit. Maps and outputs depend on nothing
but model and batch, so what is kept here gives the bits that another forward pass would give. No Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcace_dist.datasets.loader import Batch
from pcace_dist.datasets.rows import BadRow
from pcace_dist.models.tap import Receive


@dataclass(frozen=True, eq=False)
class Forwarded:
    """A batch of n rows as it went through the model, padded to `batch_size`: maps (n, C, D) and the shape of their
    positions by layer, and the outputs (n, O), all without the padding. `batch` is without its pixels: images (n, 0).
    `channels_last`: the layers whose maps lay so when they came out of the model; here they are contiguous."""

    batch: Batch
    maps: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    channels_last: Collection[str]
    outputs: Tensor
    batch_size: int

    @torch.inference_mode()
    def again(self, images: Tensor, receive: Receive) -> Tensor:
        """As `Forward` with the images of the batch: hands on the maps, with some padding, and gives the outputs.

        A product of fewer rows may have other bits; what the padding holds changes none of them.
        """
        if len(images) != len(self.batch):
            raise ValueError(f"{len(images)} images: {len(self.batch)} were forwarded")
        missing = self.batch_size - len(images)
        for name, maps in self.maps.items():
            padded = torch.cat([maps, maps[-1:].expand(missing, *maps.shape[1:])]) if missing else maps
            if name in self.channels_last:  # what is computed of them may depend on how they lie
                padded = padded.transpose(1, 2).contiguous().transpose(1, 2)
            receive(name, padded, self.shapes[name])
        return self.outputs


@dataclass(frozen=True, eq=False)
class ForwardedUnit:
    """All batches of a unit, and what a stream knows of it when it is read (datasets.loader.UnitStream)."""

    passes: tuple[Forwarded, ...]
    bad: tuple[BadRow, ...]
    filtered: int
    bytes_read: int


@dataclass(eq=False)
class Leftovers:
    """By unit id what the pilot has forwarded; and the digest of the plan that it made, None where it took another
    run's. Of one process."""

    units: dict[str, ForwardedUnit] = field(default_factory=dict)
    plan: str | None = None

    def clear(self) -> None:
        self.units.clear()
        self.plan = None

    def take(self, unit: str) -> ForwardedUnit | None:
        """What there is of a unit; it is not kept any longer."""
        return self.units.pop(unit, None)
