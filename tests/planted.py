"""A planted truth: images whose blocks carry latent variables, and a network whose channels read one block each.

Channel c's map is the brightness u_c of block c. (u_c, v) are jointly normal with correlation rho_c, and the target
is a known function of v, so the maximal correlation of channel c with the target is known: |rho_c| for a monotone
target (Lancaster 1957), and that of (u_c, v^2) for the square, which is rho_c^2 (the second Hermite polynomials have
correlation rho_c^2).
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

RHO = (0.9, 0.75, 0.6, 0.4, 0.0, 0.0, 0.0, 0.0)
BLOCK = 4
GREY_PER_UNIT = 28.0  # one standard deviation in grey levels


class PlantedNetwork(nn.Module):
    """Reads the block's brightness per channel; the output is the sum of all channels (n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Conv2d(1, len(RHO), (BLOCK, BLOCK * len(RHO)))

    def forward(self, images: Tensor) -> Tensor:
        total = self.read(images).flatten(1).sum(1, keepdim=True)
        return torch.cat([total, -total], 1)


def planted_network() -> PlantedNetwork:
    """The factory: `tests.planted:planted_network`."""
    network = PlantedNetwork()
    with torch.no_grad():
        network.read.bias.zero_()  # type: ignore[union-attr]
        network.read.weight.zero_()
        for channel in range(len(RHO)):
            network.read.weight[channel, 0, :, channel * BLOCK : (channel + 1) * BLOCK] = 1 / BLOCK**2
    return network


def latent(rows: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """u (rows, channels) and v (rows,), jointly normal with the correlations RHO."""
    random = np.random.default_rng(seed)
    v = random.standard_normal(rows)
    rho = np.array(RHO)
    u = rho * v[:, None] + np.sqrt(1 - rho**2) * random.standard_normal((rows, len(RHO)))
    return u, v


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def write_planted(folder: Path, rows: int, *, seed: int = 0, shards: int = 3, row_group: int = 200) -> None:
    """Parquet shards with image, `exponential` = exp(v), `square` = v^2 and a label."""
    u, v = latent(rows, seed)
    grey = np.clip(np.rint(128 + GREY_PER_UNIT * u), 0, 255).astype(np.uint8)
    images = [png(np.repeat(np.repeat(row[None], BLOCK, 0), BLOCK, 1)) for row in grey]
    table = pa.table(
        {
            "image": pa.array(images, pa.binary()),
            "exponential": np.exp(v),
            "square": v**2,
            "label": (v > 0).astype(np.int64),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        start, stop = shard * rows // shards, (shard + 1) * rows // shards
        pq.write_table(table.slice(start, stop - start), folder / f"part-{shard:05d}.parquet", row_group_size=row_group)
