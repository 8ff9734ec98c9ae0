"""A planted truth for pictures: images with a bright square somewhere, and a channel that responds to nothing else.

Noise of 32 x 32 grey pixels; those of label 1 hold a bright square of 8 x 8 at a place of their own. Channel 0 of the
network is a matched filter: the mean over 8 x 8 pixels less the mean of a ring around it, then ReLU. The other channels
are small random filters. The class evidence is channel 0 alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from tests.planted import png

SIDE, SQUARE, RING = 32, 8, 12
GROUPS = ("north & <b>south</b>", "</script><script>window.hacked = 1</script>", "quote \" and ' and {{ 7 * 7 }}")
FILE = "part <img src=x onerror=hacked()> {:05d}.parquet"


class SquareNetwork(nn.Module):
    """Maps (n, 4, 32, 32), logits (n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(1, 4, RING + 1, padding=RING // 2), nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        evidence = self.look(images)[:, 0].mean((1, 2))
        return torch.stack([-evidence, evidence], 1) * 100


def square_network() -> SquareNetwork:
    """The factory: `tests.reporting.square:square_network`."""
    network = SquareNetwork()
    generator = torch.Generator().manual_seed(0)
    kernel = torch.full((RING + 1, RING + 1), -1.0 / ((RING + 1) ** 2 - SQUARE**2))
    start = (RING + 1 - SQUARE) // 2
    kernel[start : start + SQUARE, start : start + SQUARE] = 1 / SQUARE**2
    with torch.no_grad():
        conv = network.look[0]
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        conv.weight.copy_(0.05 * torch.randn(conv.weight.shape, generator=generator))
        conv.weight[0, 0] = kernel
        conv.bias.zero_()
        conv.bias[0] = -0.25
    return network


def write_squares(folder: Path, rows: int = 600, *, seed: int = 0) -> None:
    """Two Parquet files: image, label, amount (brightness of the square), region, latitude, longitude, left, top."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, rows)
    left, top = random.integers(3, SIDE - SQUARE - 2, (2, rows))
    bright = random.integers(150, 240, rows)
    pixels = random.integers(0, 60, (rows, SIDE, SIDE))
    for i in np.flatnonzero(label):
        pixels[i, top[i] : top[i] + SQUARE, left[i] : left[i] + SQUARE] = bright[i]
    table = pa.table(
        {
            "image": pa.array([png(image.astype(np.uint8)) for image in pixels], pa.binary()),
            "label": label,
            "amount": np.where(label, bright, 30) + random.normal(0, 10, rows),
            "region": [GROUPS[i % 3] for i in range(rows)],
            "latitude": 48 + random.uniform(0, 1, rows),
            "longitude": 11 + random.uniform(0, 2, rows),
            "left": left,
            "top": top,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    half = rows // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, folder / FILE.format(number), row_group_size=100)


PATCH, CLS = 8, 5.0


def square_vit() -> nn.Module:
    """The factory of a ViT: 4 x 4 patches and a CLS token. Channel 0 of its embeddings is the brightness of the patch,
    at the CLS token CLS; all else is random."""
    from tests.models.library_models import vit

    torch.manual_seed(0)
    network = vit(num_channels=1, num_labels=2, image_size=SIDE, patch_size=PATCH)
    parts = dict(network.named_parameters())
    with torch.no_grad():
        parts["vit.embeddings.position_embeddings"].zero_()
        parts["vit.embeddings.cls_token"][..., 0] = CLS
        parts["vit.embeddings.patch_embeddings.projection.weight"][0] = 1 / PATCH**2
        parts["vit.embeddings.patch_embeddings.projection.bias"].zero_()
    return network


HOSTILE = "<script>hacked = 1</script><img src=x onerror=hacked()> \"quoted\" 'too'\n\x1b[31mred & <b>bold</b>"
LONG = HOSTILE + 10_000 * "x"


class HostileNetwork(SquareNetwork):
    """The same network, whose layer has a hostile name."""

    def __init__(self) -> None:
        super().__init__()
        network = square_network()
        self.look = nn.Sequential()
        self.look.add_module(LONG, network.look)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)
