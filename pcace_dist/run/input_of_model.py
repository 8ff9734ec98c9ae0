"""`model.input: auto`: what the model's library does to an image, taken over only where ours does the same to images.

The readings of models/library/preprocessing.py are tried on a few made images, of sides that round in every way:
library and decoder against each other, on the same bytes. transformers resizes as we do: the same pixels. torchvision
and timm resize with Pillow, whose weights are rounded otherwise: pixels of photographs differ by 4 of 255 levels at
most.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pcace_dist.config.job import Job
from pcace_dist.datasets.images import ImageSpec, decode
from pcace_dist.datasets.sections import Input
from pcace_dist.errors import JobError
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.library.preprocessing import Preprocessing, Settings, preprocessing_of
from pcace_dist.progress import logs

SIDES = ((375, 500), (500, 333), (97, 131), (64, 450), (301, 222))  # height, width: margins of both kinds, small, long
SAME = 2.0  # levels on average, of any image: Pillow's rounding is 0.4 at most, another filter 7, another pixel 17
LEVELS = 255


def with_input_of_model(job: Job, model: nn.Module) -> Job:
    """The job in which model.input is said where it was `auto`; the job itself where nothing was. Raises JobError."""
    if not job.model.auto:
        return job
    section = job.model
    settings, source = input_of_model(model, section.factory, section.kwargs, section.weights)
    logs.say(f"auto: {told(settings)}, from {source}", prefix="pcace: model.input: ")
    return job.with_input(settings)


def input_of_model(model: nn.Module, factory: str, kwargs: Mapping[str, Any], weights: str) -> tuple[Settings, str]:
    """What `model.input: auto` comes to, and who says so. factory, kwargs, weights: of the job's `model` section.

    Raises JobError, one line: the model brings nothing, or its library does what our keys cannot say.
    """
    found = preprocessing_of(model, factory, kwargs, weights)
    if found is None:
        raise JobError(
            f"model.input auto: {factory} brings no preprocessing (torchvision's weights by kwargs.weights or "
            "by the name of their file, timm's pretrained_cfg and transformers' image processors do); write what it "
            "was trained with: model.input: {resize: 256, crop: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, "
            "0.225]}"
        )
    settings = next((reading for reading in found.readings if _is_same(reading, found)), None)
    if settings is None:
        raise JobError(_cannot_be_said(found))
    return settings, found.source


def told(settings: Settings) -> str:
    """Settings in the words of a job file, without defaults."""
    defaults = Input(mode=settings["mode"])
    said = {key: value for key, value in settings.items() if value != getattr(defaults, key)}
    return json.dumps(said).replace('"', "").removeprefix("{").removesuffix("}")


def _cannot_be_said(found: Preprocessing) -> str:
    nearest = f" ({told(found.readings[0])})" if found.readings else ""
    return (
        f"model.input auto: {found.source} does something else to images than resize, crop and normalise{nearest}; "
        "write model.input, and do the rest in the forward of a wrapper (docs/models.md, Which input)"
    )


def _is_same(settings: Settings, found: Preprocessing) -> bool:
    """Whether decoding as `settings` say gives what the library gives."""
    spec = ImageSpec(**settings)
    normalise, levels = Normalise(spec.mean, spec.std), LEVELS * torch.tensor(spec.std)
    try:
        for data, image in _images():
            ours, theirs = normalise(decode(data, spec)[None])[0], found.transform(image)
            if ours.shape != theirs.shape or _difference(ours, theirs, levels) > SAME:
                return False
    except Exception:  # what a library raises, and what decoding does with a filter that is not ours
        return False
    return True


def _difference(ours: Tensor, theirs: Tensor, levels: Tensor) -> float:
    return float(((ours - theirs).abs() * levels.view(-1, 1, 1)).mean())


def _images() -> Iterator[tuple[bytes, Image.Image]]:
    """Noise: neighbours differ, so that nothing is like what lies beside it. As PNG, and decoded."""
    for height, width in SIDES:
        data = _noise(height, width)
        yield data, Image.open(io.BytesIO(data)).convert("RGB")


@lru_cache
def _noise(height: int, width: int) -> bytes:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()
