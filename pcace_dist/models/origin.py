"""Which library a model is from, and what that library knows of it. No files: only what model and factory bring.

torchvision     the weights enum: what `kwargs: {weights: ...}` names, DEFAULT with `weights: factory`, or the one
                whose file model.weights is (`resnet18-f37072fd.pth`)
timm            the model's `pretrained_cfg`, also where a factory of one's own returns a timm model
transformers    the model's `config`, likewise
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import torchvision
from torch import nn

from pcace_dist.models.load import TORCHVISION

TRANSFORMERS = "transformers"
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
