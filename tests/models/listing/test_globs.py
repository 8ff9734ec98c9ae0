"""A glob selects the layers that are alike, and nothing else: what `layers` prints can be written into a job."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import nn

from pcace_dist.models.layers import resolve_layers
from pcace_dist.models.listing.found import layers_of
from pcace_dist.models.listing.globs import row_globs


@pytest.mark.parametrize(
    "model",
    [
        torchvision.models.resnet18(),
        torchvision.models.densenet121(),
        torchvision.models.mobilenet_v3_small(),
        timm.create_model("vit_tiny_patch16_224"),
        torchvision.models.vit_b_16(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_every_glob_selects_layers_of_one_kind(model: nn.Module) -> None:
    found = {layer.name: layer for layer in layers_of(model.eval(), None).layers}
    for glob in {layer.glob for layer in found.values()}:
        selected = [found[name] for name in resolve_layers(model, [glob])]
        assert {layer.glob for layer in selected} == {glob}
        assert len({(layer.type, layer.channels) for layer in selected}) == 1
    assert len({layer.glob for layer in found.values()}) < len(found)


def globs(*names: str, row: object = "row") -> dict[str, str]:
    """Of a model whose modules are identities of these names."""
    model = nn.Module()
    for name in names:
        place = model
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in place._modules:
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.add_module(last, nn.Identity())
    return row_globs(model, dict.fromkeys(names, row))


def test_numbers_between_dots_become_stars() -> None:
    assert set(globs("blocks.0.mlp.fc1", "blocks.1.mlp.fc1").values()) == {"blocks.*.mlp.fc1"}
    assert set(globs("encoder.layer_0.ln", "encoder.layer_11.ln").values()) == {"encoder.layer_*.ln"}


def test_a_star_at_the_end_would_take_what_lies_inside() -> None:
    names = [f"blocks.{number}" for number in range(11)]
    found = globs(*names, *(f"{name}.fc" for name in names))
    assert found["blocks.0"] == found["blocks.9"] == "blocks.[0-9]" and found["blocks.10"] == "blocks.10"
    assert found["blocks.3.fc"] == "blocks.*.fc"


def test_roles_are_no_numbers() -> None:
    assert globs("block.conv1", "block.conv2") == {"block.conv1": "block.conv1", "block.conv2": "block.conv2"}


def test_what_differs_has_a_glob_of_its_own() -> None:
    model = nn.Sequential(OrderedDict(a=nn.Conv2d(1, 2, 1), b=nn.Conv2d(2, 2, 1)))
    with torch.no_grad():
        assert row_globs(model, {"a": 2, "b": 2}) == {"a": "a", "b": "b"}
