"""Where effects are taken from, and gradients there, in networks of every habit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pcace_dist.models.effects.gradients import PlaceGradients
from pcace_dist.models.effects.places import Place, PlaceTap, find_places
from pcace_dist.models.layers import conv_layers

F = nn.functional
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """Two convolutions, with `between` called behind the first one's batch norm."""

    def __init__(self, between: Callable[[Written, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.inplace = nn.ReLU(inplace=True)
        self.other = nn.Conv2d(4, 5, 3)
        self.head = nn.Linear(5, 3)
        self.between = between

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.other(self.between(self, self.conv(images))).mean((2, 3)))
        return outputs


HABITS: dict[str, tuple[Callable[[Written, Tensor], Tensor], Place | None]] = {
    "module": (lambda m, x: m.relu(m.norm(x)), Place("relu")),
    "in place": (lambda m, x: m.inplace(m.norm(x)), Place("inplace")),
    "without norm": (lambda m, x: m.relu(x), Place("relu")),
    "function": (lambda m, x: F.relu(m.norm(x)), Place("norm", 0, "relu")),
    "method": (lambda m, x: m.norm(x).relu(), Place("norm", 0, "relu")),
    "function without norm": (lambda m, x: torch.tanh(x), Place("conv", 0, "tanh")),
    "shared": (lambda m, x: m.relu(m.relu(m.norm(x)) - 1), Place("relu")),
    "second call": (lambda m, x: m.relu(m.norm(x + m.relu(torch.zeros(1)))), None),
    "skip": (lambda m, x: m.relu(m.norm(x)) + x, None),
    "skip behind the norm": (lambda m, x: (y := m.norm(x)) + m.relu(y), None),
    "none": (lambda m, x: m.norm(x), None),
    "with an option": (lambda m, x: F.leaky_relu(m.norm(x), 0.3), None),
}


@pytest.mark.parametrize("habit", HABITS)
def test_what_follows_is_found_where_it_alone_takes_the_output(habit: str) -> None:
    between, place = HABITS[habit]
    model = Written(between).eval()
    found = find_places(model, ["conv", "other"], IMAGES, at="activation")
    assert found == {"conv": place or Place("conv"), "other": Place("other")}
    assert Place.from_json(found["conv"].to_json()) == found["conv"]
    assert find_places(model, ["conv"], IMAGES, at="output") == {"conv": Place("conv")}


@pytest.mark.parametrize("habit", HABITS)
def test_gradients_are_those_at_the_place_and_the_model_stays_as_it_was(habit: str) -> None:
    model = Written(HABITS[habit][0]).eval()
    model.norm.running_mean = torch.tensor([0.3, -0.2, 0.1, 0.0])
    places = find_places(model, ["conv"], IMAGES, at="activation")
    with torch.no_grad():
        expected = model(IMAGES)
    outputs, maps, (found,) = PlaceGradients(model, places)(IMAGES, [lambda outputs: outputs[:, 1]])
    assert torch.equal(outputs, expected)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), PlaceTap(model, places, lambda layer, own, _: seen.update({layer: own.clone()})):
        model(IMAGES)
    assert torch.equal(seen["conv"], maps["conv"])
    gradient = found["conv"]
    assert gradient is not None
    if HABITS[habit][1] is not None and "shared" not in habit:  # the rest of the model is linear in it
        assert model.other.bias is not None
        offset = model.other.bias.mul(model.head.weight[1]).sum() + model.head.bias[1]
        assert torch.allclose((gradient * maps["conv"]).sum((1, 2)) + offset, expected[:, 1], atol=1e-4)


def test_known_networks() -> None:
    resnet = torchvision.models.resnet18().eval()
    places = find_places(resnet, conv_layers(resnet), IMAGES, at="activation")
    assert places["conv1"] == Place("relu") and places["layer1.0.conv1"] == Place("layer1.0.relu")
    assert places["layer1.0.conv2"] == Place("layer1.0.conv2")  # a sum follows
    mobile = torchvision.models.mobilenet_v3_small().eval()
    found = find_places(mobile, ["features.0.0", "features.1.block.0.0"], IMAGES, at="activation")
    assert found == {
        "features.0.0": Place("features.0.2"),
        "features.1.block.0.0": Place("features.1.block.0.2"),
    }


def test_a_layer_without_gradient_has_none() -> None:
    def detached(model: Written, maps: Tensor) -> Tensor:
        behind: Tensor = model.relu(model.norm(maps))
        return behind.detach()

    model = Written(detached).eval()
    gradients = PlaceGradients(model, {"conv": Place("relu"), "other": Place("other")})
    _, _, (found,) = gradients(IMAGES, [lambda outputs: outputs[:, 0]])
    assert found["conv"] is None and found["other"] is not None


def test_a_path_between_mean_and_map_explains_the_difference() -> None:
    model = Written(lambda m, x: m.relu(m.norm(x)).square()).eval()
    places = find_places(model, ["conv"], IMAGES, at="activation")
    gradients = PlaceGradients(model, places)
    target = [lambda outputs: outputs[:, 2]]
    _, maps, _ = gradients(IMAGES, target)
    mean = maps["conv"].mean(0)
    outputs, _, (found,) = gradients.along_path(IMAGES, target, {"conv": mean})
    own = found["conv"]
    assert own is not None
    with torch.no_grad():
        shape = (4, 30, 30)
        at_mean = model.head(model.other(mean.reshape(1, *shape).square()).mean((2, 3)))[0, 2]
    explained = (own * (maps["conv"] - mean)).sum((1, 2))
    assert torch.allclose(explained, outputs[:, 2] - at_mean, atol=1e-4)


@pytest.mark.parametrize("layer", ["0", "1"])
def test_tokens_have_gradients_and_paths_too(layer: str) -> None:
    torch.manual_seed(0)

    class Tokens(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            hidden: Tensor = images.flatten(2).transpose(1, 2)
            for part in self:
                hidden = part(hidden)
            outputs: Tensor = hidden.mean(1)
            return outputs

    model = Tokens(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    gradients = PlaceGradients(model, {layer: Place(layer)})
    _, maps, (found,) = gradients(IMAGES, [lambda outputs: outputs[:, 0]])
    own = found[layer]
    assert own is not None and own.shape == maps[layer].shape == (2, 4 if layer == "0" else 2, 1024)
    _, _, (along,) = gradients.along_path(IMAGES, [lambda outputs: outputs[:, 0]], {layer: maps[layer].mean(0)})
    path = along[layer]
    assert path is not None and torch.allclose(path, own, atol=1e-6)  # linear: the same everywhere
