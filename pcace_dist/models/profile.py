"""Mean maps of a layer's channels over some images, and the simple scores with which a ranking is compared. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcace_dist.errors import ModelError
from pcace_dist.models.tap import channels_and_positions

Floats: TypeAlias = npt.NDArray[np.float64]


NO_GRADIENT = (
    "runs without a gradient (torch.no_grad in the model, or torch.utils.checkpoint with use_reentrant=True), which "
    "Taylor scores and class evidence need; use use_reentrant=False, or no checkpoints in evaluation mode"
)


@dataclass(frozen=True, eq=False)
class Profile:
    """Statistics of one layer's channels over some images. mean: float64 (C, D). The others are (C,), and larger is
    more important: mean_activation (of the map), variance (of pixels, averaged over the map), pearson (|correlation| of
    the map's mean with the target), taylor (mean square of gradient x (activation minus the mean map): Molchanov et al.
    2019, mean-referenced).
    """

    mean: Tensor
    mean_activation: Floats
    variance: Floats
    pearson: Floats
    taylor: Floats


class Profiler:
    """Profiles of layers over batches, in two passes: `add` every batch, then `add_gradients` every batch again."""

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self._model = model
        self._layers = tuple(layers)
        self._sums: dict[str, list[Tensor]] = {}
        self._target: list[Tensor] = []
        self._rows = 0
        self._taylor: dict[str, Tensor] = {}

    def add(self, maps: dict[str, Tensor], target: Tensor) -> None:
        """First pass: maps float (n, C, D) by layer and the target's values (n,)."""
        y = target.double().cpu()
        for name in self._layers:
            pixels = maps[name].double().cpu()
            means = pixels.mean(dim=2)
            parts = [
                pixels.sum(0),
                pixels.square().sum(0),
                means.sum(0),
                means.square().sum(0),
                (means * y[:, None]).sum(0),
            ]
            sums = self._sums.get(name)
            self._sums[name] = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
        self._target.append(y)
        self._rows += len(y)

    def mean_maps(self, layer: str) -> Tensor:
        """float64 (C, D), after the first pass."""
        return self._sums[layer][0] / self._rows

    def add_gradients(self, images: Tensor, values: Any) -> None:
        """Second pass: `values(outputs)` gives the target of each row (n,) of a batch, with its graph."""
        outputs_of: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> Any:
                tensor = output[0] if isinstance(output, tuple | list) else output
                if not tensor.requires_grad:
                    raise ModelError(f"layers {name}: {NO_GRADIENT}")
                if name not in outputs_of:  # a checkpoint runs the layer again in the backward pass
                    tensor.retain_grad()
                    outputs_of[name] = tensor
                copy = tensor.clone()  # the next layer may work in place
                return (copy, *output[1:]) if isinstance(output, tuple | list) else copy

            return hook

        handles = [self._model.get_submodule(name).register_forward_hook(keep(name)) for name in self._layers]
        try:
            with torch.enable_grad():
                outputs = self._model(images.detach().requires_grad_(True))
                values(outputs).sum().backward()
        finally:
            for handle in handles:
                handle.remove()
        for name, tensor in outputs_of.items():
            if tensor.grad is None:
                raise ModelError(
                    f"layers {name}: the target has no gradient there (detached, or not used for it), which Taylor "
                    "scores need; choose other layers with --layer"
                )
            maps, gradient = (_as_maps(self._model, name, part) for part in (tensor.detach(), tensor.grad))
            centred = maps.double().cpu() - self.mean_maps(name)
            squares = (gradient.double().cpu() * centred).sum(dim=2).square().sum(dim=0)
            self._taylor[name] = squares + self._taylor.get(name, torch.zeros_like(squares))

    def profile(self, layer: str) -> Profile:
        """After both passes."""
        total, squares, means, mean_squares, products = self._sums[layer]
        n = self._rows
        y = torch.cat(self._target)
        spread = (mean_squares / n - (means / n).square()).clamp(min=0) * (y.square().mean() - y.mean().square())
        covariance = products / n - means / n * y.mean()
        pearson = torch.where(spread > 0, covariance.abs() / spread.clamp(min=1e-300).sqrt(), torch.zeros_like(spread))
        return Profile(
            mean=total / n,
            mean_activation=(means / n).numpy(),
            variance=(squares / n - (total / n).square()).clamp(min=0).mean(dim=1).numpy(),
            pearson=pearson.numpy(),
            taylor=(self._taylor[layer] / n).numpy(),
        )


def _as_maps(model: nn.Module, layer: str, tensor: Tensor) -> Tensor:
    return channels_and_positions(layer, model.get_submodule(layer), tensor)[0]
