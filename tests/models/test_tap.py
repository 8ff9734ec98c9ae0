"""The tap hands on what the layers give, without a copy, or says which layer it cannot serve."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, swin_t

from pcace_dist.errors import ModelError
from pcace_dist.models.tap import LayerTap

Seen = dict[str, tuple[Tensor, tuple[int, ...]]]


def tapped(model: nn.Module, layers: list[str], images: Tensor) -> Seen:
    """Copies of what the tap hands on in one pass."""
    seen: Seen = {}
    with torch.inference_mode(), LayerTap(model, layers, lambda n, m, s: seen.__setitem__(n, (m.clone(), s))):
        model(images)
    return seen


def outputs_of(model: nn.Module, layers: list[str], images: Tensor) -> dict[str, Tensor]:
    """The naive way: copy every output."""
    copies: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: copies.__setitem__(
                name, (output[0] if isinstance(output, tuple) else output).clone()
            )
        )
        for name in layers
    ]
    with torch.inference_mode():
        model(images)
    for handle in handles:
        handle.remove()
    return copies


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def transformer() -> VisionTransformer:
    return VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=20, num_classes=3
    ).eval()


def test_maps_vectors_and_positions_are_those_of_the_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )
    images = torch.randn(2, 3, 8, 9)
    seen, naive = tapped(model, ["0", "1", "4"], images), outputs_of(model, ["0", "1", "4"], images)
    assert {name: shape for name, (_, shape) in seen.items()} == {"0": (6, 7), "1": (6, 7), "4": ()}
    torch.testing.assert_close(seen["0"][0], naive["0"].flatten(2), rtol=0, atol=0)
    torch.testing.assert_close(seen["1"][0], naive["1"].flatten(2), rtol=0, atol=0)
    torch.testing.assert_close(seen["4"][0], naive["4"].unsqueeze(2), rtol=0, atol=0)
    assert bool((seen["0"][0] < 0).any())  # seen before the next layer worked in place


def test_tokens_of_a_vision_transformer_have_their_channels_last() -> None:
    model = transformer()
    layers = [
        "conv_proj",
        "encoder.layers.encoder_layer_0.self_attention",
        "encoder.layers.encoder_layer_1",
        "encoder.layers.encoder_layer_1.mlp.0",
        "heads.head",
    ]
    images = torch.randn(2, 3, 16, 16)
    seen, naive = tapped(model, layers, images), outputs_of(model, layers, images)
    assert seen["conv_proj"][1] == (2, 2)
    assert seen["heads.head"][0].shape == (2, 3, 1)
    for name, channels in zip(layers[1:4], (12, 12, 20), strict=True):
        maps, shape = seen[name]
        assert maps.shape == (2, channels, 5)  # 4 patches and the class token
        assert shape == (5,)
        torch.testing.assert_close(maps, naive[name].transpose(1, 2), rtol=0, atol=0)


def test_one_dimensional_convolutions_have_their_channels_first() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)).eval()
    images = torch.randn(2, 3, 4, 5)
    seen, naive = tapped(model, ["1", "2"], images), outputs_of(model, ["1", "2"], images)
    for name in ("1", "2"):
        torch.testing.assert_close(seen[name][0], naive[name], rtol=0, atol=0)
        assert seen[name][1] == (18,)


def test_linear_layers_and_layer_norm_have_their_channels_last_on_any_number_of_axes() -> None:
    model = swin_t(weights=None).eval()
    layers = ["features.1.0.norm1", "features.1.0.mlp.0", "features.0.0"]
    images = torch.randn(2, 3, 32, 32)
    seen, naive = tapped(model, layers, images), outputs_of(model, layers, images)
    assert {name: tuple(maps.shape) for name, (maps, _) in seen.items()} == {
        "features.1.0.norm1": (2, 96, 64),
        "features.1.0.mlp.0": (2, 384, 64),
        "features.0.0": (2, 96, 64),
    }
    expected = naive["features.1.0.norm1"].permute(0, 3, 1, 2).flatten(2)
    torch.testing.assert_close(seen["features.1.0.norm1"][0], expected, rtol=0, atol=0)


def test_attention_that_is_not_batch_first_is_turned_round() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            tokens = images.flatten(2).permute(2, 0, 1)
            result: Tensor = self.attention(tokens, tokens, tokens)[0]
            return result.mean(0)

    model, images = Attend().eval(), torch.randn(2, 4, 3, 3)
    seen, naive = tapped(model, ["attention"], images), outputs_of(model, ["attention"], images)
    torch.testing.assert_close(seen["attention"][0], naive["attention"].permute(1, 2, 0), rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_are_handed_on_without_a_copy(layout: torch.memory_format) -> None:
    maps_kept: list[Tensor] = []
    model = nn.Sequential(nn.Conv2d(3, 5, 3)).to(memory_format=layout)
    images = torch.randn(2, 3, 8, 8).to(memory_format=layout)
    with torch.inference_mode(), LayerTap(model, ["0"], lambda _, maps, __: maps_kept.append(maps)):
        output = model(images)
    assert output.is_contiguous(memory_format=layout)
    assert maps_kept[0].data_ptr() == output.data_ptr()
    torch.testing.assert_close(maps_kept[0], output.flatten(2), rtol=0, atol=0)


def test_tokens_are_handed_on_without_a_copy() -> None:
    maps_kept: list[Tensor] = []
    model = nn.Sequential(nn.Flatten(2), nn.Linear(4, 6))
    with torch.inference_mode(), LayerTap(model, ["1"], lambda _, maps, __: maps_kept.append(maps)):
        output = model(torch.randn(2, 3, 2, 2))
    assert maps_kept[0].data_ptr() == output.data_ptr()
    assert maps_kept[0].shape == (2, 6, 3)


def test_every_pass_is_handed_on_and_the_hooks_go_away() -> None:
    calls: list[str] = []
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    with LayerTap(model, ["0"], lambda name, _, __: calls.append(name)):
        model(torch.zeros(1, 1, 2, 2))
        model(torch.zeros(3, 1, 2, 2))
    model(torch.zeros(1, 1, 2, 2))
    assert calls == ["0", "0"]


def test_hooks_go_away_after_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1))

    def receive(*_: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), LayerTap(model, ["0"], receive):
        model(torch.zeros(1, 1, 2, 2))
    model(torch.zeros(1, 1, 2, 2))


def test_a_layer_that_runs_twice_is_named() -> None:
    shared = nn.Conv2d(1, 1, 1)
    model = nn.Sequential(OrderedDict(first=shared, again=shared))
    with pytest.raises(ModelError, match="layers first: runs more than once in a forward pass"):
        tapped(model, ["first"], torch.zeros(1, 1, 2, 2))


def test_a_layer_that_does_not_run_is_named() -> None:
    model = transformer()  # attention uses the weights of out_proj without calling it
    name = "encoder.layers.encoder_layer_0.self_attention.out_proj"
    with pytest.raises(ModelError, match=rf"layers {name}: does not run"):
        tapped(model, [name], torch.zeros(1, 3, 16, 16))


class Gives(nn.Module):
    """A layer that gives something odd, in a model that goes on with zeros."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> object:
        odd: dict[str, object] = {
            "text": "maps",
            "mapping": {"maps": images},
            "empty": (),
            "whole": images.flatten(1).long(),
            "scalar": images.sum(),
            "row": images.sum((1, 2, 3)),
            "sparse": images.flatten(1).to_sparse(),
            "complex": images.to(torch.complex64),
            "mixed": images.flatten(0, 1),
            "six": images[:, None, None],
        }
        return odd[self.kind]


class Around(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.odd = Gives(kind)

    def forward(self, images: Tensor) -> Tensor:
        self.odd(images)
        return images.new_zeros(len(images), 2)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("text", "gives str"),
        ("mapping", "gives dict"),
        ("empty", "gives tuple"),
        ("whole", r"gives torch\.int64"),
        ("scalar", r"of shape \(\)"),
        ("row", r"of shape \(2,\)"),
        ("sparse", r"gives a torch\.sparse_coo tensor"),
        ("complex", r"gives torch\.complex64"),
        ("mixed", "for a batch of 2 images; its first axis must be the image"),
        ("six", r"of shape \(2, 1, 1, 3, 4, 4\)"),
    ],
)
def test_a_layer_that_gives_something_else_is_named(kind: str, words: str) -> None:
    with pytest.raises(ModelError, match=rf"^layers odd: .*{words}"):
        tapped(Around(kind), ["odd"], torch.zeros(2, 3, 4, 4))
