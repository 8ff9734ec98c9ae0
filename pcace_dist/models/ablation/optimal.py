"""The constants that change a target least when they take the place of some channels' maps. No Ray.

After "optimal ablation" (Li & Janson 2024, arXiv 2409.09951): what a model loses by a mean or by 0 is also the surprise
of a map that it never sees; the best constant leaves only what the channels told. Here the loss is the mean squared
change of the target, and a channel's constant is its mean map plus one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pcace_dist.models.ablation.replacement import Ablation

Target: TypeAlias = Callable[[int, Tensor], Tensor]
"""The target's values float64 (n,) of the batch with this number, from its outputs."""

STEPS = 4
DAMPING = 1e-3  # of the mean diagonal of J^T J, at first


def optimal_shifts(
    model: nn.Module, layer: str, channels: Sequence[int], means: Tensor, batches: Sequence[Tensor], target: Target
) -> Tensor:
    """What to add to the mean maps of S channels, float64 (S,).

    means: float (C, D). batches: images as the model takes them. Levenberg's steps from 0: least squares of the change,
    which is taken as linear at each point; the best of the points is given back, so that on these images no target
    changes more than by the mean maps. Closed form, in one step, where the target is linear in the maps.
    """
    with torch.no_grad():
        before = torch.cat([target(number, model(batch)) for number, batch in enumerate(batches)])
    best = torch.zeros(len(channels), dtype=torch.float64)
    residual, slopes = _change(model, layer, channels, means, batches, target, best, before)
    damping = DAMPING
    for _ in range(STEPS):
        normal = slopes.T @ slopes
        ridge = damping * normal.diagonal().mean().clamp(min=1e-300)
        step = torch.linalg.solve(normal + ridge * torch.eye(len(best), dtype=best.dtype), slopes.T @ residual)
        tried = _change(model, layer, channels, means, batches, target, best - step, before)
        if tried[0].square().sum() < residual.square().sum():
            best, (residual, slopes), damping = best - step, tried, damping / 10
        else:
            damping *= 10
    return best


def _change(
    model: nn.Module,
    layer: str,
    channels: Sequence[int],
    means: Tensor,
    batches: Sequence[Tensor],
    target: Target,
    shifts: Tensor,
    before: Tensor,
) -> tuple[Tensor, Tensor]:
    """The target's change (n,) and its slopes (n, S) in each image's own shifts."""
    values, slopes = [], []
    for number, batch in enumerate(batches):
        own = shifts.repeat(len(batch), 1).requires_grad_()
        with torch.enable_grad(), _Shifted(model, layer, channels, means, own):
            after = target(number, model(batch))
        slopes.append(torch.autograd.grad(after.sum(), own)[0])
        values.append(after.detach())
    return torch.cat(values).cpu() - before.cpu(), torch.cat(slopes)


class _Shifted(Ablation):
    """Mean maps plus a number for each image and channel (B, S)."""

    def __init__(self, model: nn.Module, layer: str, channels: Sequence[int], means: Tensor, shifts: Tensor) -> None:
        super().__init__(model, layer, channels, means)
        self._shifts = shifts

    def _given(self) -> Tensor:
        return self._values + self._shifts.unsqueeze(2)
