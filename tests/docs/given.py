"""What pages take for granted: a run of the MNIST example, photographs in folders. Each is made once for all pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from examples.imagenet.photographs import write_crops
from tests.docs.pages import ROOT, Block
from tests.docs.runner import Recipe, run_page


def examples(folder: Path) -> None:
    (folder / "examples").symlink_to(ROOT / "examples")


def mnist(folder: Path) -> None:
    """runs/mnist, digit by digit, with codes."""
    examples(folder)
    command = "pcace rank examples/mnist/job.yaml --set statistics.keep_codes=true --top 1"
    run_page([Block(folder, "sh", command)], Recipe(), folder)


def photos(folder: Path) -> None:
    """photos/china and photos/flower, 110 small crops of a photograph each."""
    write_crops(folder / "photos", 110)


def vit(folder: Path) -> None:
    """The photographs and places.safetensors: a ViT-Tiny of random weights, whose head alone is fitted to them."""
    photos(folder)
    torch.manual_seed(0)
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=2, reg_tokens=4).eval()
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    files = sorted(folder.rglob("*.jpg"))
    with torch.inference_mode():
        tokens = [model.forward_features(transform(Image.open(file))[None]) for file in files]
        features = torch.cat([model.forward_head(one, pre_logits=True) for one in tokens])
    truth = torch.tensor([0.5 if file.parent.name == "flower" else -0.5 for file in files])
    centred = features - features.mean(0)
    ridge = 1e-3 * len(files) * centred.var(0).mean() * torch.eye(centred.shape[1])
    weight = 8 * torch.linalg.solve(centred.T @ centred + ridge, centred.T @ truth)
    model.head.weight.data = torch.stack([-weight, weight])
    model.head.bias.data = torch.stack([features.mean(0) @ weight, -(features.mean(0) @ weight)])
    save_file(model.state_dict(), folder / "places.safetensors")


GIVEN: dict[str, Callable[[Path], None]] = {"examples": examples, "mnist": mnist, "photos": photos, "vit": vit}
