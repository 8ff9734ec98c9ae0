"""Real activations for the statistical tests and tables: the example's network on MNIST images.

The 5,000 images of examples/mnist are always there. The full sets lie in shared/data beside the project on machines
that have them; `TRAIN` and `TEST` say where, and what needs them skips elsewhere.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from examples.mnist.model import mnist_cnn
from pcace_dist.statistics.plan import LayerPlan, NoiseMaker, Plan, build_plan

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "mnist" / "data"
TRAIN = ROOT.parent / "shared" / "data" / "mnist-train"
TEST = ROOT.parent / "shared" / "data" / "mnist-test"
WITHOUT = "the full MNIST set is not beside the project (../shared/data)"
_BATCH = 500

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Activations:
    """Maps (n, C, D) of one layer, its map's shape, the logit of the image's own class (n,) and the labels (n,)."""

    maps: Tensor
    shape: tuple[int, ...]
    target: Floats
    labels: npt.NDArray[np.int64]

    def rows(self, kept: npt.NDArray[np.integer]) -> Activations:
        taken = np.asarray(kept, dtype=np.int64)
        return Activations(self.maps[torch.from_numpy(taken)], self.shape, self.target[taken], self.labels[taken])

    def digit(self, digit: int) -> Activations:
        return self.rows(np.flatnonzero(self.labels == digit))

    def plan(
        self,
        components: int,
        *,
        scale: str = "pixel",
        knots: int = 9,
        tails: float = 0.0,
        noise: NoiseMaker | None = None,
    ) -> Plan:
        """Plan with these rows as the pilot. noise: makes its noise, where that is wanted."""
        return build_plan(
            lambda: iter([{"layer": part} for part in torch.split(self.maps, _BATCH)]),
            {"layer": self.shape},
            {"y": self.target},
            components=components,
            knots=knots,
            tails=tails,
            folds=16,
            scale=scale,
            facts={},
            noise=noise,
        )

    def components(self, layer: LayerPlan) -> Floats:
        """Components (n, C, p) on the axes of a plan."""
        return layer.project(self.maps)[0].double().numpy()


@cache
def images(folder: Path) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Images uint8 (n, 1, 28, 28) and labels (n,) of a folder of Parquet shards, in order."""
    pictures, labels = [], []
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        labels.append(table["label"].to_numpy())
        for cell in table["image"].to_pylist():
            data = cell["bytes"] if isinstance(cell, dict) else cell
            pictures.append(torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("L")))[None])
    return torch.stack(pictures), np.concatenate(labels)


@cache
def network() -> nn.Sequential:
    model = mnist_cnn()
    model.load_state_dict(load_file(str(ROOT / "examples" / "mnist" / "weights.safetensors")))
    assert isinstance(model, nn.Sequential)
    return model.eval()


def activations(folder: Path, layer: str, digit: int | None = None) -> Activations:
    """Activations of one layer of the example's network for the images (of one digit) of a folder."""
    pictures, labels = images(folder)
    if digit is not None:
        rows_of_digit = np.flatnonzero(labels == digit)
        pictures, labels = pictures[torch.from_numpy(rows_of_digit)], labels[rows_of_digit]
    maps: list[Tensor] = []
    targets: list[Floats] = []
    shape: tuple[int, ...] = ()
    with torch.inference_mode():
        for start in range(0, len(labels), _BATCH):
            x = (pictures[start : start + _BATCH].float() / 255 - 0.1307) / 0.3081
            for name, module in network().named_children():
                x = module(x)
                if name == layer:
                    maps.append(x.flatten(2).clone())
                    shape = tuple(x.shape[2:])
            own = torch.from_numpy(labels[start : start + _BATCH])
            targets.append(x.gather(1, own[:, None])[:, 0].double().numpy())
    return Activations(torch.cat(maps).clone(), shape, np.concatenate(targets), labels)


def logits_after(layer: str, rows: Activations) -> Tensor:
    """Logits (n, 10) from a layer's maps on: for maps in which channels have been replaced."""
    names = [name for name, _ in network().named_children()]
    parts = []
    with torch.inference_mode():
        for part in torch.split(rows.maps, _BATCH):
            x = part.reshape(*part.shape[:2], *rows.shape)
            for name in names[names.index(layer) + 1 :]:
                x = network().get_submodule(name)(x)
            parts.append(x)
    return torch.cat(parts)
