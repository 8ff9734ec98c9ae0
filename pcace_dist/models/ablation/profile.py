"""Mean maps of a layer's channels over some images, and the simple scores with which a ranking is compared. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcace_dist.errors import ModelError
from pcace_dist.models.device import is_out_of_memory
from pcace_dist.models.effects.gradients import PlaceGradients, Target
from pcace_dist.models.effects.places import Place

Floats: TypeAlias = npt.NDArray[np.float64]

STEPS = 5  # of the path of conductance
NO_GRADIENT = (
    "runs without a gradient (torch.no_grad in the model, or torch.utils.checkpoint with use_reentrant=True), which "
    "Taylor scores and class evidence need; use use_reentrant=False, or no checkpoints in evaluation mode"
)
NOT_HERE = (
    f"the target has no gradient there: not used for it, detached, or {NO_GRADIENT}; choose other layers with --layer"
)


@dataclass(frozen=True, eq=False)
class Profile:
    """Statistics of one layer's channels over some images. mean: float64 (C, D). The others are (C,), and larger is
    more important:

    mean_activation  of the map
    variance         of pixels, averaged over the map
    pearson          |correlation| of the map's mean with the target
    taylor           mean square of gradient x (activation minus the mean map): Molchanov et al. 2019, mean-referenced
    conductance      mean square of the target's change through the channel along the straight path from the mean image
                     to the image, in STEPS steps: Dhamdhere, Sundararajan & Yan 2018, arXiv 1805.12233. Where all goes
                     through the layer, an image's changes add up to the target's from the mean image, about
    """

    mean: Tensor
    mean_activation: Floats
    variance: Floats
    pearson: Floats
    taylor: Floats
    conductance: Floats


class Profiler:
    """Profiles of layers over batches, in two passes: `add` every batch, then `add_gradients` every batch again."""

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self._layers = tuple(layers)
        self._gradients = PlaceGradients(model, {name: Place(name) for name in layers})
        self._sums: dict[str, list[Tensor]] = {}
        self._target: list[Tensor] = []
        self._rows = 0
        self._taylor: dict[str, Tensor] = {}
        self._conductance: dict[str, Tensor] = {}

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

    def add_gradients(self, images: Tensor, start: Tensor, target: Target) -> None:
        """Second pass: gradients along the straight path from `start` (C, H, W) to each of the images (n, C, H, W), as
        the model takes both. target: from outputs to values (n,), with their graph."""
        maps: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}
        conducted = {name: torch.zeros((), dtype=torch.float64) for name in self._layers}
        for step in range(STEPS + 1):
            last_maps, last_gradients = maps, gradients
            maps, gradients = self._backward(start + step / STEPS * (images - start), target)
            for name in self._layers if step else ():
                slope, moved = (last_gradients[name] + gradients[name]) / 2, maps[name] - last_maps[name]
                conducted[name] = conducted[name] + (slope * moved).sum(dim=2).double().cpu()
        for name in self._layers:
            centred = maps[name].double().cpu() - self.mean_maps(name)
            self._add_squares(self._taylor, name, (gradients[name].double().cpu() * centred).sum(dim=2))
            self._add_squares(self._conductance, name, conducted[name])

    def _backward(self, images: Tensor, target: Target) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Maps and gradients (n, C, D) by layer."""
        try:
            _, maps, (found,) = self._gradients(images.requires_grad_(), [target])  # checkpoints want it
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            raise ModelError(f"layers {', '.join(self._layers)}: {NOT_HERE}") from error
        gradients = {name: gradient for name, gradient in found.items() if gradient is not None}
        for name in self._layers:
            if name not in gradients:
                raise ModelError(f"layers {name}: {NOT_HERE}")
        return maps, gradients

    @staticmethod
    def _add_squares(total: dict[str, Tensor], name: str, values: Tensor) -> None:
        squares = values.square().sum(dim=0)
        total[name] = squares + total.get(name, torch.zeros_like(squares))

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
            conductance=(self._conductance[layer] / n).numpy(),
        )
