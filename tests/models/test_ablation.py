"""Ablation and profiles against networks whose answers are known in closed form."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pcace_dist.errors import ModelError
from pcace_dist.models.ablation.optimal import optimal_shifts
from pcace_dist.models.ablation.profile import STEPS, Profiler
from pcace_dist.models.ablation.replacement import BLOCKS, Ablation, bias_values, effect, lost_and_changed, norm_behind


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


def lost(before: np.ndarray, after: np.ndarray) -> float:
    return float(lost_and_changed(before, after, np.zeros(len(before), np.int64))[0][0])


def test_lost_variance_is_1_less_r_squared() -> None:
    rng = np.random.default_rng(0)
    before, noise = rng.standard_normal(1000), rng.standard_normal(1000)
    assert lost(before, 3 * before + 1) == pytest.approx(0)
    after = before + noise
    assert lost(before, after) == pytest.approx(1 - np.corrcoef(before, after)[0, 1] ** 2)
    assert lost(before, np.full(1000, 2.0)) == 1.0
    assert np.isnan(lost(np.full(10, 3.0), noise[:10]))


def test_an_effect_is_measured_on_all_images_and_without_each_block() -> None:
    rng = np.random.default_rng(1)
    before, blocks = rng.standard_normal(200) + 1e3, rng.integers(0, 4, 200)
    after = 0.5 * before + rng.standard_normal(200)
    correct = np.where(rng.random(200) < 0.3, np.nan, (rng.random(200) < 0.6).astype(float))
    measured = effect(before, after, correct, blocks)
    for rows, found in [
        (np.ones(200, bool), (measured.lost, measured.changed, measured.accuracy)),
        *((blocks != block, tuple(values[block] for values in measured.without)) for block in range(4)),
    ]:
        a, b = before[rows], after[rows]
        expected = (1 - np.corrcoef(a, b)[0, 1] ** 2, np.var(b - a) / np.var(a), np.nanmean(correct[rows]))
        assert found == pytest.approx(expected)
    assert measured.change == pytest.approx(np.mean(after - before))
    unlabelled = effect(before, before + 2, None, blocks)
    assert unlabelled.changed == pytest.approx(0) and np.isnan(unlabelled.accuracy)


def test_intervals_from_the_blocks_hold_the_truth() -> None:
    """y = a + b without a loses Var(a) / Var(y), of y and of its variance alike: covered in 95 % of 600 samples."""
    rng, held = np.random.default_rng(2), np.zeros(2)
    for _ in range(600):
        a, b = rng.standard_normal((2, 320)) * [[1.0], [2.0]]
        measured = effect(a + b, b, None, np.arange(320) % BLOCKS)
        for index, estimate in enumerate((measured.lost, measured.changed)):
            without = np.array(measured.without[index])
            error = np.sqrt((BLOCKS - 1) * without.var())
            held[index] += abs(estimate - 0.2) < stdtrit(BLOCKS - 1, 0.975) * error
    assert held / 600 == pytest.approx(0.95, abs=0.02)


def test_a_part_that_is_proportional_to_the_target_is_changed_and_not_lost() -> None:
    y = np.random.default_rng(0).standard_normal(100)
    measured = effect(y, 0.25 * y, None, np.arange(100) % 16)
    assert (measured.lost, measured.changed) == pytest.approx((0.0, 0.75**2))


def test_profiles_are_what_the_formulas_say() -> None:
    weights = [1.0, -3.0, 0.0]
    model, x = planted(weights), images(64, 3)
    profiler = Profiler(model, ["conv"])
    batches = torch.split(x, 20)
    for part in batches:
        profiler.add({"conv": part.flatten(2)}, model(part)[:, 0])
    for part in batches:
        profiler.add_gradients(part, x.mean(0), lambda outputs: outputs[:, 0])
    profile = profiler.profile("conv")
    pixels, y = x[:, :, 0, 0].double().numpy(), model(x)[:, 0].double().numpy()
    assert profile.mean.numpy()[:, 0] == pytest.approx(pixels.mean(0))
    assert profile.variance == pytest.approx(pixels.var(0))
    assert profile.taylor == pytest.approx(np.square(weights) * pixels.var(0))
    assert profile.conductance == pytest.approx(np.square(weights) * pixels.var(0)), "weight x difference of the input"
    assert profile.pearson == pytest.approx([abs(np.corrcoef(pixels[:, c], y)[0, 1]) for c in range(3)])


def test_conductances_add_up_to_the_difference_of_the_target() -> None:
    """Of a network that is curved in front of the layer and behind it; captum's own agree, image by image."""
    from captum.attr import LayerConductance

    torch.manual_seed(0)
    layers = OrderedDict(first=nn.Conv2d(2, 6, 3), act=nn.SiLU(), conv=nn.Conv2d(6, 5, 3), act2=nn.Tanh())
    model = nn.Sequential(OrderedDict(**layers, flat=nn.Flatten(), out=nn.Linear(5 * 4, 1)))
    x = torch.randn(6, 2, 6, 6)
    start = x.mean(0)
    roots, signs = [], []
    for image in x:
        profiler = Profiler(model, ["conv"])
        profiler.add({"conv": model[:3](image[None]).flatten(2).detach()}, torch.zeros(1))
        profiler.add_gradients(image[None], start, lambda outputs: outputs[:, 0])
        roots.append(np.sqrt(profiler.profile("conv").conductance))
    expected = LayerConductance(model, model.conv).attribute(x, start[None].expand_as(x), target=0, n_steps=200)
    by_channel = expected.detach().sum((2, 3)).numpy()
    signs = np.sign(by_channel)
    difference = (model(x) - model(start[None]))[:, 0].detach().numpy()
    assert by_channel.sum(1) == pytest.approx(difference, abs=0.02)
    assert np.stack(roots) == pytest.approx(np.abs(by_channel), abs=0.02)
    assert (signs * np.stack(roots)).sum(1) == pytest.approx(difference, abs=0.02), f"{STEPS} steps"


