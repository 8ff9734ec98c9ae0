"""A network whose ablation curves are known in closed form, and images for it.

Channel c reads the brightness u_c of block c; the u are independent and standard normal. The output is
t = 2 u_0^2 + u_1 + u_2 / 2 + u_3 / 4: channel 0 counts most, though no straight line sees it. Channels 4 to 7 count for
nothing, but 4 has the largest weights and variance, and 5 the largest mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from tests.planted import BLOCK, png

CHANNELS = 8
GREY = 28.0  # levels for one standard deviation
SHARES = np.array([8, 1, 0.25, 0.0625, 0, 0, 0, 0]) / 9.3125  # of the output's variance: var(2 u^2) = 8


class Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Conv2d(1, CHANNELS, (BLOCK, BLOCK * CHANNELS))

    def forward(self, images: Tensor) -> Tensor:
        u = self.read(images).flatten(1)
        total = 2 * u[:, 0].square() + u[:, 1] + u[:, 2] / 2 + u[:, 3] / 4 - 2
        return torch.stack([-total, total], 1)


def reading() -> Reading:
    """The factory: `tests.planted_ablation:reading`."""
    network = Reading()
    scale = 255 / GREY  # images come as 0 to 1
    with torch.no_grad():
        network.read.weight.zero_()
        network.read.bias.fill_(-128 / GREY)  # type: ignore[union-attr]
        for channel in range(CHANNELS):
            network.read.weight[channel, 0, :, channel * BLOCK : (channel + 1) * BLOCK] = scale / BLOCK**2
        network.read.weight[4] *= 10
        network.read.bias[4] *= 10  # type: ignore[index]
        network.read.bias[5] += 50  # type: ignore[index]
    return network


def write_images(folder: Path, rows: int, *, seed: int = 0, shards: int = 2) -> None:
    """Parquet shards with image, and label: whether t is above 0."""
    u = np.random.default_rng(seed).standard_normal((rows, CHANNELS))
    grey = np.clip(np.rint(128 + GREY * u), 0, 255).astype(np.uint8)
    images = [png(np.repeat(np.repeat(row[None], BLOCK, 0), BLOCK, 1)) for row in grey]
    seen = (grey.astype(float) - 128) / GREY
    t = 2 * seen[:, 0] ** 2 + seen[:, 1] + seen[:, 2] / 2 + seen[:, 3] / 4 - 2
    table = pa.table({"image": pa.array(images, pa.binary()), "label": (t > 0).astype(np.int64)})
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        start, stop = shard * rows // shards, (shard + 1) * rows // shards
        pq.write_table(table.slice(start, stop - start), folder / f"part-{shard}.parquet", row_group_size=200)
