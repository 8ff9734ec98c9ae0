"""Which axis is the channel: decided by evidence on real and random architectures, or asked for; never by guess."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pcace_dist.errors import ModelError
from pcace_dist.models.ablation.replacement import Ablation
from pcace_dist.models.layouts import keep, settle
from pcace_dist.models.tap import channels_and_positions


def channels(model: nn.Module, layer: str, size: int = 32, layouts: Mapping[str, str] = MappingProxyType({})) -> int:
    """How many channels the tap finds in a layer once the axes are settled."""
    model.eval()
    images = torch.rand(2, 3, size, size)
    settle([model], [layer], layouts, images)
    return int(tapped(model, layer, images).shape[1])


def tapped(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    tapped_maps: list[Tensor] = []

    def hook(module: nn.Module, _: object, output: object) -> None:
        tapped_maps.append(channels_and_positions(layer, module, output)[0].clone())

    handle: RemovableHandle = model.get_submodule(layer).register_forward_hook(hook)
    with torch.inference_mode():
        model(images)
    handle.remove()
    return tapped_maps[0]


def small_swin() -> nn.Module:
    net: nn.Module = torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=5)
    return net


@pytest.mark.parametrize(
    "layer", ["features.0", "features.0.1", "features.1.0", "features.1.0.attn", "features.1.0.mlp.1"]
)
def test_a_swin_has_its_channels_last(layer: str) -> None:
    assert channels(small_swin(), layer, 64) == (96 if layer.endswith("mlp.1") else 24)


@pytest.mark.parametrize(
    ("layer", "count"), [("features.0", 16), ("features.1.0", 16), ("features.1.0.block.4", 64), ("features.1", 16)]
)
def test_blocks_of_a_convnext_have_either(layer: str, count: int) -> None:
    setting = [
        torchvision.models.convnext.CNBlockConfig(16, 24, 2),
        torchvision.models.convnext.CNBlockConfig(24, None, 1),
    ]
    assert channels(torchvision.models.ConvNeXt(setting, num_classes=5), layer, 64) == count


@pytest.mark.parametrize("layer", ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.mlp", "encoder"])
def test_a_vision_transformer_has_tokens(layer: str) -> None:
    net = torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 40, num_classes=5)
    assert channels(net, layer) == 24


@pytest.mark.parametrize("layer", ["layer1", "layer1.0", "layer4.1", "relu", "avgpool"])
def test_a_residual_network_has_its_channels_first_as_ever(layer: str) -> None:
    net = torchvision.models.resnet18(weights=None).eval()
    assert settle([net], [layer], {}, torch.rand(2, 3, 64, 64)) == {}


class Sequence1d(nn.Module):
    """Columns of the image as a sequence, through one-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(32, 6, 3, padding=1), nn.GELU(), nn.Conv1d(6, 10, 3, padding=1))
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x.mean(1)).mean(2))
        return out


@pytest.mark.parametrize(("layer", "count"), [("body", 10), ("body.1", 6)])
def test_blocks_of_one_dimensional_convolutions_are_no_tokens(layer: str, count: int) -> None:
    assert channels(Sequence1d(), layer) == count


