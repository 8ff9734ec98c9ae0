"""Which pixels excite a channel: the attribution of its strongest activation in an image (Shrikumar et al. 2016, arXiv
1605.01713: gradient x input, captum's implementation). A map drawn over its image is coarse and misleads: a position
sees more than the pixels below it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcace_dist.models.tap import maps_at

Floats: TypeAlias = npt.NDArray[np.float32]


def attributions(model: nn.Module, layer: str, inputs: Tensor, channels: Tensor, positions: Tensor) -> Floats:
    """What each pixel adds to one activation of each image: float32 (n, H, W), nothing where it takes away.

    inputs: (n, C, H, W), as the model takes them: 0 is the mean colour, which adds nothing. channels, positions: int64
    (n,), of the layer's maps (n, C, D). Raises RuntimeError where there is no gradient.
    """
    from captum.attr import InputXGradient  # takes seconds to import, with matplotlib

    rows = torch.arange(len(inputs), device=inputs.device)

    def activation(images: Tensor) -> Tensor:
        return maps_at(model, layer, images)[0][rows, channels, positions]

    found = InputXGradient(activation).attribute(inputs.requires_grad_())
    return np.asarray(found.sum(1).clamp_min(0).detach().cpu().numpy(), np.float32)
