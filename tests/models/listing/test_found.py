"""Layers as a forward pass shows them: channels, maps, axes, what `all` takes, and what cannot be ranked."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from pcace_dist.errors import ModelError, NotInstalled
from pcace_dist.models.layers import resolve_layers
from pcace_dist.models.listing.found import Layers, layers_of
from tests.models.library_models import clip, vit


@pytest.fixture(scope="module")
def resnet() -> Layers:
    return layers_of(resnet18(weights=None).eval(), (3, 64, 64))


def test_a_resnets_convolutions_are_what_all_takes(resnet: Layers) -> None:
    convs = [layer.name for layer in resnet.layers if layer.all]
    assert convs == resolve_layers(resnet18(weights=None), ["all"])
    assert sum(layer.channels or 0 for layer in resnet.layers if layer.all) == 4800


def test_channels_maps_and_parameters_are_those_of_the_output(resnet: Layers) -> None:
    found = {layer.name: (layer.type, layer.channels, layer.map, layer.layout) for layer in resnet.layers}
    assert found["conv1"] == ("Conv2d", 64, (32, 32), "BCHW")
    assert found["layer4.1"] == ("BasicBlock", 512, (2, 2), "BCHW")
    assert found["fc"] == ("Linear", 1000, (), "BC")
    sizes = {layer.name: layer.parameters for layer in resnet.layers}
    assert sizes["conv1"] == 64 * 3 * 49 and sizes["layer1"] == sizes["layer1.0"] + sizes["layer1.1"]


def test_a_module_that_runs_twice_is_not_listed(resnet: Layers) -> None:
    assert resnet.not_listed["layer1.0.relu"] == "runs more than once in a forward pass"
    assert "layer1.0.relu" not in {layer.name for layer in resnet.layers}
    assert resnet.transformer is None


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dropout, self.aux = nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(), nn.Conv2d(4, 2, 1)
        self.windows, self.grid = nn.Linear(8, 8), Grid()
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.dropout(self.stem(x))
        self.windows(maps.reshape(-1, 8))
        self.grid(maps)
        tokens = maps.flatten(2).permute(2, 0, 1)
        out: Tensor = self.head(self.attention(tokens, tokens, tokens)[0].mean(0))
        return out


class Grid(nn.Module):
    """(B, 4, 4, 4): nothing tells which of the axes is the channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).transpose(1, 2).clone()


def test_what_cannot_be_ranked_has_a_reason() -> None:
    found = layers_of(Odd().eval(), (1, 8, 8))
    assert found.not_listed == {
        "dropout": "hands on what it gets",
        "aux": "does not run in a forward pass",
        "windows": "gives a tensor whose first axis is not the image",
        "attention.out_proj": "does not run in a forward pass",
    }


def test_tokens_before_images_are_turned() -> None:
    attention = next(one for one in layers_of(Odd().eval(), (1, 8, 8)).layers if one.name == "attention")
    assert (attention.channels, attention.map, attention.layout) == (4, (64,), "BNC")


def test_without_a_size_modules_say_what_they_can() -> None:
    found = layers_of(Odd(), None)
    assert [(one.name, one.channels, one.map) for one in found.layers] == [
        ("stem", 4, None),
        ("aux", 2, None),
        ("windows", 8, None),
        ("attention.out_proj", 4, None),
        ("head", 3, None),
    ]


def test_a_model_that_does_not_take_the_images_is_named() -> None:
    with pytest.raises(ModelError, match=r"the model fails on images of shape \(3, 33, 33\): .*; see model.input"):
        layers_of(vit().eval(), (3, 33, 33))
    with pytest.raises(ModelError, match="its forward takes input_ids, pixel_values: wrap it"):
        layers_of(clip().eval(), (3, 16, 16))


def test_all_of_it_goes_into_json_and_pandas(resnet: Layers) -> None:
    rows = resnet.to_pandas()
    assert list(rows["name"]) == [layer["name"] for layer in resnet.to_json()["layers"]]
    assert rows["all"].sum() == 20


def test_without_pandas_a_line_says_what_to_install(resnet: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotInstalled, match=r"Layers\.to_pandas needs packages of the extra `pandas`; install them: "):
        resnet.to_pandas()


# -- tokens


def test_a_transformers_tokens_heads_and_mlp() -> None:
    found = layers_of(vit().eval(), (3, 32, 32)).transformer
    assert found is not None
    assert (found.tokens, found.patches, found.before, found.cls) == (17, (4, 4), 1, True)
    assert (found.width, found.heads, found.mlp) == (16, 2, 24)
    assert found.mlp_globs == ("vit.layers.*.mlp.fc1",)


def test_registers_are_counted_before_the_patches() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, reg_tokens=4, class_token=False, global_pool="avg")
    found = layers_of(model.eval(), (3, 32, 32)).transformer
    assert found is not None and (found.tokens, found.patches, found.before, found.cls) == (8, (2, 2), 4, False)


def test_tokens_that_are_mixed_are_not_taken_for_channels() -> None:
    model = timm.create_model("mixer_s32_224", img_size=64)
    found = layers_of(model.eval(), (3, 64, 64)).transformer
    assert found is not None and (found.tokens, found.width, found.heads) == (4, 512, None)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_atto"])
def test_networks_of_several_stages_have_no_one_number_of_tokens(name: str) -> None:
    model = timm.create_model(name)
    assert layers_of(model.eval(), (3, 224, 224)).transformer is None


def test_norms_alone_make_no_transformer() -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), flat=nn.Flatten(2), norm=nn.LayerNorm(36)))
    assert (
        layers_of(model.eval(), (3, 8, 8)).transformer is not None
    )  # one norm of (B, 4, 36): tokens, as far as is told
