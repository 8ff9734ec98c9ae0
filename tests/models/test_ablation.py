"""Ablation and profiles against networks whose answers are known in closed form."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pcace_dist.errors import ModelError
from pcace_dist.models.ablation import Ablation, bias_values, effect, lost_variance, norm_behind
from pcace_dist.models.profile import Profiler


class Sum(nn.Module):
    """Channels (n, C, 1, 1) to one output: their weighted sum."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.weights = torch.tensor(weights)

    def forward(self, maps: Tensor) -> Tensor:
        return (maps.flatten(1) * self.weights).sum(1, keepdim=True)


def planted(weights: list[float]) -> nn.Sequential:
    """Channel c is input c; the output is their sum with these weights."""
    count = len(weights)
    conv = nn.Conv2d(count, count, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(count).reshape(count, count, 1, 1))
    return nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU(inplace=True), total=Sum(weights))).requires_grad_(False)


def images(rows: int, channels: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, channels, 1, 1, generator=torch.Generator().manual_seed(seed)) + 0.5


def test_replaced_channels_give_the_values_and_others_what_they_gave() -> None:
    model, x = planted([1.0, 2.0, 4.0]), images(5, 3)
    with Ablation(model, "conv", [0, 2], torch.tensor([[10.0], [20.0], [30.0]])):
        changed = model(x)
    assert torch.allclose(changed[:, 0], 10 + 2 * x[:, 1, 0, 0] + 120)
    assert torch.allclose(model(x)[:, 0], (x[:, :, 0, 0] * torch.tensor([1.0, 2.0, 4.0])).sum(1)), "it is over"


def test_tokens_and_batch_second_outputs_are_replaced_by_channel() -> None:
    for module, shape in (
        (nn.Linear(4, 3), (2, 5, 4)),
        (nn.Linear(4, 3), (2, 4)),
        (nn.Linear(4, 3), (2, 6, 5, 4)),
    ):
        model = nn.Sequential(OrderedDict(layer=module)).requires_grad_(False)
        x = torch.randn(*shape)
        plain = model(x)
        with Ablation(model, "layer", [1], torch.full((3, 1), 7.0)):
            changed = model(x)
        assert (changed[..., 1] == 7).all()
        assert torch.equal(changed[..., [0, 2]], plain[..., [0, 2]])
    recurrent = nn.Sequential(OrderedDict(layer=nn.GRU(4, 3))).requires_grad_(False)
    with Ablation(recurrent, "layer", [1], torch.arange(15.0).reshape(3, 5)):
        changed = recurrent(torch.randn(5, 2, 4))[0]  # (tokens, batch, channels)
    assert torch.equal(changed[:, 0, 1], torch.arange(5.0, 10.0)) and torch.equal(changed[:, 1, 1], changed[:, 0, 1])


def test_a_map_is_replaced_position_by_position() -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1))).requires_grad_(False)
    mean = torch.arange(12.0).reshape(2, 6)
    with Ablation(model, "conv", [1], mean):
        changed = model(torch.randn(3, 1, 2, 3))
    assert torch.equal(changed[0, 1], mean[1].reshape(2, 3)) and torch.equal(changed[2, 1], changed[0, 1])


def test_the_bias_replacement_makes_the_batch_norm_behind_give_its_bias() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    layers = OrderedDict(conv=nn.Conv2d(1, 4, 3), norm=norm, relu=nn.ReLU(), other=nn.Conv2d(4, 2, 1))
    model = nn.Sequential(layers).requires_grad_(False)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        norm.weight.copy_(torch.tensor([0.5, 2.0, 3.0, 1.0]))
        norm.running_mean.copy_(torch.randn(4))  # type: ignore[union-attr]
    model.eval()
    x = torch.randn(2, 1, 6, 6)
    values = bias_values(model, "conv", x)
    assert values is not None
    norm_outputs: list[Tensor] = []
    norm.register_forward_hook(lambda *args: norm_outputs.append(args[2]))
    with Ablation(model, "conv", [1, 3], values):
        model(x)
    assert torch.allclose(
        norm_outputs[-1][:, [1, 3]], norm.bias[[1, 3]].reshape(1, 2, 1, 1).expand(2, 2, 4, 4), atol=1e-6
    )
    own = bias_values(model, "norm", x)
    assert own is not None and torch.equal(own[:, 0], norm.bias)
    assert norm_behind(model, "other", x) is None and bias_values(model, "other", x) is None


def test_lost_variance_is_1_less_r_squared() -> None:
    rng = np.random.default_rng(0)
    before, noise = rng.standard_normal(1000), rng.standard_normal(1000)
    assert lost_variance(before, 3 * before + 1) == pytest.approx(0)
    after = before + noise
    assert lost_variance(before, after) == pytest.approx(1 - np.corrcoef(before, after)[0, 1] ** 2)
    assert lost_variance(before, np.full(1000, 2.0)) == 1.0
    assert np.isnan(lost_variance(np.full(10, 3.0), noise[:10]))
    measured = effect(before, before + 2, np.array([True, False]))
    assert (measured.change, measured.accuracy) == pytest.approx((2.0, 0.5))


def test_profiles_are_what_the_formulas_say() -> None:
    weights = [1.0, -3.0, 0.0]
    model, x = planted(weights), images(64, 3)
    profiler = Profiler(model, ["conv"])
    batches = torch.split(x, 20)
    for part in batches:
        profiler.add({"conv": part.flatten(2)}, model(part)[:, 0])
    for part in batches:
        profiler.add_gradients(part, lambda outputs: outputs[:, 0])
    profile = profiler.profile("conv")
    pixels, y = x[:, :, 0, 0].double().numpy(), model(x)[:, 0].double().numpy()
    assert profile.mean.numpy()[:, 0] == pytest.approx(pixels.mean(0))
    assert profile.variance == pytest.approx(pixels.var(0))
    assert profile.taylor == pytest.approx(np.square(weights) * pixels.var(0))
    assert profile.pearson == pytest.approx([abs(np.corrcoef(pixels[:, c], y)[0, 1]) for c in range(3)])


class Checkpointed(nn.Module):
    """A layer that is run again in the backward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.inner, x, use_reentrant=False)
        return out


def test_gradients_of_a_checkpointed_model_are_those_of_the_model() -> None:
    plain, x = planted([1.0, -3.0, 0.5]), images(32, 3)
    taylor = []
    for model, layer in ((plain, "conv"), (Checkpointed(plain), "inner.conv")):
        profiler = Profiler(model, [layer])
        profiler.add({layer: x.flatten(2)}, plain(x)[:, 0])
        profiler.add_gradients(x, lambda outputs: outputs[:, 0])
        taylor.append(profiler.profile(layer).taylor)
    assert taylor[0].min() > 0 and (taylor[0] == taylor[1]).all()


def test_a_layer_that_the_target_does_not_depend_on_is_named() -> None:
    model, x = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 3, 1), rest=Detached())), images(8, 3)
    with pytest.raises(ModelError, match=r"layers conv: the target has no gradient there .*; choose other layers"):
        Profiler(model, ["conv"]).add_gradients(x, lambda outputs: outputs[:, 0])


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        return maps.detach().flatten(1) + self.bias
