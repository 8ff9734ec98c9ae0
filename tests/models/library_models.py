"""Models of timm, transformers and torchvision as people have them, small and with random weights: nothing is fetched.

`pretrained` weights of torchvision and timm are files that are put where the library looks for what it has fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, ViTConfig, ViTForImageClassification

ANIMALS = {0: "cat", 1: "dog", 2: "cow"}
SQUEEZENET = "squeezenet1_1-b8a52dc0.pth"  # torchvision's smallest
TIMM = "test_resnet.r160_in1k"  # timm's
FROM_PRETRAINED = "transformers:AutoModelForImageClassification.from_pretrained"


def vit(**settings: Any) -> nn.Module:
    """A ViT of two blocks: 4 x 4 patches of 8 pixels, 2 heads, 16 channels, 24 in its MLP."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = ViTConfig(**{**sizes, "image_size": 32, "patch_size": 8, **settings})
    model: nn.Module = ViTForImageClassification(config)
    return model


def named_vit() -> nn.Module:
    return vit(id2label=ANIMALS, label2id={name: index for index, name in ANIMALS.items()})


def saved_vit(folder: Path) -> str:
    """The folder of a ViT, as `save_pretrained` writes it."""
    named_vit().save_pretrained(folder)  # type: ignore[operator]
    return str(folder)


def small_timm(name: str = TIMM, **settings: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, pretrained=False, **settings)
    return model


def saved_timm(file: Path) -> str:
    save_file(small_timm().state_dict(), file)
    return str(file)


def cached_squeezenet(torch_home: Path) -> Path:
    """torchvision's weights of SqueezeNet where torch.hub keeps files (TORCH_HOME): its architecture, random values."""
    file = torch_home / "hub" / "checkpoints" / SQUEEZENET
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
    return file


def clip() -> nn.Module:
    """A model of text and images: its forward takes input_ids first."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = CLIPConfig(
        text_config=CLIPTextConfig(**sizes, vocab_size=50).to_dict(),
        vision_config=CLIPVisionConfig(**sizes, image_size=16, patch_size=8).to_dict(),
        projection_dim=12,
    )
    model: nn.Module = CLIPModel(config)
    return model


class Wrapped(nn.Module):  # as docs/models.md has it
    def __init__(self) -> None:
        super().__init__()
        self.model: Any = clip()

    def forward(self, images: Tensor) -> Tensor:
        return self.model.vision_model(pixel_values=images).pooler_output  # type: ignore[no-any-return]


class Loaded:
    """Holds a model, as a pipeline does."""

    def __init__(self) -> None:
        self.task, self.model = "image-classification", vit()


def saved_processor(folder: Path, name: str, **settings: Any) -> str:
    """The folder of one of transformers' image processors, as `save_pretrained` writes it."""
    getattr(transformers, name)(**settings).save_pretrained(folder)
    return str(folder)
