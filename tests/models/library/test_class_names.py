"""The names of a model's classes come from the library it is from, or from the model itself; they are never guessed."""

from __future__ import annotations

import pytest
import torchvision
from torch import nn

from pcace_dist.models.library.class_names import class_names
from tests.models.library_models import ANIMALS, named_vit, vit
from tests.models.library_models import small_timm as small


@pytest.mark.parametrize(
    ("kwargs", "weights"),
    [
        ({"weights": "DEFAULT"}, "factory"),
        ({}, "factory"),
        ({"weights": "ResNet18_Weights.IMAGENET1K_V1"}, "mine.pt"),
        ({}, "s3://bucket/resnet18-f37072fd.pth"),
    ],
)
def test_torchvisions_weights_name_them(kwargs: dict[str, str], weights: str) -> None:
    names = class_names(nn.Identity(), "torchvision:resnet18", kwargs, weights)
    assert names is not None and len(names) == 1000 and names[0] == "tench" and names[999] == "toilet tissue"


def test_torchvisions_detectors_and_segmenters_have_their_own() -> None:
    names = class_names(nn.Identity(), "torchvision:lraspp_mobilenet_v3_large", {}, "factory")
    assert names is not None and names[0] == "__background__" and len(names) == 21


@pytest.mark.parametrize(
    ("factory", "kwargs", "weights"),
    [
        ("torchvision:resnet18", {}, "random"),
        ("torchvision:resnet18", {}, "mine.pt"),
        ("torchvision:resnet18", {"weights": None}, "factory"),
        ("torchvision:resnet18", {"weights": "NO_SUCH"}, "factory"),
        ("torchvision:no_such", {}, "factory"),
        ("mynet:build", {"weights": "DEFAULT"}, "factory"),
    ],
)
def test_weights_that_torchvision_does_not_know_name_nothing(
    factory: str, kwargs: dict[str, str | None], weights: str
) -> None:
    assert class_names(torchvision.models.resnet18(), factory, kwargs, weights) is None


def test_transformers_id2label() -> None:
    assert class_names(named_vit(), "mynet:build", {}, "factory") == ANIMALS


def test_transformers_label_0_is_no_name() -> None:
    assert class_names(vit(num_labels=5), "mynet:build", {}, "factory") is None


def test_timms_tag_names_imagenets_classes() -> None:
    names = class_names(small(), "timm:create_model", {}, "factory")
    assert names is not None and len(names) == 1000 and names[0] == "tench"
    assert len(set(names.values())) >= 998  # as many as ImageNet's own descriptions tell apart


def test_timms_own_label_names_come_first() -> None:
    model = small(pretrained_cfg_overlay={"num_classes": 3, "label_names": list(ANIMALS.values())}, num_classes=3)
    assert class_names(model, "timm:create_model", {}, "factory") == ANIMALS


def test_a_timm_model_with_another_head_or_random_weights_has_none() -> None:
    assert class_names(small(num_classes=10), "timm:create_model", {}, "factory") is None
    assert class_names(small(), "timm:create_model", {}, "random") is None


@pytest.mark.parametrize("names", [ANIMALS, list(ANIMALS.values()), {"0": "cat", "1": "dog", "2": "cow"}])
def test_a_models_own_attribute_counts_first(names: object) -> None:
    model = torchvision.models.resnet18()
    model.class_names = names
    assert class_names(model, "torchvision:resnet18", {}, "factory") == ANIMALS


@pytest.mark.parametrize("names", ["cat", 3, {"cat": 0}, None])
def test_an_attribute_of_another_kind_is_no_list_of_names(names: object) -> None:
    model = nn.Identity()
    model.class_names = names  # type: ignore[assignment]
    assert class_names(model, "mynet:build", {}, "factory") is None
