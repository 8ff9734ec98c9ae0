"""A model that gives an image other outputs when it is asked again, or in other company, is named for what it is."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pcace_dist.errors import ModelError
from pcace_dist.models.steadiness import check_steady

IMAGES = torch.rand(2, 3, 32, 32)


def network(*parts: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


class AlwaysDropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)


class Counting(nn.Module):
    """Keeps a state in forward."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class OverTheBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


def kept_in_training() -> nn.Module:
    model = network(nn.BatchNorm2d(8))
    model[1].train()  # type: ignore[index]
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (network(AlwaysDropped()), "the model is not deterministic: .* a dropout always on"),
        (network(Counting()), "the model is not deterministic: .* a state kept in forward"),
        (
            network(nn.BatchNorm2d(8, track_running_stats=False)),
            "depend on the other images .*1: BatchNorm2d without running",
        ),
        (kept_in_training(), "depend on the other images .*1: BatchNorm2d in training mode"),
        (network(OverTheBatch()), r"depend on the other images .*; is something taken over the batch\?"),
    ],
)
def test_a_model_without_outputs_of_its_own_is_refused(model: nn.Module, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        check_steady(model, IMAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        network(),
        network(nn.BatchNorm2d(8)),
        network(nn.InstanceNorm2d(8)),
        network(nn.GroupNorm(2, 8), nn.Dropout(0.5)),
        torchvision.models.mobilenet_v3_small(weights=None).eval(),
    ],
)
def test_other_models_pass(model: nn.Module) -> None:
    check_steady(model, IMAGES)
    check_steady(model, IMAGES[:1].expand(2, 3, 32, 32))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_layer_that_is_quantised_dynamically_is_named() -> None:
    torch.manual_seed(0)
    model = network(nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(1 / 27)  # type: ignore[index]
        model[0].bias.fill_(0.5 / 255)  # type: ignore[index]
        model[4].weight.fill_(1)  # type: ignore[index]
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})  # type: ignore[no-untyped-call]
    images = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])  # the first is half a step beside the second
    with pytest.raises(ModelError, match="4: Linear, quantised dynamically, takes its scale from the whole batch"):
        check_steady(quantised, images)


def test_outputs_that_are_all_zero_are_steady() -> None:
    check_steady(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2), nn.Threshold(1e9, 0.0)), IMAGES)
