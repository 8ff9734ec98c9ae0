"""What a model says of itself: its outputs, its classes, its input, and the layers that are a good beginning."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pcace_dist.config.resolve import NOT_PATHS, absolute
from pcace_dist.errors import JobError, ModelError
from pcace_dist.models.inputs import USUAL_SIDES, image_channels
from pcace_dist.models.layers import conv_layers
from pcace_dist.models.library.class_names import class_names
from pcace_dist.models.library.preprocessing import Settings
from pcace_dist.models.load import load_model
from pcace_dist.models.outputs import as_matrix, find_maps
from pcace_dist.run.input_of_model import input_of_model, told
from pcace_dist.storage.files import Storage

BESIDE = ("downsample", "shortcut", "aux")  # parts of names of convolutions beside the main path
EMBEDS = ("embed", "proj")
BLOCK = 8  # the most convolutions that a glob for the last block may take


@dataclass(frozen=True)
class ModelLook:
    """outputs: their number; 0 where they are maps. maps: number of classes of maps; 0 where there are none. names: of
    the classes. input: the section as the job writes it. says: where it is from, in words. layers: patterns of the
    default, and others that are worth a look, in words."""

    outputs: int
    maps: int
    names: Mapping[int, str]
    input: str | dict[str, Any]
    says: str
    layers: list[str]
    other_layers: dict[str, str]
    is_classifier: bool


def default_weights(factory: str, kwargs: Mapping[str, Any]) -> str:
    """model.weights where none are named: `random` for a library's architecture without weights, else `factory`."""
    brings = kwargs.get("weights") or kwargs.get("pretrained") or "from_pretrained" in factory
    library = factory.partition(":")[0] in ("torchvision", "timm")
    return "random" if library and not brings else "factory"


def look_at_model(
    factory: str, kwargs: Mapping[str, Any], weights: str, storage: Storage, size: tuple[int, int] | None
) -> ModelLook:
    """size: (H, W) of the images where they are all of one size. Raises ModelError, one line."""
    path = weights if weights in NOT_PATHS else absolute(weights)
    model = load_model(factory, kwargs, path, seed=0, read=storage.read_bytes, python_path=(os.getcwd(),))
    given, says = _of_library(factory, kwargs, weights, model)
    channels = image_channels(model)
    shape = _shape(given, size, channels, model)
    if given == {}:
        given = _own_input(shape, size, channels)
    with torch.inference_mode():
        returned = model(torch.zeros(2, *shape))
    maps = find_maps(returned)
    outputs = 0 if maps is not None else int(as_matrix(returned).shape[1])
    layers, others = _layers(model, head=0 if maps is None else int(maps.shape[1]))
    return ModelLook(
        outputs=outputs,
        maps=0 if maps is None else int(maps.shape[1]),
        names=class_names(model, factory, kwargs, weights) or {},
        input=given,
        says=says,
        layers=layers,
        other_layers=others,
        is_classifier=_is_classifier(model, outputs),
    )


def _of_library(
    factory: str, kwargs: Mapping[str, Any], weights: str, model: nn.Module
) -> tuple[str | dict[str, Any], str]:
    """`auto` with what it comes to, where the model's library says its preprocessing; torchvision's usual one for its
    architectures with other weights; else nothing yet."""
    resolved = _resolved(factory, kwargs, weights, model)
    if resolved is not None:
        return "auto", told(resolved)
    usual = {**kwargs, "weights": "DEFAULT"} if factory.startswith("torchvision:") else None
    resolved = None if usual is None else _resolved(factory, usual, "factory", model)
    if resolved is None:
        return {}, ""
    keys = ("mode", "resize", "crop", "mean", "std")
    given = {key: resolved[key] for key in keys if resolved.get(key) is not None}
    return given, "as torchvision's own weights have it"


def _resolved(factory: str, kwargs: Mapping[str, Any], weights: str, model: nn.Module) -> Settings | None:
    """What `model.input: auto` comes to; None where the library does not say."""
    try:
        return input_of_model(model, factory, kwargs, weights)[0]
    except (JobError, ModelError):
        return None


