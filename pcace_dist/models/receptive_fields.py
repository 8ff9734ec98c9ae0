"""What part of an image a position of a layer's map sees: its receptive field, by a backward pass from that position.

As zennit-crp masks it (Achtibat et al. 2023, arXiv 2206.03208): pixels without a gradient are outside. The image is
noise, and the gradient that of a random mix of all channels, so that a path is missed only where it is closed in all of
them. Rows and columns of a map are independent: of maps of convolutions and of windows, and of patches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor, nn

from pcace_dist.models.tap import maps_at

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
    noise = torch.randn(1, *size, generator=generator).to(device).requires_grad_()
    with torch.enable_grad():
        maps = maps_at(model, layer, noise)[0][0, :, before:]
        maps = maps.reshape(len(maps), *grid)
        mixed = torch.einsum("c,chw->hw", torch.randn(len(maps), generator=generator).to(maps), maps)

    def seen(*places: tuple[int, int]) -> Tensor:
        """Pixels bool (H, W) with a gradient."""
        output = torch.stack([mixed[place] for place in places]).sum()
        (gradient,) = torch.autograd.grad(output, noise, retain_graph=True)
        return gradient[0].ne(0).any(0)

    middle = grid[0] // 2, grid[1] // 2
    field = seen(middle)
    if field.all():
        return None
    wanted = list(positions)
    rows = _spans(
        {row for row, _ in wanted}, grid[0], field.any(1), lambda some: seen(*((row, middle[1]) for row in some)).any(1)
    )
    columns = _spans(
        {column for _, column in wanted},
        grid[1],
        field.any(0),
        lambda some: seen(*((middle[0], column) for column in some)).any(0),
    )
    return ReceptiveFields(rows, columns, size[1:])


def _spans(
    wanted: Collection[int], places: int, field: Tensor, seen: Callable[[Sequence[int]], Tensor]
) -> dict[int, Span]:
    """What each of the wanted of so many places along an axis sees. field: what the middle one sees, bool (pixels,).

    Places whose fields are apart are asked together: what is seen around a place is its own.
    """
    step = len(field) / places
    first, last = _span(field)
    apart = ceil((last - first) / step) + 2
    spans = {}
    for start in range(min(apart, places)):
        some = [place for place in range(start, places, apart) if place in wanted]
        pixels = seen(some) if some else field
        for place in some:
            left = max(0, floor((place + 0.5 - apart / 2) * step))
            inside = _span(pixels[left : ceil((place + 0.5 + apart / 2) * step)])
            spans[place] = inside[0] + left, inside[1] + left
    return spans


def _span(seen: Tensor) -> Span:
    """The first true place, and that behind the last; all where none is."""
    places = seen.nonzero()
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, len(seen))
