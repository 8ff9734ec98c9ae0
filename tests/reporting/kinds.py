"""Small runs of all kinds that a report is made of: a few hundred images, real or random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from examples.street.city import make_city
from tests.digits import digits_job, ranked, write_digits
from tests.examples.street_files import rank_city
from tests.reporting.conftest import quietly, square_job
from tests.reporting.square import write_squares

DEPTH = 50


class DeepNetwork(nn.Module):
    """Fifty convolutions of four channels, one after the other, each beside a way past it; logits (n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.steps = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(DEPTH - 1))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        for step in self.steps:
            maps = maps + torch.relu(step(maps)) / DEPTH
        return torch.stack([maps[:, 0].mean((1, 2)), maps[:, 1].mean((1, 2))], 1)


def _page(run: Path, **options: object) -> Path:
    return Path(quietly(run, **{"top": 1, "synthesis": False, **options}).path)


def mnist_by_digit(folder: Path) -> Path:
    write_digits(folder / "data", 1200)
    ranked(digits_job(folder / "data", folder / "run", group_by="label"))
    return _page(folder / "run", synthesis=True)


def street_regression(folder: Path) -> Path:
    return Path(rank_city(make_city(200, views=2, seed=7), folder).run.path) / "report.html"


def vit(folder: Path) -> Path:
    write_squares(folder / "data", 300)
    model = {"factory": "tests.reporting.square:square_vit", "weights": "factory", "input": {"mode": "L"}}
    layers = ["vit.embeddings", "vit.layers.0.mlp.fc1", "vit.layers.1.attention.v_proj"]
    ranked(square_job(folder / "data", folder / "run", model=model, layers=layers, group_by=None))
    return _page(folder / "run")


def resnet18(folder: Path) -> Path:
    write_squares(folder / "data", 300)
    model = {"factory": "torchvision:resnet18", "kwargs": {"num_classes": 2}, "weights": "random"}
    model |= {"input": {"resize": 64, "crop": 64}}
    layers = ["layer1.1.conv2", "layer4.1.conv2"]
    ranked(square_job(folder / "data", folder / "run", model=model, layers=layers, target={"logit": 1}, group_by=None))
    return _page(folder / "run")


def fifty_layers(folder: Path) -> Path:
    write_squares(folder / "data", 300)
    model = {"factory": "tests.reporting.kinds:DeepNetwork", "weights": "random", "input": {"mode": "L"}}
    ranked(square_job(folder / "data", folder / "run", model=model, layers="all", group_by=None))
    return _page(folder / "run")


def two_hundred_images(folder: Path) -> Path:
    write_squares(folder / "data", 200)
    ranked(square_job(folder / "data", folder / "run", group_by=None))
    return _page(folder / "run")


def from_codes(folder: Path) -> Path:
    write_squares(folder / "data", 400)
    kept = {"components": 2, "pilot": 200}
    ranked(square_job(folder / "data", folder / "kept", statistics=kept | {"keep_codes": True}))
    ranked(square_job(folder / "kept", folder / "run", statistics=kept, target={"column": "amount"}, group_by=None))
    return _page(folder / "run")


KINDS: tuple[Callable[[Path], Path], ...] = (
    mnist_by_digit,
    street_regression,
    vit,
    resnet18,
    fifty_layers,
    two_hundred_images,
    from_codes,
)
