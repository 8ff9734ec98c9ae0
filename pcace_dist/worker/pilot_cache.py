"""Batches that the pilot has forwarded and that the main pass need not forward again.

A pilot that takes every row of a small data set reads exactly the batches of the main pass, unit by unit. Maps and
outputs depend on model and batch alone, so a cached batch gives the same bits as another forward pass would. No Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # a run from codes has no use for images and models, and does not import what they need
    from pcace_dist.datasets.loader import Batch
    from pcace_dist.datasets.rows import BadRow
    from pcace_dist.models.tap import Receive


@dataclass(frozen=True, eq=False)
class CachedBatch:
    """A batch of n rows with what the model gave for it; the forward pass had `batch_size` rows, the padding included.

    batch: without its pixels: images (n, 0). maps: (n, C, D) by layer, contiguous. shapes: of the maps' positions, by
    layer. channels_last: the layers whose maps came out of the model channels-last. outputs: (n, O).
    """

    batch: Batch
    maps: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    channels_last: Collection[str]
    outputs: Tensor
    batch_size: int

    @torch.inference_mode()
    def forward(self, images: Tensor, receive: Receive) -> Tensor:
        """Stands in for `Forward` on this batch: hands the maps on, padded to the batch size, and returns the outputs.

        The padding is needed: a product of fewer rows may have other bits. What it holds changes no other row.
        Raises ValueError for another number of images.
        """
        if len(images) != len(self.batch):
            raise ValueError(f"{len(images)} images: {len(self.batch)} were forwarded")
        missing = self.batch_size - len(images)
        for name, maps in self.maps.items():
            padded = torch.cat([maps, maps[-1:].expand(missing, *maps.shape[1:])]) if missing else maps
            if name in self.channels_last:  # the bits of what is computed from them may depend on their layout
                padded = padded.transpose(1, 2).contiguous().transpose(1, 2)
            receive(name, padded, self.shapes[name])
        return self.outputs


@dataclass(frozen=True, eq=False)
class CachedUnit:
    """All batches of a unit, and what its stream knew when it was read (datasets.loader.UnitStream)."""

    batches: tuple[CachedBatch, ...]
    bad: tuple[BadRow, ...]
    filtered: int
    bytes_read: int
    unlabelled: int = 0


@dataclass(eq=False)
class PilotCache:
    """What the pilot has forwarded in this process.

    units: by unit id. plan: the digest of the plan that the pilot made; None where it took another run's plan.
    repeats: whether the pilot has seen two copies of the model give the same bits.
    """

    units: dict[str, CachedUnit] = field(default_factory=dict)
    plan: str | None = None
    repeats: bool = False

    def clear(self) -> None:
        self.units.clear()
        self.plan, self.repeats = None, False

    def take(self, unit: str) -> CachedUnit | None:
        """A unit's batches, which leave the cache; None where the pilot did not forward the unit."""
        return self.units.pop(unit, None)
