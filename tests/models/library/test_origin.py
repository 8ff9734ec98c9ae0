"""The factories of torchvision, timm and transformers bring their models; what they refuse gets a line to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pcace_dist.errors import ModelError
from pcace_dist.models.forward import Forward
from pcace_dist.models.library.origin import timm_config, torchvision_weights, transformers_config
from pcace_dist.models.load import load_model
from tests.models import library_models
from tests.models.library_models import FROM_PRETRAINED, TIMM

HERE = "tests.models.library_models"


def build(factory: str, file: str = "factory", /, **kwargs: Any) -> nn.Module:
    return load_model(factory, kwargs, file, seed=0, read=lambda path: Path(path).read_bytes())


def outputs_of(model: nn.Module, size: int) -> Tensor:
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    return Forward(model, "cpu", 2, (0.0,) * 3, (1.0,) * 3, ())(images)


def test_torchvisions_weights_are_loaded_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = library_models.cached_squeezenet(tmp_path)
    model = build("torchvision:squeezenet1_1", weights="DEFAULT")
    stored = torch.load(file, weights_only=True)
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert outputs_of(model, 64).shape == (2, 1000)


def test_a_file_with_the_name_of_torchvisions_is_known_as_such() -> None:
    member = torchvision_weights("torchvision:squeezenet1_1", {}, f"s3://bucket/{library_models.SQUEEZENET}")
    assert member is not None and member.name == "IMAGENET1K_V1"


def test_timms_create_model_with_weights_of_its_own_and_with_a_file(tmp_path: Path) -> None:
    file = library_models.saved_timm(tmp_path / "net.safetensors")
    own = build("timm:create_model", model_name=TIMM, pretrained=True, pretrained_cfg_overlay={"file": file})
    given = build("timm:create_model", file, model_name=TIMM, pretrained=False)
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in own.state_dict().items())
    assert outputs_of(own, 64).shape == (2, 1000)
    config = timm_config(own)
    assert config is not None and config["architecture"] == "test_resnet"


def test_transformers_from_pretrained_takes_a_folder_and_its_logits_are_the_outputs(tmp_path: Path) -> None:
    model = build(FROM_PRETRAINED, pretrained_model_name_or_path=library_models.saved_vit(tmp_path))
    assert outputs_of(model, 32).shape == (2, 3)
    assert transformers_config(model).num_labels == 3  # type: ignore[union-attr]
    assert transformers_config(nn.Identity()) is None and timm_config(nn.Identity()) is None


@pytest.mark.parametrize(
    ("factory", "kwargs", "words"),
    [
        ("torchvision:squeezenet1_1", {"weights": "V3"}, "kwargs.weights V3: there are IMAGENET1K_V1, DEFAULT"),
        ("timm:create_model", {"model_name": "resnet18z"}, "kwargs.model_name resnet18z; nearest: resnet18, resnet18d"),
        ("timm:create_model", {"model_name": "?"}, r"kwargs.model_name \?: see timm.list_models"),
        (FROM_PRETRAINED, {"pretrained_model_name_or_path": "./no/such"}, "./no/such is to be a folder that save_pre"),
        (FROM_PRETRAINED.partition(".")[0], {}, f"write {FROM_PRETRAINED}"),
        (FROM_PRETRAINED.replace("Image", "Imag"), {}, "nearest: AutoModelForImageClassification"),
        (f"{HERE}:Loaded", {}, "returned a Loaded, not a torch.nn.Module; its attribute 'model' is one"),
    ],
)
def test_what_is_refused_says_what_would_do(factory: str, kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        build(factory, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V2", "ResNet50_Weights.DEFAULT"])
def test_torchvisions_names_for_weights_belong_into_kwargs(weights: str) -> None:
    with pytest.raises(ModelError, match=rf"write kwargs: {{weights: {weights}}} and weights: factory$"):
        build("torchvision:squeezenet1_1", weights)


def test_weights_that_cannot_be_fetched_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    with pytest.raises(ModelError, match=rf"fetch https://.*/{library_models.SQUEEZENET} where there is a network"):
        build("torchvision:squeezenet1_1", weights="DEFAULT")
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", _no_network)
    with pytest.raises(ModelError, match=r"write kwargs.pretrained: false and model.weights: FILE"):
        build("timm:create_model", model_name=TIMM, pretrained=True)


def _no_network(*_: object, **__: object) -> None:
    raise OSError("Name or service not known")


def test_a_model_that_does_not_take_images_first_is_to_be_wrapped_and_three_lines_do() -> None:
    with pytest.raises(ModelError, match=r"its forward takes input_ids, pixel_values: wrap it: class Wrapped"):
        outputs_of(library_models.clip(), 16)
    assert outputs_of(build(f"{HERE}:Wrapped"), 16).shape == (2, 16)
