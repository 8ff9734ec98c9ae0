"""Do the ranked channels respond where the class evidence is? Grad-CAM beside the map of the ranked channels.

Grad-CAM (Selvaraju et al. 2017): the layer's maps, weighted by the mean gradient of the output; of a transformer the
maps of its patches. The channel map: the maps of the layer's best ranked channels, each divided by its largest absolute
value over these images, weighted by score times the sign of its correlation with the target. Negative values are set to
0, as in Grad-CAM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcace_dist.config.targets import TargetSpec
from pcace_dist.errors import ModelError
from pcace_dist.models.ablation.profile import NO_GRADIENT
from pcace_dist.models.effects.gradients import PlaceGradients
from pcace_dist.models.effects.places import Place
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.targets import target_tensor

Maps: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Maps (n, h, w) of n images, not negative; agreement (n,): correlation of the two maps over the pixels, NaN where
    one is flat. parts (n, k, h, w): what each of the k ranked channels adds to the channel map."""

    outputs: npt.NDArray[np.int64]
    grad_cam: Maps
    channel_map: Maps
    parts: Maps
    agreement: npt.NDArray[np.float64]


def output_of(target: TargetSpec, outputs: npt.NDArray[np.float64], label: int) -> int:
    """The output to explain: that of the target's class; for a column, the largest (or only) one."""
    if target.of_outputs and isinstance(target.value, int):
        return target.value
    if target.needs_label and 0 <= label < len(outputs):
        return label
    return int(outputs.argmax())


def prediction(target: TargetSpec, outputs: npt.NDArray[np.float64], label: int) -> float:
    """The model's value of the target for an image; for a column, the largest (or only) output. NaN without a class,
    and for an embedding, whose vectors the report does not read."""
    if target.kind == "cosine":
        return float("nan")
    spec = target if target.of_outputs else TargetSpec("output", output_of(target, outputs, label))
    return float(target_tensor(spec, torch.from_numpy(outputs)[None], torch.tensor([label]))[0])


def evidence(
    model: nn.Module,
    layer: str,
    images: Tensor,
    outputs: Sequence[int],
    weights: dict[int, float],
    normalise: Normalise,
    *,
    grid: tuple[int, int],
    before: int = 0,
) -> Evidence:
    """Both maps of images (n, C, H, W) at one layer.

    weights: of the ranked channels. grid: rows and columns of the layer's maps; before: tokens ahead of the map's
    first. Raises ModelError where there is no gradient.
    """
    chosen = torch.tensor(list(outputs), device=normalise.mean.device)

    def explained(outputs: Tensor) -> Tensor:
        return outputs[torch.arange(len(outputs), device=outputs.device), chosen]

    try:
        batch = normalise(images).requires_grad_()  # checkpoints want it
        _, maps_of, (found,) = PlaceGradients(model, {layer: Place(layer)})(batch, [explained])
    except RuntimeError as error:
        raise ModelError(f"layer {layer}: {NO_GRADIENT}") from error
    gradient = found[layer]
    if gradient is None:
        raise ModelError(f"layer {layer}: {NO_GRADIENT}")
    maps, slopes = (
        values[:, :, before:].float().reshape(*values.shape[:2], *grid) for values in (maps_of[layer], gradient)
    )
    grad_cam = (slopes.mean((2, 3), keepdim=True) * maps).sum(1).clamp_min(0).cpu().numpy()
    parts = ranked_parts(maps, weights).cpu().numpy()
    channel_map = parts.sum(1).clip(0)
    agreement = np.array([_correlation(a, b) for a, b in zip(grad_cam, channel_map, strict=True)])
    return Evidence(np.asarray(outputs, np.int64), grad_cam, channel_map, parts, agreement)


def ranked_parts(maps: Tensor, weights: dict[int, float]) -> Tensor:
    """A layer's maps (n, C, h, w) of the k channels that have a weight, scaled and weighted: (n, k, h, w)."""
    chosen = maps[:, list(weights)]
    largest = chosen.abs().amax((0, 2, 3)).clamp_min(1e-12)
    return chosen * (chosen.new_tensor(list(weights.values())) / largest)[:, None, None]


def _correlation(a: Maps, b: Maps) -> float:
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])