class Opaque(nn.Module):
    """A cube of 8 x 8 x 8 that comes from nowhere, for images of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3 * 32 * 32, 512) - 0.5)
        self.inner = nn.Identity()
        self.head = nn.Parameter(torch.rand(512, 4) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        cube: Tensor = self.inner((x.flatten(1) @ self.weight).reshape(-1, 8, 8, 8))
        return cube.flatten(1) @ self.head


def test_where_nothing_tells_the_job_is_asked_and_its_answer_counts() -> None:
    with pytest.raises(ModelError, match=r"layers inner: gives \(batch, 8, 8, 8\) and nothing tells") as caught:
        channels(Opaque(), "inner")
    assert "layers: [{name: inner, layout: BHWC}]" in str(caught.value)
    torch.manual_seed(0)
    net, images = Opaque().eval(), torch.rand(2, 3, 32, 32)
    maps = {}
    for layout in ("BCHW", "BHWC"):
        settle([net], ["inner"], {"inner": layout}, images)
        maps[layout] = tapped(net, "inner", images).reshape(2, 8, 8, 8)
    assert torch.equal(maps["BHWC"], maps["BCHW"].permute(0, 3, 1, 2))


def test_a_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match=r"layout BNC does not fit its output, \(batch, 8, 8, 8\)"):
        channels(Opaque(), "inner", layouts={"inner": "BNC"})


def test_the_job_may_contradict_the_evidence() -> None:
    assert channels(small_swin(), "features.1.0", 64, {"features.1.0": "BCHW"}) == 16


def test_an_ablation_replaces_the_same_channels() -> None:
    net = small_swin().eval()
    images = torch.rand(2, 3, 64, 64)
    settle([net], ["features.1.0"], {}, images)
    with Ablation(net, "features.1.0", [3], torch.zeros(24, 1)):
        maps = tapped(net, "features.1.0", images)
    assert not maps[:, 3].any() and maps[:, 4].any()


def test_a_copy_of_the_model_knows_what_was_kept() -> None:
    net = small_swin()
    keep([net], {"features.1.0": "last"})
    import copy

    assert tapped(copy.deepcopy(net).eval(), "features.1.0", torch.rand(2, 3, 64, 64)).shape[1] == 24


# -- random architectures whose channel axis is known


class Turn(nn.Module):
    """Channels to the last axis or back."""

    def __init__(self, to: str) -> None:
        super().__init__()
        self.side = to

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1) if self.side == "last" else x.movedim(-1, 1)


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class OfOneSize(nn.Module):
    """Takes images of 16 x 16 only, as networks with a position embedding do."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 16:
            raise ValueError("not 16 pixels")
        return x


class Flat(nn.Module):
    """Maps to tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Head(nn.Module):
    """The mean over positions, by what the last layer gives."""

    def __init__(self, count: int, axis: str) -> None:
        super().__init__()
        self.axis = axis
        self.read = nn.Linear(count, 4)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.flatten(1, -2).mean(1) if self.axis == "last" else x.flatten(2).mean(2)
        out: Tensor = self.read(pooled)
        return out


def random_network(draw: random.Random) -> tuple[nn.Sequential, list[int]]:
    """A network of random blocks, and how many channels each gives."""
    count = draw.choice([4, 8, 16, 32])
    blocks: list[nn.Module] = [nn.Conv2d(3, count, 3, stride=draw.choice([1, 2, 4]), padding=1)]
    counts, axis, tokens = [count], "first", False
    steps: dict[str, Callable[[], nn.Module]]
    for _ in range(draw.randint(3, 8)):
        wide = draw.choice([count, 8, 16, 24])
        if axis == "first":
            steps = {
                "conv": lambda: nn.Conv2d(count, wide, 3, padding=1),  # noqa: B023
                "block": lambda: Residual(nn.Sequential(nn.Conv2d(count, count, 3, padding=1), nn.BatchNorm2d(count))),  # noqa: B023
                "mixed": lambda: Residual(nn.Sequential(Turn("last"), nn.Linear(count, count), Turn("first"))),  # noqa: B023
                "relu": lambda: nn.ReLU(),
                "turn": lambda: Turn("last"),
                "flat": lambda: Flat(),
            }
        else:
            steps = {
                "linear": lambda: nn.Sequential(nn.LayerNorm(count), nn.Linear(count, wide), nn.GELU()),  # noqa: B023
                "block": lambda: Residual(nn.Sequential(nn.LayerNorm(count), nn.Linear(count, count))),  # noqa: B023
                "gelu": lambda: nn.GELU(),
            } | ({} if tokens else {"turn": lambda: Turn("first")})
        kind = draw.choice(list(steps))
        blocks.append(steps[kind]())
        count = wide if kind in ("conv", "linear") else count
        if kind == "turn":
            axis = "last" if axis == "first" else "first"
        if kind == "flat":
            axis, tokens = "last", True
        counts.append(count)
    return nn.Sequential(*blocks, Head(count, axis)), counts


@pytest.mark.parametrize("sizes", ["any", "one"])
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_are_read_right_or_asked_about(seed: int, sizes: str) -> None:
    torch.manual_seed(seed)
    network, counts = random_network(random.Random(seed))
    whole = nn.Sequential(OfOneSize() if sizes == "one" else nn.Identity(), network)
    refused = 0
    for index, count in enumerate(counts):
        try:
            assert channels(whole, f"1.{index}", 16) == count, f"{index}: {network}"
        except ModelError as error:
            assert "which axis is the channel" in str(error)
            refused += 1
    assert refused <= 1 or sizes == "one"
