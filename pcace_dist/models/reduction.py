"""Outputs with positions: a segmentation network or a detection head gives a number for every class at every position.
A target's `reduce` makes one number a class of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pcace_dist.config.targets import AREA, FIRST, LAST, MAX, Reduction
from pcace_dist.errors import ModelError
from pcace_dist.models.outputs import as_matrix, find_maps, shape_of

CLASSES_FIRST = (4, 5)  # axes of an output whose second axis is the class, as networks of 2-d and 3-d convolutions have


class ReduceMaps:
    """A forward hook of the whole model: returns the outputs (B, K) of a model whose outputs have positions.

    mean: of the class's map, in float32 at least. max: its largest value. area: the share (0 to 1) of the positions
    where the class has the largest output; of a single class, where its output is above 0.
    """

    def __init__(self, reduction: Reduction) -> None:
        self._reduction = reduction

    def __call__(self, _model: nn.Module, _args: object, outputs: object) -> object:
        maps = find_maps(outputs)
        if maps is None:
            if not self._reduction.required:
                return outputs
            as_matrix(outputs)  # says what is wrong where they are no matrix either
            raise ModelError(
                f"target: reduce {self._reduction.how}: the model's outputs have no positions, as maps (images, "
                "classes, height, width) have; leave reduce out"
            )
        return reduced(self._positions_last(maps), self._reduction.how)

    def _positions_last(self, maps: Tensor) -> Tensor:
        """(B, K, positions), contiguous: where a sum begins must not depend on how the model laid its output out."""
        axis = self._reduction.axis or (FIRST if maps.dim() in CLASSES_FIRST or not self._reduction.required else None)
        if axis is None:
            how, shape = self._reduction.how, shape_of(maps)
            raise ModelError(
                f"target: reduce {how}: the model returns {shape}, which does not say where the classes are; write "
                f"{{..., reduce: {how}, classes: last}} for (images, positions, classes), or classes: first"
            )
        return (maps.movedim(-1, 1) if axis == LAST else maps).flatten(2).contiguous()


def reduced(maps: Tensor, how: str) -> Tensor:
    """Maps (B, K, positions) to (B, K); the gradient of a maximum is shared by the positions that have it."""
    if how == AREA:
        return _areas(maps)
    if how == MAX:
        return maps.amax(dim=2)
    return (maps.float() if maps.element_size() < 4 else maps).mean(dim=2)


def _areas(maps: Tensor) -> Tensor:
    images, classes, positions = maps.shape
    if classes == 1:
        return (maps > 0).float().mean(dim=2)
    first = classes * torch.arange(images, device=maps.device)[:, None]
    counts = (maps.argmax(dim=1) + first).flatten().bincount(minlength=images * classes)
    return counts.reshape(images, classes).float() / positions


def reduce_maps(model: nn.Module, reduction: Reduction | None) -> nn.Module:
    """The same model; from here on its outputs are reduced to one number a class."""
    if reduction is not None:
        model.register_forward_hook(ReduceMaps(reduction))
    return model
