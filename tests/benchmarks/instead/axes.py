"""Principal axes of every channel from some activation maps: what each of the scripts beside this file needs first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axes:
    """Of C channels with maps of D pixels: components = maps . weights (C, D, p) - offsets (C, p)."""

    weights: Tensor
    offsets: Tensor

    def project(self, maps: Tensor) -> Tensor:
        """Components (n, C, p) of maps (n, C, ...)."""
        return torch.einsum("ncd,cdp->ncp", maps.flatten(2).float(), self.weights) - self.offsets


def fit_axes(maps: Tensor, components: int = 5) -> Axes:
    """By a singular value decomposition of each channel's standardised pixels; maps (n, C, ...)."""
    flat = maps.flatten(2).float().transpose(0, 1)  # channels x images x pixels
    mean, scale = flat.mean(1, keepdim=True), flat.std(1, keepdim=True, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    _, _, rows = torch.linalg.svd((flat - mean) / scale, full_matrices=False)
    weights = rows[:, :components].transpose(1, 2) / scale.transpose(1, 2)
    return Axes(weights, (mean @ weights).squeeze(1))
