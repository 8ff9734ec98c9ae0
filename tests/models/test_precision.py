"""What compute.precision means: by the machine and the model's size, with the weights left as they were loaded."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from pcace_dist.models import precision
from pcace_dist.models.forward import Forward
from pcace_dist.models.load import weights_digest
from pcace_dist.models.precision import BFLOAT16, CHANNELS_LAST, FLOAT32, Numerics, choose_numerics

CPU = torch.device("cpu")
SMALL, LARGE = nn.Linear(10, 10), nn.Linear(600, 600)
DEPTHWISE = nn.Sequential(nn.Conv2d(3, 512, 16), nn.Conv2d(512, 512, 3, groups=512))


@pytest.mark.parametrize(
    ("fast", "model", "chosen"),
    [(True, LARGE, BFLOAT16), (True, SMALL, FLOAT32), (True, DEPTHWISE, FLOAT32), (False, LARGE, FLOAT32)],
)
def test_auto_is_bfloat16_where_the_machine_has_it_and_the_model_gains(
    fast: bool, model: nn.Module, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_processor_has_bfloat16", lambda: fast)
    assert choose_numerics("auto", CPU, model) == Numerics(chosen, CHANNELS_LAST)


def test_what_is_asked_for_by_name_is_done_with_a_warning_where_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "_processor_has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert choose_numerics("bfloat16", CPU, SMALL).precision == BFLOAT16
    assert "compute.precision bfloat16" in caplog.text
    assert choose_numerics("float32", CPU, LARGE).precision == FLOAT32


@pytest.mark.parametrize("numerics", [Numerics(FLOAT32, CHANNELS_LAST), Numerics(BFLOAT16, CHANNELS_LAST)])
def test_maps_run_in_the_precision_and_layout_and_the_weights_stay(numerics: Numerics) -> None:
    model = resnet18(weights=None).eval()
    before, seen = weights_digest(model), dict[str, Tensor]()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    forward = Forward(model, CPU, 4, (0.5,) * 3, (0.5,) * 3, ["layer1.0.conv1"], numerics)
    forward(images, lambda name, maps, _: seen.__setitem__(name, maps))
    maps = seen["layer1.0.conv1"]
    assert maps.dtype == numerics.dtype
    assert maps.transpose(1, 2).is_contiguous()
    assert weights_digest(model) == before
    assert next(model.parameters()).dtype == torch.float32


def test_batch_norm_stays_in_float32() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model.get_buffer("1.running_mean").fill_(1 / 3)
    rounded = precision.convert_model(model, CPU, Numerics(BFLOAT16, CHANNELS_LAST))
    assert rounded.get_parameter("0.weight").dtype == torch.bfloat16
    assert torch.equal(rounded.get_buffer("1.running_mean"), model.get_buffer("1.running_mean"))
    assert rounded(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("numerics", [Numerics(FLOAT32, CHANNELS_LAST), Numerics(BFLOAT16, CHANNELS_LAST)])
def test_a_row_gives_the_same_bits_in_a_batch_that_is_not_full(numerics: Numerics) -> None:
    layers = ["conv1", "layer4.1.conv2"]
    forward = Forward(resnet18(weights=None).eval(), CPU, 8, (0.5,) * 3, (0.5,) * 3, layers, numerics)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    full, part = dict[str, Tensor](), dict[str, Tensor]()
    outputs = forward(images, lambda name, maps, _: full.__setitem__(name, maps.clone()))
    assert torch.equal(forward(images[:5], lambda n, maps, _: part.__setitem__(n, maps.clone())), outputs[:5])
    for name in layers:
        assert torch.equal(part[name][:5], full[name][:5])