def test_the_optimal_constants_of_a_linear_target_are_the_mean_maps() -> None:
    model, x = planted([1.0, -3.0, 0.5]), images(200, 3)
    means = x.flatten(2).mean(0)
    shifts = optimal_shifts(model, "conv", [0, 1], means, torch.split(x, 64), lambda _, outputs: outputs[:, 0].double())
    assert shifts.numpy() == pytest.approx([0, 0], abs=1e-6)


def test_the_optimal_constant_behind_a_relu_is_that_of_the_closed_form() -> None:
    """y = max(0, a - 1) + b: of all constants for a, the one changes y least that gives the mean of max(0, a - 1)."""
    model = nn.Sequential(OrderedDict(conv=planted([1.0, 1.0])[0], rest=Shifted())).requires_grad_(False)
    x = torch.distributions.Exponential(1.0).sample((500, 2, 1, 1))
    means = x.flatten(2).mean(0)
    shifts = optimal_shifts(
        model, "conv", [0], means + 0.2, torch.split(x, 100), lambda _, outputs: outputs[:, 0].double()
    )
    best = 1 + (x[:, 0] - 1).clamp(min=0).mean()
    assert float(means[0] + 0.2 + shifts[0]) == pytest.approx(float(best), abs=1e-4)


class Shifted(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return ((maps[:, 0] - 1).clamp(min=0) + maps[:, 1]).flatten(1)


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
        profiler.add_gradients(x, x.mean(0), lambda outputs: outputs[:, 0])
        taylor.append(profiler.profile(layer).taylor)
    assert taylor[0].min() > 0 and (taylor[0] == taylor[1]).all()


def test_a_layer_that_the_target_does_not_depend_on_is_named() -> None:
    model, x = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 3, 1), rest=Detached())), images(8, 3)
    with pytest.raises(ModelError, match=r"layers conv: the target has no gradient there: .*; choose other layers"):
        Profiler(model, ["conv"]).add_gradients(x, x.mean(0), lambda outputs: outputs[:, 0])


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        return maps.detach().flatten(1) + self.bias
