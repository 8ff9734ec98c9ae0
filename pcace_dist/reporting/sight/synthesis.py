"""Activation maximisation: the image that excites a channel most, found by gradient ascent (Erhan et al. 2009).

As in Olah, Mordvintsev & Schubert (2017), Feature visualization: the image is parametrised by its Fourier coefficients,
scaled by 1 / frequency, so that structures of all sizes are equally easy to draw, in colours that natural images
decorrelate; it is turned, scaled and shifted at random in every step, and its total variation is penalised. Its
contrast is bounded: without that, ascent drives pixels to black and white. Several channels of a layer are drawn at
once, no larger than what one position of the layer sees. The pass ends at the layer, so that early layers are cheap.
Deterministic by seed, layer and channel. Knows only models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pcace_dist.models.inputs import Normalise
from pcace_dist.models.tap import maps_at

SIDES = 32, 96  # least and largest longer side of a synthetic image
# red, green, blue from lightness, red-blue and green-magenta: natural images vary most in lightness, so colour has
# smaller weights
OPPONENT = ((0.577, 0.247, 0.082), (0.577, 0.0, -0.163), (0.577, -0.247, 0.082))
CONTRAST = 1.5  # root mean square, before the logistic function, of an image at most
TURN, SCALE, SHIFT = 0.15, 0.1, 1 / 16  # of an image in a step, at most: radians, share, share of its side
STEPS, RATE = 24, 0.1  # of Adam
PENALTY = 0.3  # weight of the total variation, where gains are in units of the channel's own deviation


@dataclass(frozen=True)
class Canvas:
    """The geometry of synthetic images: height, width, and the normalisation of each image channel. side: their longer
    side, if the model accepts it."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int]
    side: int = SIDES[1]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Sizes to try: a small one that is fast, then the size that the model was run with."""
        scale = self.side / max(self.shape)
        quick = (max(16, round(self.shape[0] * scale)), max(16, round(self.shape[1] * scale)))
        return [self.shape] if scale >= 1 else [quick, self.shape]


def excite(
    model: nn.Module,
    layer: str,
    channels: Sequence[int],
    canvas: Canvas,
    *,
    device: torch.device,
    seed: int = 0,
    steps: int = STEPS,
    units: Sequence[float] | None = None,
) -> npt.NDArray[np.float32]:
    """Images (c, image channels, H, W), values 0 to 1, that excite the mean of each channel's map.

    units: the channels' deviations over real images, the units of gains (default 1). The model must be in eval mode;
    its parameters do not change.
    """
    for size in canvas.sizes:
        try:
            return _ascend(model, layer, channels, canvas, size, device, seed, steps, units)
        except (RuntimeError, ValueError):
            if size == canvas.shape:
                raise
    raise AssertionError("there is always one size")


def _ascend(
    model: nn.Module,
    layer: str,
    channels: Sequence[int],
    canvas: Canvas,
    size: tuple[int, int],
    device: torch.device,
    seed: int,
    steps: int,
    units: Sequence[float] | None,
) -> npt.NDArray[np.float32]:
    normalise = Normalise(canvas.mean, canvas.std, device)
    scale = _frequency_scale(size).to(device)
    spectrum = torch.stack([_noise(seed, layer, channel, len(canvas.mean), size) for channel in channels])
    coefficients = spectrum.to(device).requires_grad_(True)
    optimiser = torch.optim.Adam([coefficients], lr=RATE)
    gain = torch.tensor([1.0 / max(u, 1e-6) for u in (units or [1.0] * len(channels))], device=device)
    pick = torch.tensor(list(channels), device=device)
    rows = torch.arange(len(channels), device=device)
    moves = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        image = _image(coefficients, scale, size)
        maps, _ = maps_at(model, layer, normalise(_moved(image, moves)))
        excitement = maps.float().mean(2)[rows, pick] * gain
        loss = (PENALTY * _variation(image) - excitement).sum()
        (coefficients.grad,) = torch.autograd.grad(loss, coefficients)  # of no weight
        optimiser.step()
    with torch.no_grad():
        return np.asarray(_image(coefficients, scale, size).cpu().numpy(), np.float32)


def _noise(seed: int, layer: str, channel: int, planes: int, size: tuple[int, int]) -> Tensor:
    """The start of a channel's search: it does not depend on the other channels that are drawn."""
    digest = blake2b(f"{seed}/{layer}/{channel}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return 0.01 * torch.randn(planes, size[0], size[1] // 2 + 1, 2, generator=generator)


def _frequency_scale(size: tuple[int, int]) -> Tensor:
    """1 / frequency of every coefficient; the lowest frequency is one over the longer side."""
    y = torch.fft.fftfreq(size[0])[:, None]
    x = torch.fft.rfftfreq(size[1])[None]
    frequency = torch.sqrt(x**2 + y**2).clamp_min(1.0 / max(size))
    unit: float = (size[0] * size[1]) ** 0.5 / max(size)
    return Tensor(frequency.reciprocal() * unit)


def _image(spectrum: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
    planes = torch.fft.irfft2(torch.view_as_complex(spectrum) * scale, s=size, norm="ortho")
    if planes.shape[1] == 3:
        planes = torch.einsum("ij,njhw->nihw", torch.tensor(OPPONENT, device=planes.device), planes)
    planes = 4 * planes
    reach = planes.square().mean((1, 2, 3), keepdim=True).sqrt()
    return torch.sigmoid(planes * (CONTRAST / reach.clamp_min(CONTRAST)))


def _moved(image: Tensor, moves: torch.Generator) -> Tensor:
    """Images (n, C, H, W), turned, scaled and shifted alike."""
    turn, scale, dy, dx = (2 * torch.rand(4, generator=moves) - 1).tolist()
    cosine, sine = ((1 + SCALE * scale) * f(TURN * turn) for f in (math.cos, math.sin))
    height, width = image.shape[2:]
    affine = [[cosine, -sine * height / width, 2 * SHIFT * dx], [sine * width / height, cosine, 2 * SHIFT * dy]]
    grid = nn.functional.affine_grid(image.new_tensor(affine)[None], [1, *image.shape[1:]], align_corners=False)
    grid = grid.expand(len(image), -1, -1, -1)
    return nn.functional.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


def _variation(image: Tensor) -> Tensor:
    """Total variation of each image (n,): the sum of absolute differences, divided by the number of pixel rows."""
    vertical = (image[:, :, 1:] - image[:, :, :-1]).abs().sum((1, 2, 3))
    horizontal = (image[:, :, :, 1:] - image[:, :, :, :-1]).abs().sum((1, 2, 3))
    return (vertical + horizontal) / image.shape[2]
