"""Ablation: some channels of one layer are replaced by a constant map, and the effect on a target is measured. No Ray.

mean     the channel's mean map over given images
zero     0 everywhere
bias     the value for which the batch norm that follows gives its bias, that is its running mean; where the layer is a
         batch norm itself, its bias. Only for layers with a batch norm
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

MEAN, ZERO, BIAS = "mean", "zero", "bias"
REPLACEMENTS = (MEAN, ZERO, BIAS)


class Ablation:
    """While entered, every forward pass has `values` in `channels` of `layer` instead of what the layer computes.

    values: (C, D). D: the positions of the layer's map, or 1 for the same value everywhere.
    """

    def __init__(self, model: nn.Module, layer: str, channels: Sequence[int], values: Tensor) -> None:
        self._module = model.get_submodule(layer)
        self._channels = torch.tensor(list(channels), dtype=torch.int64)
        self._values = values
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
        channels = self._channels.to(maps.device)
        values = self._values[self._channels].to(maps.device, maps.dtype)
        shape = maps.shape[2:] if values.shape[1] > 1 else (1,) * (maps.dim() - 2)
        maps[:, channels] = values.reshape(len(channels), *shape)
        return (changed, *output[1:]) if isinstance(output, tuple | list) else changed


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
    class; NaN without labels.
    """

    lost: float
    change: float
    accuracy: float


def effect(before: Floats, after: Floats, correct: npt.NDArray[np.bool_] | None) -> Effect:
    """The effect, from the target's values (n,) before and after; `correct`: whether each labelled image is classified
    correctly."""
    return Effect(
        lost=lost_variance(before, after),
        change=float(np.mean(after - before)),
        accuracy=float("nan") if correct is None or not len(correct) else float(np.mean(correct)),
    )


def lost_variance(before: Floats, after: Floats) -> float:
    """1 - r^2 between two series (n,); 1 where the second does not vary, NaN where the first does not."""
    a, b = before - before.mean(), after - after.mean()
    squares_before, squares_after = float(a @ a), float(b @ b)
    if squares_before <= 1e-24 * max(1.0, float(before @ before)):
        return float("nan")
    if squares_after <= 1e-12 * squares_before:
        return 1.0
    return float(np.clip(1 - (a @ b) ** 2 / (squares_before * squares_after), 0.0, 1.0))
