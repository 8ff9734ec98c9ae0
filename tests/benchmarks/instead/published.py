"""The published procedure: for every channel, all images go through the model twice, then PCA, then ACE.

As in the code published with arXiv 2112.15571: one pass for the channel's activation maps, one for the target's logit;
each pixel is standardised, the maps are projected on their principal components, and the package `ace` finds the
transforms; the channel's score is the correlation of the first component's transform with the target's. Kinder than it:
images are decoded once and go through the model in batches.
"""

from __future__ import annotations

import contextlib
import os

import numpy as np
import torch
from ace import ace
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn


@torch.inference_mode()
def maps_of_channel(images: Tensor, model: nn.Module, layer: str, channel: int, batch: int = 32) -> Tensor:
    """Maps (n, H, W) of one channel: the first pass."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, maps: kept.append(maps[:, channel].clone()))
    try:
        for part in torch.split(images, batch):
            model(part)
    finally:
        handle.remove()
    return torch.cat(kept)


@torch.inference_mode()
def largest_logit(images: Tensor, model: nn.Module, batch: int = 32) -> Tensor:
    """The target (n,): the second pass."""
    return torch.cat([model(part).max(1).values for part in torch.split(images, batch)])


def score_of_channel(images: Tensor, model: nn.Module, layer: str, channel: int, components: int = 5) -> float:
    """The published score of one channel; images (n, 3, H, W), normalised."""
    maps = maps_of_channel(images, model, layer, channel).flatten(1).double().numpy()
    target = largest_logit(images, model).double().numpy()
    projected = PCA(components).fit_transform(StandardScaler().fit_transform(maps))
    solver = ace.ACESolver()
    solver.specify_data_set(list(projected.T), target)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints every iteration
        solver.solve()
    return float(abs(np.corrcoef(solver.x_transforms[0], solver.y_transform)[0, 1]))
