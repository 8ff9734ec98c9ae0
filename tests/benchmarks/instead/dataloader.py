"""A script with a DataLoader, a forward hook and ACE channel by channel.

    python -m tests.benchmarks.instead.dataloader FOLDER [--layer LAYER] [--pooled] [--ace package | vectorised]

Images come from Parquet files, are decoded by Pillow in worker processes and brought to size by torchvision's
transforms. A hook keeps a layer's maps: pooled to their mean (one number for each channel), or projected on the
principal axes of the first images (five). Everything is kept in memory until the end. Then ACE for every channel: with
the package `ace`, as the published code does, or with a vectorised one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

from tests.benchmarks.instead.axes import Axes, fit_axes

Floats = npt.NDArray[np.float64]

TRANSFORM = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


class Photos(Dataset[Tensor]):
    """The column `image` of all Parquet files of a folder."""

    def __init__(self, folder: Path, transform: transforms.Compose = TRANSFORM, mode: str = "RGB") -> None:
        values = pq.read_table(folder, columns=["image"])["image"].to_pylist()
        self.images = [value["bytes"] if isinstance(value, dict) else value for value in values]
        self.transform, self.mode = transform, mode

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self.transform(Image.open(io.BytesIO(self.images[index])).convert(self.mode))
        return image


@torch.inference_mode()
def activations(
    photos: Dataset[Tensor],
    model: nn.Module,
    layer: str,
    axes: Axes | None,
    *,
    processes: int = 1,
    batch: int = 32,
    bfloat16: bool = False,
) -> tuple[Tensor, Tensor]:
    """Components (n, C, p) of one layer, or its maps' means (n, C, 1) without `axes`; and the outputs (n, O).

    The model must be as the inputs are given to it: with `bfloat16` in that type and channels last.
    """
    kept: list[Tensor] = []
    outputs: list[Tensor] = []

    def hook(_: nn.Module, __: object, maps: Tensor) -> None:
        kept.append(maps.mean((2, 3)).unsqueeze(2).float() if axes is None else axes.project(maps))

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        for inputs in _loader(photos, batch, processes):
            if bfloat16:
                inputs = inputs.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
            outputs.append(model(inputs).float())
    finally:
        handle.remove()
    return torch.cat(kept), torch.cat(outputs)


def _loader(photos: Dataset[Tensor], batch: int, processes: int) -> DataLoader[Tensor]:
    """Forked processes, as a script on Linux has them by itself: ones that begin anew import torch for seconds."""
    if not processes:
        return DataLoader(photos, batch_size=batch)
    return DataLoader(
        photos, batch_size=batch, num_workers=processes, prefetch_factor=4, multiprocessing_context="fork"
    )


@torch.inference_mode()
def maps_of(photos: Photos, model: nn.Module, layer: str, count: int) -> Tensor:
    """Whole maps of the first images, for their principal axes."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, maps: kept.append(maps.clone()))
    try:
        model(torch.stack([photos[index] for index in range(min(count, len(photos)))]))
    finally:
        handle.remove()
    return kept[0]


def ace_of_channel(components: Floats, target: Floats) -> float:
    """The maximal correlation of one channel's components (n, p) with the target (n,), by the package `ace`."""
    from ace import ace

    solver = ace.ACESolver()
    solver.specify_data_set(list(components.T), target)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints every iteration
        solver.solve()
    return float(np.corrcoef(np.sum(solver.x_transforms, axis=0), solver.y_transform)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layer", default="layer4.1.conv2")
    parser.add_argument("--pooled", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--ace", choices=("package", "vectorised"), default="package")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = models.resnet18(weights=None).eval()
    photos = Photos(arguments.folder)
    axes = None if arguments.pooled else fit_axes(maps_of(photos, model, arguments.layer, 256))
    components, outputs = activations(photos, model, arguments.layer, axes, processes=arguments.processes)
    x, y = components.double().numpy(), outputs.max(1).values.double().numpy()
    if arguments.ace == "package":
        scores = np.array([ace_of_channel(x[:, channel], y) for channel in range(x.shape[1])])
    else:
        from pcace_dist.statistics.ace import ace as vectorised

        scores = vectorised(x, y, alpha=0.0).score
    for rank, channel in enumerate(np.argsort(-scores)[:10], 1):
        print(f"{rank:>2}  channel {channel:>4}  {scores[channel]:.3f}")


if __name__ == "__main__":
    main()
