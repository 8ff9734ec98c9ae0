"""Ablation: some channels of one layer are replaced by a constant map, and the effect on a target is measured. No Ray.

mean     the channel's mean map over given images
zero     0 everywhere
bias     the value for which the batch norm that follows gives its bias, that is its running mean; where the layer is a
         batch norm itself, its bias. Only for layers with a batch norm
optimal  the mean map plus a number for each channel, those of a set together, for which the target changes least on
         given images (optimal.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from pcace_dist.models.tap import channels_last

Floats: TypeAlias = npt.NDArray[np.float64]

MEAN, ZERO, BIAS, OPTIMAL = "mean", "zero", "bias", "optimal"
UNASKED = (MEAN, ZERO, BIAS)  # optimal forwards the images once more for each of its steps
BLOCKS = 16  # of the images on which effects are measured; each is left out in turn


class Ablation:
    """While entered, every forward pass has `values` in `channels` of `layer` instead of what the layer computes.

    values: (C, D). D: the positions of the layer's map, or 1 for the same value everywhere.
    """

    def __init__(self, model: nn.Module, layer: str, channels: Sequence[int], values: Tensor) -> None:
        self._module = model.get_submodule(layer)
        self._channels = torch.tensor(list(channels), dtype=torch.int64)
        self._values = values[self._channels]
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> Ablation:
        self._handle = self._module.register_forward_hook(self._replace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _replace(self, module: nn.Module, _: Any, output: Any) -> Any:
        tensor = output[0] if isinstance(output, tuple | list) else output
        changed = tensor.clone()
        if changed.dim() == 3 and getattr(module, "batch_first", True) is False:
            maps = changed.permute(1, 2, 0)  # tokens lie as (N, B, C)
        else:
            maps = changed.movedim(-1, 1) if channels_last(module, changed.dim()) else changed
        values = self._given().to(maps.device, maps.dtype)
        shape = maps.shape[2:] if values.shape[-1] > 1 else (1,) * (maps.dim() - 2)
        maps[:, self._channels.to(maps.device)] = values.reshape(*values.shape[:-1], *shape)
        return (changed, *output[1:]) if isinstance(output, tuple | list) else changed

    def _given(self) -> Tensor:
        """What the channels get: (S, D) or (S, 1), or of each image (B, S, D)."""
        return self._values


def norm_behind(model: nn.Module, layer: str, images: Tensor) -> _BatchNorm | None:
    """The batch norm whose input is a layer's unchanged output, or the layer itself if it is one. Runs the model once.

    images: a batch as the model takes it.
    """
    module = model.get_submodule(layer)
    if isinstance(module, _BatchNorm):
        return module
    outputs: list[object] = []
    norms: list[_BatchNorm] = []

    def remember(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append(output)

    def look(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(norm, _BatchNorm) and outputs and inputs and inputs[0] is outputs[-1]:
            norms.append(norm)

    handles = [module.register_forward_hook(remember)]
    handles += [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, _BatchNorm)]
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return norms[0] if norms else None


def bias_values(model: nn.Module, layer: str, images: Tensor) -> Tensor | None:
    """The values (C, 1) that the replacement `bias` puts in; None for a layer without a batch norm."""
    norm = norm_behind(model, layer, images)
    if norm is None:
        return None
    if norm is model.get_submodule(layer):
        shift: Tensor = torch.zeros(norm.num_features) if norm.bias is None else norm.bias
    elif norm.running_mean is None:
        return None
    else:
        shift = norm.running_mean
    return shift.detach().float().cpu().unsqueeze(1)


@dataclass(frozen=True)
class Effect:
    """The effect of an ablation on a target.

    lost: 1 - r^2 between the target with and without the ablation; 1 where the target no longer varies. change: mean
    of the target after the ablation minus before. accuracy: share of labelled images whose largest output is their
    class; NaN without labels. changed: variance of that change over the target's: it sees a part that is proportional
    to the target, too. without: lost, changed and accuracy without each block of images in turn, three times the
    number of blocks.
    """

    lost: float
    change: float
    accuracy: float
    changed: float = float("nan")
    without: tuple[tuple[float, ...], ...] = ((), (), ())


def effect(before: Floats, after: Floats, correct: Floats | None, blocks: npt.NDArray[np.int64]) -> Effect:
    """The effect, from the target's values (n,) before and after.

    correct: (n,), 1 or 0 where a labelled image is classified right or wrong, else NaN. blocks: (n,), each image's
    block, from 0.
    """
    lost, changed = lost_and_changed(before, after, blocks)
    accuracy = _means(np.full(len(before), np.nan) if correct is None else correct, blocks)
    every = (lost, changed, accuracy)
    return Effect(
        lost=float(lost[0]),
        change=float(np.mean(after - before)),
        accuracy=float(accuracy[0]),
        changed=float(changed[0]),
        without=tuple(tuple(values[1:].tolist()) for values in every),
    )


def lost_and_changed(before: Floats, after: Floats, blocks: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """1 - r^2 between two series (n,), and the variance of their difference over that of the first: both of all
    values, then without each of B blocks in turn (1 + B,).

    1 - r^2 is 1 where the second does not vary. Both are NaN where the first does not.
    """
    a, b = before - before.mean(), after - after.mean()
    n, *sums = (_without(values, blocks) for values in (np.ones(len(a)), a, b, a * a, b * b, a * b))
    sum_a, sum_b, aa, bb, ab = (total / np.maximum(n, 1) for total in sums)
    aa, bb, ab = aa - sum_a**2, bb - sum_b**2, ab - sum_a * sum_b
    varies = aa * n > 1e-24 * max(1.0, float(before @ before))
    varies_after = bb > 1e-12 * aa
    r_squared = np.where(varies_after, ab**2 / np.where(varies & varies_after, aa * bb, 1.0), 0.0)
    lost = np.where(varies, np.clip(1 - r_squared, 0.0, 1.0), np.nan)
    changed = np.where(varies, np.maximum(0.0, aa + bb - 2 * ab) / np.where(varies, aa, 1.0), np.nan)
    return lost, changed


def _means(values: Floats, blocks: npt.NDArray[np.int64]) -> Floats:
    """The mean of all values that are no NaN, then without each block (1 + B,); NaN where there are none."""
    known = np.isfinite(values)
    total, count = _without(np.where(known, values, 0.0), blocks), _without(known.astype(np.float64), blocks)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _without(values: Floats, blocks: npt.NDArray[np.int64]) -> Floats:
    """The sum of all values (n,), then without each block (1 + B,)."""
    total = values.sum()
    return np.concatenate([[total], total - np.bincount(blocks, weights=values)])
