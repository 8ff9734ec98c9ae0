"""What torchvision, timm and transformers say of their models' images, in the keys of model.input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from torch import nn

from pcace_dist.errors import ModelError
from pcace_dist.models.library.preprocessing import Settings, preprocessing_of
from tests.models.library_models import FROM_PRETRAINED, clip, saved_processor, saved_vit, small_timm, vit

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def of_torchvision(name: str, **kwargs: Any) -> Settings:
    found = preprocessing_of(nn.Identity(), f"torchvision:{name}", kwargs, "factory")
    assert found is not None and found.source.startswith("torchvision's ")
    (reading,) = found.readings
    return reading


def of_timm(model: nn.Module, **kwargs: Any) -> Settings:
    found = preprocessing_of(model, "timm:create_model", kwargs, "factory")
    assert found is not None and found.source.startswith("timm's data config of ")
    (reading,) = found.readings
    return reading


def of_processor(folder: Path, name: str, **settings: Any) -> tuple[Settings, ...]:
    place = saved_processor(folder, name, **settings)
    found = preprocessing_of(vit(), FROM_PRETRAINED, {"pretrained_model_name_or_path": place}, "factory")
    assert found is not None and found.source == f"transformers' {name} of {place}"
    return found.readings


def has(reading: Settings, **expected: Any) -> bool:
    assert {key: reading[key] for key in expected} == expected
    return True


# -- torchvision


def test_torchvisions_classifiers() -> None:
    assert has(of_torchvision("resnet18"), resize=256, crop=224, interpolation="bilinear", antialias=True, **IMAGENET)
    assert has(of_torchvision("resnet50", weights="IMAGENET1K_V2"), resize=232, crop=224)
    assert has(of_torchvision("efficientnet_b0"), resize=256, crop=224, interpolation="bicubic")
    assert has(of_torchvision("inception_v3"), resize=342, crop=299, scaled_decode=False, mode="RGB")


def test_torchvisions_segmenters_are_not_cropped_and_its_detectors_normalise_inside() -> None:
    assert has(of_torchvision("fcn_resnet50"), resize=520, crop=None, **IMAGENET)
    detector = of_torchvision("ssdlite320_mobilenet_v3_large")
    assert has(detector, resize=None, crop=None, mean=[0.0] * 3, std=[1.0] * 3)


# -- timm


def test_timms_crop_is_a_share_of_its_resize() -> None:
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert has(of_timm(small_timm()), resize=168, crop=160, interpolation="bilinear", **half)  # crop_pct 0.95


@pytest.mark.parametrize(
    ("config", "resize", "crop"),
    [
        ({"crop_mode": "squash", "crop_pct": 1.0}, (160, 160), 160),
        ({"input_size": (3, 128, 256), "crop_pct": 1.0}, (128, 256), (128, 256)),
        ({"input_size": (3, 96, 96), "crop_pct": 0.9}, 106, 96),
    ],
)
def test_timms_other_modes(config: dict[str, Any], resize: object, crop: object) -> None:
    assert has(of_timm(small_timm(pretrained_cfg_overlay=config)), resize=resize, crop=crop)


def test_a_timm_model_of_another_size_is_asked_for_images_of_that_size() -> None:
    assert has(of_timm(small_timm("test_vit", img_size=96), img_size=96), crop=96)


# -- transformers


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("ViTImageProcessor", {}, {"resize": (224, 224), "crop": None, "interpolation": "bilinear"}),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}}, {"resize": 256, "crop": (224, 224)}),
        ("CLIPImageProcessor", {}, {"resize": 224, "crop_offset": "floor", "interpolation": "bicubic"}),
        ("ViTImageProcessor", {"do_resize": False}, {"resize": None, "crop": None}),
        ("ViTImageProcessor", {"do_normalize": False}, {"mean": [0.0] * 3, "std": [1.0] * 3}),
        ("ViTImageProcessor", {"rescale_factor": 2 / 255}, {"mean": [0.25] * 3, "std": [0.25] * 3}),
    ],
)
def test_a_processor_is_read(tmp_path: Path, name: str, settings: Any, expected: Any) -> None:
    assert has(of_processor(tmp_path, name, **settings)[0], **expected)


def test_what_a_processor_does_to_black_and_white_counts_where_it_says_something_else(tmp_path: Path) -> None:
    """EfficientNet's divides by the standard deviation twice."""
    reading, *_ = of_processor(tmp_path, "EfficientNetImageProcessor")
    assert has(reading, mean=[0.5] * 3, std=[0.25] * 3)


def test_some_processors_have_several_readings(tmp_path: Path) -> None:
    sizes = [(one["resize"], one["crop"]) for one in of_processor(tmp_path, "ConvNextImageProcessor")]
    assert sizes == [(384, None), ((384, 384), None), (438, (384, 384))]


@pytest.mark.parametrize("size", [{"shortest_edge": 800, "longest_edge": 1333}, {"max_height": 50, "max_width": 50}])
def test_sizes_that_depend_on_the_longer_side_have_none(tmp_path: Path, size: dict[str, int]) -> None:
    assert of_processor(tmp_path, "ViTImageProcessor", size=size) == ()


def test_the_processor_of_a_model_in_a_wrapper_counts(tmp_path: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(saved_vit(tmp_path))
    saved_processor(tmp_path, "ViTImageProcessor", size={"height": 32, "width": 32})
    found = preprocessing_of(nn.Sequential(model), "mynet:build", {}, "factory")
    assert found is not None and has(found.readings[0], resize=(32, 32))


def test_a_folder_without_a_processor_is_named(tmp_path: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(saved_vit(tmp_path))
    with pytest.raises(ModelError, match=rf"model.input auto: {tmp_path} brings no image processor that can be read"):
        preprocessing_of(model, "mynet:build", {}, "factory")


def test_a_model_that_no_library_knows_has_none() -> None:
    assert preprocessing_of(nn.Identity(), "mynet:build", {}, "random") is None
    assert preprocessing_of(nn.Identity(), "torchvision:resnet18", {}, "mine.pt") is None
    assert preprocessing_of(clip(), "mynet:build", {}, "random") is None  # made from a config, not from a folder
