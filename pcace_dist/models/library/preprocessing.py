"""What a model's library does to an image before the model sees it, in the words of `model.input`.

From torchvision's weights, timm's data config or transformers' image processor (origin.py). What these say is said
again in our keys; whether that is the same is not believed but tried, on images, by who has our decoder
(run/input_of_model.py). Reads no files itself; transformers reads the processor beside the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from pcace_dist.errors import ModelError
from pcace_dist.models.library.origin import TRANSFORMERS, timm_config, torchvision_weights, transformers_config

Settings: TypeAlias = dict[str, Any]  # keys of model.input

Size: TypeAlias = int | tuple[int, int] | None
Transform: TypeAlias = Callable[[Image.Image], Tensor]

SAME = 1e-4  # of a mean or a standard deviation
PIL_FILTERS = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # transformers' `resample`; others we do not have
LEVIT = 224 / 256  # its crop, by its resize
WARPED_FROM = 384  # pixels: from this size on ConvNeXT's images are warped rather than cropped
PROCESSOR_KWARGS = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


@dataclass(frozen=True)
class Preprocessing:
    """source: whose it is, in words. readings: what it may be in our keys, the likeliest first. transform: the
    library's own, from an image (RGB) to what the model takes in, float32 (C, H, W)."""

    source: str
    readings: tuple[Settings, ...]
    transform: Transform


def preprocessing_of(model: nn.Module, factory: str, kwargs: Mapping[str, Any], weights: str) -> Preprocessing | None:
    """How images are brought to what `model` was trained with; None where no library says so.

    factory, kwargs, weights: of the job's `model` section. A model inside of a wrapper counts. Raises ModelError, one
    line, where a library says it and it cannot be read.
    """
    member = torchvision_weights(factory, kwargs, weights)
    if member is not None:
        return _of_torchvision(member)
    for part in model.modules():
        if timm_config(part) is not None:
            return _of_timm(part, kwargs)
        if transformers_config(part) is not None:
            return _of_transformers(part, factory, kwargs)
    return None


def _settings(mean: Sequence[float], std: Sequence[float], **geometry: Any) -> Settings:
    """All keys that a model may say. JPEGs are decoded whole, as the libraries do."""
    plain: Settings = {"mode": "RGB", "resize": None, "crop": None, "crop_offset": "round"}
    plain |= {"interpolation": "bilinear", "antialias": True, "scaled_decode": False}
    return plain | {"mean": [float(value) for value in mean], "std": [float(value) for value in std]} | geometry


# -- torchvision


def _of_torchvision(member: Any) -> Preprocessing:
    preset = member.transforms()
    geometry: Settings = {}
    for key, size in (("resize", "resize_size"), ("crop", "crop_size")):
        if getattr(preset, size, None) is not None:
            geometry[key] = _size(getattr(preset, size))
    if geometry:
        geometry |= {"interpolation": preset.interpolation.value, "antialias": bool(preset.antialias)}
    mean, std = getattr(preset, "mean", (0.0,) * 3), getattr(preset, "std", (1.0,) * 3)  # detectors normalise inside
    return Preprocessing(
        f"torchvision's {type(member).__name__}.{member.name}", (_settings(mean, std, **geometry),), preset
    )


def _size(size: Sequence[int]) -> int | tuple[int, int]:
    """torchvision's [n] is the shorter side (or the side of a square), [h, w] both."""
    return int(size[0]) if len(size) == 1 else (int(size[0]), int(size[1]))


# -- timm


def _of_timm(model: nn.Module, kwargs: Mapping[str, Any]) -> Preprocessing:
    from timm.data import create_transform, resolve_model_data_config  # the model is timm's: it is there

    config = resolve_model_data_config(model, args={"img_size": kwargs.get("img_size")})
    return Preprocessing(
        f"timm's data config of {timm_config(model)['architecture']}",  # type: ignore[index]
        (_of_data_config(config),),
        create_transform(**config, is_training=False),
    )


def _of_data_config(config: Mapping[str, Any]) -> Settings:
    """As timm's `transforms_imagenet_eval` reads it: `squash` and sides that differ are resized as they are."""
    _, height, width = config["input_size"]
    scaled = tuple(math.floor(side / config["crop_pct"]) for side in (height, width))
    keeps = config["crop_mode"] != "squash" and scaled[0] == scaled[1]
    return _settings(
        config["mean"],
        config["std"],
        resize=scaled[0] if keeps else scaled,
        crop=height if height == width else (height, width),
        interpolation=config["interpolation"],
    )


# -- transformers


def _of_transformers(model: nn.Module, factory: str, kwargs: Mapping[str, Any]) -> Preprocessing | None:
    """The processor that lies where the model's weights lie; None where these come from no such place."""
    own = factory.partition(":")[0] == TRANSFORMERS
    place = (kwargs.get("pretrained_model_name_or_path") if own else None) or getattr(model, "name_or_path", "")
    if not place:
        return None
    from transformers import AutoImageProcessor  # the model is its: it is there

    given = {key: kwargs[key] for key in PROCESSOR_KWARGS if own and key in kwargs}
    try:
        processor = AutoImageProcessor.from_pretrained(place, **given)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ModelError(f"model.input auto: {place} brings no image processor that can be read: {reason}") from None

    def transform(image: Image.Image) -> Tensor:
        values: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return values

    return Preprocessing(
        f"transformers' {type(processor).__name__} of {place}",
        tuple(_of_processor(processor, transform)),
        transform,
    )


def _of_processor(processor: Any, transform: Transform) -> Iterator[Settings]:
    """Readings of a processor. Its crops begin at the lower of two pixels."""
    if hasattr(processor, "data_config"):  # timm's, in transformers' clothes
        yield _of_data_config(processor.data_config)
        return
    plain = _settings(*_mean_std(processor, transform), crop_offset="floor")
    if getattr(processor, "do_resize", True):
        plain["interpolation"] = PIL_FILTERS.get(int(processor.resample), f"PIL's number {int(processor.resample)}")
    for resize, crop in _sizes(processor):
        yield plain | {"resize": resize, "crop": crop}


def _mean_std(processor: Any, transform: Transform) -> tuple[list[float], list[float]]:
    """What a processor says, where that is what it does to black and white; else what it does."""
    black, white = (_middle(transform(Image.new("RGB", (64, 64), color))) for color in ("black", "white"))
    std = 1.0 / (white - black)
    measured = -black * std, std
    said = [torch.as_tensor(getattr(processor, key, None) or math.nan).expand(3) for key in ("image_mean", "image_std")]
    same = all(torch.allclose(*both, atol=SAME) for both in zip(said, measured, strict=True))
    mean, deviation = ([round(value, 6) + 0.0 for value in one.tolist()] for one in (said if same else measured))
    return mean, deviation


def _middle(image: Tensor) -> Tensor:
    return image[:, image.shape[1] // 2, image.shape[2] // 2]


def _sizes(processor: Any) -> Iterator[tuple[Size, Size]]:
    """What `resize` and `crop` may be: as most processors have it, as ConvNeXT, as LeViT."""
    size = {key: value for key, value in dict(processor.size or {}).items() if value is not None}
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    window = (crop["height"], crop["width"]) if crop else None
    if not getattr(processor, "do_resize", True):
        yield None, window
    elif size.keys() == {"height", "width"}:
        yield (size["height"], size["width"]), window
    elif size.keys() == {"shortest_edge"}:
        edge = size["shortest_edge"]
        yield edge, window
        yield from [((edge, edge), None)] if edge >= WARPED_FROM else []
        yield int(edge / (getattr(processor, "crop_pct", None) or LEVIT)), window or (edge, edge)