def _shape(
    given: str | dict[str, Any], size: tuple[int, int] | None, channels: int, model: nn.Module
) -> tuple[int, int, int]:
    """(C, H, W) of images that the model takes. Raises ModelError where it takes none that is tried."""
    sides = [(side, side) for side in USUAL_SIDES]
    fails: Exception | None = None
    for height, width in sides if given == "auto" or size is None else [size, *sides]:
        try:
            with torch.inference_mode():
                model(torch.zeros(2, channels, height, width))
            return channels, height, width
        except Exception as error:  # whatever a model raises
            fails = fails or error
    reason = next(iter(str(fails).strip().splitlines()), type(fails).__name__)
    raise ModelError(
        f"model.factory: the model fails on images of every size that was tried ({', '.join(map(str, USUAL_SIDES))}): "
        f"{reason}; write a wrapper that takes images (docs/models.md, A wrapper)"
    )


def _own_input(shape: tuple[int, int, int], size: tuple[int, int] | None, channels: int) -> dict[str, Any]:
    """The section for a model that does not say its preprocessing."""
    written: dict[str, Any] = {"mode": "L" if channels == 1 else "RGB"}
    if size != shape[1:]:
        written |= {"resize": shape[1], "crop": shape[1]}
    return written | {"mean": [0.0] * channels, "std": [1.0] * channels}


def _is_classifier(model: nn.Module, outputs: int) -> bool:
    """Whether there are several outputs and the last linear layer is not called as those of embeddings are."""
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    return outputs > 1 and not any(word in name.lower() for name in last for word in EMBEDS)


# -- layers


def _layers(model: nn.Module, head: int) -> tuple[list[str], dict[str, str]]:
    """The last block's convolutions; for a network with one or no convolution, the last block. head: channels of a last
    convolution that gives the outputs and is no layer to rank."""
    convolutions = [name for name in conv_layers(model) if not any(word in name for word in BESIDE)]
    if len(convolutions) > 1 and head and model.get_submodule(convolutions[-1]).out_channels == head:
        convolutions.pop()
    blocks = _blocks(model)
    if len(convolutions) > 1:
        chosen = _last_block(convolutions)
        others = {"all": f"every convolution ({len(conv_layers(model))})", convolutions[-1]: "the last one alone"}
        return [chosen], {name: words for name, words in others.items() if name != chosen}
    if blocks:
        inner = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        hidden = next((name for name in inner if name.startswith(f"{blocks[-1]}.") and _widens(model, name)), None)
        chosen = hidden or blocks[-1]
        pattern = chosen.replace(blocks[-1], f"{blocks[-1].rpartition('.')[0]}.*", 1)
        others = {pattern: "the same of every block", blocks[-1]: "the last block's tokens"}
        return [chosen], {name: words for name, words in others.items() if name != chosen}
    if convolutions:
        return convolutions, {}
    named = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not named:
        raise ModelError("model.factory: the model has no convolution and no linear layer; name a layer with --layers")
    return [named[-2] if len(named) > 1 else named[-1]], {}


def _last_block(convolutions: Sequence[str]) -> str:
    """A glob for the largest part of the network around its last convolution that has at most BLOCK of them."""
    last, chosen = convolutions[-1], convolutions[-1]
    parts = last.split(".")
    for length in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:length])
        if sum(name.startswith(f"{prefix}.") for name in convolutions) > BLOCK:
            break
        chosen = f"{prefix}.*"
    inside = [name for name in convolutions if name.startswith(chosen.removesuffix("*"))]
    return chosen if len(inside) > 1 else last


def _blocks(model: nn.Module) -> list[str]:
    """Names of the blocks of the longest list of blocks of one kind."""
    longest: list[str] = []
    for name, module in model.named_modules():
        kinds = {type(child) for child in module.children()}
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(kinds) == 1 and len(module) > len(longest):
            longest = [f"{name}.{child}" for child, _ in module.named_children()]
    return longest if len(longest) > 1 else []


def _widens(model: nn.Module, name: str) -> bool:
    """Whether a linear layer has more channels than it takes in, as the first of an MLP."""
    layer = model.get_submodule(name)
    return isinstance(layer, nn.Linear) and layer.out_features > layer.in_features
