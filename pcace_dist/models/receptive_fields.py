"""What part of an image a position of a layer's map sees: its receptive field, by a backward pass from that position.

As zennit-crp masks it (Achtibat et al. 2023, arXiv 2206.03208): pixels without a gradient are outside. The image is
noise, and the gradient that of a random mix of all channels, so that a path is missed only where it is closed in all of
them. Rows and columns of a map are independent: of maps of convolutions and of windows, and of patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcace_dist.models.tap import maps_at

IMAGES = 2  # of noise: maximum pooling passes on a gradient to the largest pixel only
Span = tuple[int, int]


@dataclass(frozen=True)
class ReceptiveFields:
    """The pixels that rows and columns of a map see, first and behind the last, of an image of this shape (H, W)."""

    rows: dict[int, Span]
    columns: dict[int, Span]
    shape: tuple[int, int]

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, top, width and height of what a position sees, as shares of the image's width and height."""
        (top, bottom), (left, right), (height, width) = self.rows[row], self.columns[column], self.shape
        return left / width, top / height, (right - left) / width, (bottom - top) / height


def receptive_fields(
    model: nn.Module,
    layer: str,
    size: tuple[int, int, int],
    grid: tuple[int, int],
    positions: Iterable[tuple[int, int]],
    *,
    before: int = 0,
) -> ReceptiveFields | None:
    """The receptive fields of some positions (row, column) of a layer; None where they see the whole image.

    size: (C, H, W) of the model's images; grid: rows and columns of the map; before: tokens ahead of the map's first.
    The model is in eval mode. Raises what its backward pass raises.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(IMAGES, *size, generator=generator).to(device).requires_grad_()
    with torch.enable_grad():
        maps = maps_at(model, layer, noise)[0]
    mix = torch.randn(maps.shape[:2], generator=generator).to(maps)

    def seen(row: int, column: int) -> Tensor:
        """Pixels bool (H, W) with a gradient."""
        output = maps[:, :, before + row * grid[1] + column]
        (gradient,) = torch.autograd.grad((output * mix).sum(), noise, retain_graph=True)
        return gradient.ne(0).any(0).any(0)

    middle = grid[0] // 2, grid[1] // 2
    if seen(*middle).all():
        return None
    wanted = sorted(set(positions))
    rows = {row: _span(seen(row, middle[1]).any(1)) for row in dict.fromkeys(row for row, _ in wanted)}
    columns = {column: _span(seen(middle[0], column).any(0)) for column in sorted({column for _, column in wanted})}
    return ReceptiveFields(rows, columns, size[1:])


def _span(seen: Tensor) -> Span:
    """The first true place, and that behind the last; all where none is."""
    places = seen.nonzero()
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, len(seen))
