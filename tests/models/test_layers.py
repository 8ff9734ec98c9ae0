"""Layers by name, glob and "all", and the norms of their channels' weights."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from pcace_dist.errors import ModelError
from pcace_dist.models.layers import conv_layers, excluded_layers, globs_of, output_axes, resolve_layers, weight_norm


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    model: nn.Module = resnet18(weights=None)
    return model


def test_all_means_every_convolution_of_a_resnet18(resnet: nn.Module) -> None:
    layers = resolve_layers(resnet, ["all"])
    assert len(layers) == 20
    assert layers == conv_layers(resnet)
    assert layers[0] == "conv1"
    assert "layer2.0.downsample.0" in layers


def test_layers_come_in_model_order_and_once(resnet: nn.Module) -> None:
    assert resolve_layers(resnet, ["layer4.1.conv2", "layer4.*.conv2", "conv1", "fc"]) == [
        "conv1",
        "layer4.0.conv2",
        "layer4.1.conv2",
        "fc",
    ]


def test_an_exact_name_is_any_module(resnet: nn.Module) -> None:
    assert resolve_layers(resnet, ["layer1.0", "avgpool"]) == ["layer1.0", "avgpool"]


def test_a_glob_prefers_convolutions_and_else_takes_what_it_matches(resnet: nn.Module) -> None:
    assert resolve_layers(resnet, ["layer1.0*"]) == ["layer1.0.conv1", "layer1.0.conv2"]
    assert resolve_layers(resnet, ["layer1.*.bn1"]) == ["layer1.0.bn1", "layer1.1.bn1"]


def test_layers_that_are_left_out_go_with_the_first_pattern_that_does(resnet: nn.Module) -> None:
    patterns = ["layer1.0*", "!layer1.0.conv1", "!layer1.*", "layer2.0.conv1", "!layer4*"]
    assert resolve_layers(resnet, patterns) == ["layer2.0.conv1"]
    assert excluded_layers(resnet, patterns) == {"layer1.0.conv1": "!layer1.0.conv1", "layer1.0.conv2": "!layer1.*"}


def test_a_shared_module_goes_by_its_first_name() -> None:
    shared = nn.Conv2d(1, 2, 1)
    model = nn.Sequential(OrderedDict(first=shared, second=shared))
    assert resolve_layers(model, ["second"]) == ["first"]


def test_a_pattern_without_match_lists_the_layers_closest_first(resnet: nn.Module) -> None:
    with pytest.raises(ModelError) as error:
        resolve_layers(resnet, ["layer4.2.conv2"])
    message = str(error.value)
    assert message.startswith("layers 'layer4.2.conv2': matches no module")
    listed = message.partition("closest first: ")[2].split(", ")
    assert "layer4.1.conv2" in listed[:3]
    assert message.endswith("and 8 more")
    assert "\n" not in message


def test_close_modules_that_are_no_convolutions_are_listed_too(resnet: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"closest first: layer1\.0\.bn1, "):
        resolve_layers(resnet, ["layer1.0.bn11"])


def test_all_of_a_model_without_convolutions_lists_its_modules() -> None:
    model = nn.Sequential(OrderedDict(one=nn.Linear(2, 3), two=nn.Linear(3, 1)))
    with pytest.raises(
        ModelError, match=r"layers 'all': is every convolution, and the model has none; name others: one, two"
    ):
        resolve_layers(model, ["all"])


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_norm_is_the_length_of_each_filter(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups), nn.Linear(5, 2))
    conv, linear = weight_norm(model, "0"), weight_norm(model, "1")
    assert conv is not None
    assert linear is not None
    assert conv.dtype == torch.float64
    weight = model.get_parameter("0.weight").detach().double()
    torch.testing.assert_close(conv, torch.stack([weight[c].pow(2).sum().sqrt() for c in range(6)]))
    assert linear.shape == (2,)


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_norm_of_a_transposed_convolution_follows_its_response(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False).double()
    norms = weight_norm(nn.Sequential(layer), "0")
    assert norms is not None
    # an impulse in one input channel gives that channel's part of each filter
    impulses = torch.eye(4, dtype=torch.float64).reshape(4, 4, 1, 1)
    squares = layer.forward(impulses).detach().pow(2).sum(dim=(0, 2, 3))
    torch.testing.assert_close(norms, squares.sqrt())


def test_weight_norm_is_none_where_a_layer_has_no_such_weights() -> None:
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.LazyLinear(2))
    assert weight_norm(model, "0") is None
    assert weight_norm(model, "1") is None


def test_globs_have_a_star_for_every_number_before_a_dot() -> None:
    names = ["stem.0", "blocks.0.mlp.fc1", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2", "3"]
    assert globs_of(names) == ["stem.0", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2", "3"]


def test_the_axes_of_outputs_are_counted_where_a_layer_runs() -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), flat=nn.Flatten(), lstm=nn.LSTM(4 * 36, 5)))
    assert output_axes(model, ["conv", "flat", "lstm"], (3, 8, 8)) == {"conv": 4, "flat": 2, "lstm": 2}
    assert output_axes(model, ["conv"], (3, 9, 9)) is None  # it does not take such images
