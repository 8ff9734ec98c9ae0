"""Names of a model's classes, as far as the model brings them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pcace_dist.models.library.origin import RANDOM, timm_config, torchvision_weights, transformers_config

OWN = "class_names"  # the attribute by which a model of one's own says them
_NUMBERED = re.compile(r"LABEL_\d+")  # what transformers writes where nobody has named the classes


def class_names(model: nn.Module, factory: str, kwargs: Mapping[str, Any], weights: str) -> dict[int, str] | None:
    """Names of the classes by output, or None where the model brings none.

    factory, kwargs, weights: of the job's `model` section. From the model's own attribute `class_names` (a list, or a
    mapping of index to name), transformers' `id2label`, torchvision's weights (`meta["categories"]`) or timm's label
    names, in this order. Some outputs may have no name.
    """
    names = (
        _own(model)
        or _of_transformers(model)
        or _of_torchvision(factory, kwargs, weights)
        or (None if weights == RANDOM else _of_timm(model))
    )
    return names or None


def _own(model: nn.Module) -> dict[int, str] | None:
    return _numbered(getattr(model, OWN, None))


def _of_transformers(model: nn.Module) -> dict[int, str] | None:
    names = _numbered(getattr(transformers_config(model), "id2label", None))
    return None if names is None or all(map(_NUMBERED.fullmatch, names.values())) else names


def _of_torchvision(factory: str, kwargs: Mapping[str, Any], weights: str) -> dict[int, str] | None:
    member = torchvision_weights(factory, kwargs, weights)
    return None if member is None else _numbered(member.meta.get("categories"))


def _of_timm(model: nn.Module) -> dict[int, str] | None:
    """Those of the model's tag, where it still has that many classes. Of ImageNet's words for a class the first."""
    config = timm_config(model)
    if config is None or config.get("num_classes") != getattr(model, "num_classes", None):
        return None
    if config.get("label_names"):
        return _numbered(config["label_names"])
    from timm.data import ImageNetInfo, infer_imagenet_subset  # the model is timm's: it is there

    subset = infer_imagenet_subset(dict(config))
    return None if subset is None else _first_words(ImageNetInfo(subset).label_descriptions())


def _first_words(descriptions: Sequence[str]) -> dict[int, str]:
    """`tench, Tinca tinca` is `tench`; what several classes begin with stays whole."""
    first = [text.partition(",")[0] for text in descriptions]
    counts = Counter(first)
    both = zip(first, descriptions, strict=True)
    return {index: word if counts[word] == 1 else text for index, (word, text) in enumerate(both)}


def _numbered(names: object) -> dict[int, str] | None:
    """A list, or a mapping whose keys are indices (also as text, as JSON has them), as index -> name; None for what is
    neither."""
    if isinstance(names, str) or not isinstance(names, Mapping | Sequence):
        return None
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    try:
        return {int(index): str(name) for index, name in pairs}
    except (TypeError, ValueError):
        return None
