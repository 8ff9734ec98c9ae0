"""The same components with Ray Data: read_parquet, decode, a forward pass in actors, collect.

    python -m tests.benchmarks.instead.ray_data FOLDER [--layer layer4.1.conv2] [--actors 2]

What Ray's guides for batch inference show: `read_parquet(...).map_batches(decode).map_batches(Project, ...)`. All
components come to the driver, which must hold them; ACE would follow there (see dataloader.py).
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import ray
import torch
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms.v2 import functional

from tests.benchmarks.instead.axes import Axes

Batch = dict[str, npt.NDArray[Any]]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def decode(batch: Batch) -> Batch:
    """Files to uint8 (n, 3, 224, 224)."""
    images = []
    for data in batch["image"]:
        image = functional.pil_to_tensor(Image.open(io.BytesIO(data)).convert("RGB"))
        images.append(functional.center_crop(functional.resize(image, [256], antialias=True), [224, 224]).numpy())
    return {"id": batch["id"], "pixels": np.stack(images)}


class Project:
    """An actor: the model, and the layer's components with the largest logit for each image."""

    def __init__(self, make: Callable[[], nn.Module], layer: str, axes: Axes, bfloat16: bool) -> None:
        torch.set_num_threads(1)
        self.axes, self.type = axes, torch.bfloat16 if bfloat16 else torch.float32
        self.format = torch.channels_last if bfloat16 else torch.contiguous_format
        self.model = make().eval().to(self.type).to(memory_format=self.format)
        self.model.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, _: nn.Module, __: object, maps: torch.Tensor) -> None:
        self.components = self.axes.project(maps)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Batch:
        pixels = torch.from_numpy(np.stack(list(batch["pixels"]))).float().div_(255)
        inputs = functional.normalize(pixels, MEAN, STD, inplace=True)
        outputs = self.model(inputs.to(dtype=self.type, memory_format=self.format))
        return {
            "id": batch["id"],
            "components": self.components.numpy(),
            "target": outputs.float().max(1).values.numpy(),
            "actor": np.full(len(batch["id"]), os.getpid()),
        }


def components(
    folder: Path,
    make: Callable[[], nn.Module],
    layer: str,
    axes: Axes,
    *,
    actors: int = 1,
    batch: int = 32,
    bfloat16: bool = False,
) -> Batch:
    """`id`, `components` (n, C, p), `target` (the largest logit) and `actor` (its process) of every image, by id."""
    rows = sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
    blocks = max(2 * actors, rows // batch)  # by itself it makes one block of small files: one actor would do it all
    data = ray.data.read_parquet(str(folder), columns=["image", "id"]).repartition(blocks)
    data = data.map_batches(decode, batch_size=batch)
    data = data.map_batches(
        Project,
        fn_constructor_args=(make, layer, axes, bfloat16),
        compute=ray.data.ActorPoolStrategy(size=actors),
        batch_size=batch,
    )
    parts = list(data.iter_batches(batch_size=None, batch_format="numpy"))
    order = np.argsort(np.concatenate([part["id"] for part in parts]))
    return {name: np.concatenate([np.stack(list(part[name])) for part in parts])[order] for name in parts[0]}


def random_resnet18() -> nn.Module:
    """Random weights serve here."""
    torch.manual_seed(0)
    model: nn.Module = models.resnet18(weights=None)
    return model


def main() -> None:
    from tests.benchmarks.instead.axes import fit_axes
    from tests.benchmarks.instead.dataloader import Photos, maps_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layer", default="layer4.1.conv2")
    parser.add_argument("--actors", type=int, default=2)
    arguments = parser.parse_args()
    axes = fit_axes(maps_of(Photos(arguments.folder), random_resnet18().eval(), arguments.layer, 256))
    ray.init("local", include_dashboard=False)
    found = components(arguments.folder, random_resnet18, arguments.layer, axes, actors=arguments.actors)
    print({name: value.shape for name, value in found.items()})


if __name__ == "__main__":
    main()
