"""Receptive fields against closed forms: convolutions with strides and dilation, pooling, patches, attention."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from pcace_dist.errors import ModelError
from pcace_dist.models.receptive_fields import receptive_fields
from pcace_dist.models.tap import maps_at
from tests.models.library_models import vit

STACK = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2))


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    for module in STACK:
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return nn.Sequential(*STACK).eval()


def test_a_stack_of_convolutions_sees_what_arithmetic_says() -> None:
    """Row i of the last takes pooled rows 2i - 2, 2i, 2i + 2; these take rows 4i - 5 to 4i + 6. At the
    end the last of the three is padding."""
    fields = receptive_fields(stack(), "3", (3, 40, 48), (10, 12), list(product(range(10), range(12))))
    assert fields is not None
    assert fields.rows == {row: (max(0, 4 * row - 5), min(39, 4 * row + 7)) for row in range(10)}
    assert fields.columns == {column: (max(0, 4 * column - 5), min(47, 4 * column + 7)) for column in range(12)}
    assert fields.box(4, 5) == pytest.approx((15 / 48, 11 / 40, 12 / 48, 12 / 40))


def test_a_token_sees_its_patch_and_behind_attention_everything() -> None:
    torch.manual_seed(0)
    model = vit(num_channels=3, image_size=32, patch_size=8).eval()
    fields = receptive_fields(model, "vit.embeddings", (3, 32, 32), (4, 4), [(0, 0), (2, 3)], before=1)
    assert fields is not None and fields.rows == {0: (0, 8), 2: (16, 24)} and fields.columns == {0: (0, 8), 3: (24, 32)}
    assert receptive_fields(model, "vit.layers.0", (3, 32, 32), (4, 4), [(0, 0)], before=1) is None


def test_what_sees_all_has_none() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)).eval()
    assert receptive_fields(model, "1", (1, 12, 12), (10, 10), [(0, 0)]) is None
    assert receptive_fields(model, "0", (1, 12, 12), (10, 10), [(0, 0)]) is not None


def test_a_pass_ends_at_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(3, 1))  # the linear layer would fail
    maps, shape = maps_at(model, "0", torch.ones(2, 1, 5, 5))
    assert maps.shape == (2, 2, 9) and shape == (3, 3)
    model.append(nn.Linear(1, 1))
    with pytest.raises(RuntimeError):
        maps_at(model, "3", torch.ones(2, 1, 5, 5))
    with pytest.raises(ModelError, match="does not run"):
        maps_at(_Skips(), "skipped", torch.ones(1, 1))


class _Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.skipped = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images
