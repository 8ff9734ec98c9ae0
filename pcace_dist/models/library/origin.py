"""Which library a model is from, and what that library knows of it. No files: only what model and factory bring.

torchvision     the weights enum: what `kwargs: {weights: ...}` names, DEFAULT with `weights: factory`, or the one
                whose file model.weights is (`resnet18-f37072fd.pth`)
timm            the model's `pretrained_cfg`, also where a factory of one's own returns a timm model
transformers    the model's `config`, likewise
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from torch import nn

from pcace_dist.vision import torchvision

TORCHVISION, TIMM, TRANSFORMERS = "torchvision", "timm", "transformers"
RANDOM, FACTORY = "random", "factory"  # what model.weights may say besides a file
DEFAULT = "DEFAULT"


def torchvision_weights(factory: str, kwargs: Mapping[str, Any], weights: str) -> Any | None:
    """The member of torchvision's weights enum that a job's model has; None for other models and other weights.

    factory, kwargs, weights: of the job's `model` section.
    """
    library, _, name = factory.partition(":")
    if library != TORCHVISION:
        return None
    try:
        known = torchvision.models.get_model_weights(name)
        given = kwargs.get("weights", DEFAULT if weights == FACTORY else None)
        return known.verify(given) if given is not None else _of_file(known, weights)
    except (ValueError, KeyError, TypeError):  # no such model, no such weights: the factory says so
        return None


def _of_file(known: Any, weights: str) -> Any | None:
    """The member whose file has this name, which ends in a digest of its content."""
    name = PurePosixPath(weights).name
    return next((member for member in known if PurePosixPath(member.url).name == name), None)


def timm_config(model: nn.Module) -> Mapping[str, Any] | None:
    """A timm model's `pretrained_cfg`; None for other models."""
    config = getattr(model, "pretrained_cfg", None)
    return config if isinstance(config, Mapping) and "architecture" in config else None


def transformers_config(model: nn.Module) -> Any | None:
    """A transformers model's `config`; None for other models."""
    config = getattr(model, "config", None)
    packages = {kind.__module__.partition(".")[0] for kind in type(config).__mro__}
    return config if TRANSFORMERS in packages else None


def what_would_do(factory: str, kwargs: Mapping[str, Any], error: Exception) -> str:
    """What to write where a library's factory raised `error`; "" where nothing better is known than to look at kwargs.

    An OSError (no network, no such file) of a library that brings weights is one of fetching them.
    """
    library, _, name = factory.partition(":")
    if library == TORCHVISION:
        return _torchvision_would_do(name, kwargs, error)
    if library == TIMM:
        return _timm_would_do(kwargs, error)
    return _transformers_would_do(name, kwargs) if library == TRANSFORMERS and isinstance(error, OSError) else ""


def _torchvision_would_do(name: str, kwargs: Mapping[str, Any], error: Exception) -> str:
    known = torchvision.models.get_model_weights(name)
    if isinstance(error, KeyError):
        return f"kwargs.weights {kwargs.get('weights')}: there are {', '.join(known.__members__)}"
    member = torchvision_weights(f"{TORCHVISION}:{name}", kwargs, FACTORY)
    if isinstance(error, OSError) and member is not None:
        return f"fetch {member.url} where there is a network; write model.weights: FILE, and no kwargs.weights"
    return ""


def _timm_would_do(kwargs: Mapping[str, Any], error: Exception) -> str:
    if isinstance(error, OSError):
        return "fetch its weights where there is a network; write kwargs.pretrained: false and model.weights: FILE"
    if not isinstance(error, RuntimeError) or "Unknown model" not in str(error):
        return ""
    import timm  # its factory has run

    wanted = str(kwargs.get("model_name"))
    return f"kwargs.model_name {wanted}{nearest(wanted, timm.list_models()) or ': see timm.list_models()'}"


def _transformers_would_do(name: str, kwargs: Mapping[str, Any]) -> str:
    place = kwargs.get("pretrained_model_name_or_path")
    if place is None:
        return f"write {TRANSFORMERS}:{name.partition('.')[0]}.from_pretrained"
    return f"{place} is to be a folder that save_pretrained wrote, or a name of a hub that can be reached from here"


def nearest(name: str, known: Iterable[str]) -> str:
    """Words for the names that are like one: "; nearest: ...", or nothing."""
    near = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.6)
    return f"; nearest: {', '.join(near)}" if near else ""
