"""What `pcace layers` says of a model: of a job's, of a factory's, or of one in memory. No data is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from pcace_dist.config.job import Job
from pcace_dist.config.resolve import NOT_PATHS
from pcace_dist.errors import ModelError
from pcace_dist.models.inputs import USUAL_SIDES, image_channels
from pcace_dist.models.layers import resolve_layers
from pcace_dist.models.library.class_names import class_names
from pcace_dist.models.library.preprocessing import preprocessing_of
from pcace_dist.models.listing.found import Layers, layers_of
from pcace_dist.models.load import load_model
from pcace_dist.run.layers_of_job import image_shape_of

Shape = tuple[int, int, int]  # (C, H, W)
Size = int | tuple[int, int] | None
SIZE = "--size"


@dataclass(frozen=True)
class Listing:
    """model: its class. parameters: how many. found: its layers. images: where the size of the images is from, or why
    there is none. taken: the layers that the job takes; None without a job. classes: names by output, where known."""

    model: str
    parameters: int
    found: Layers
    images: str
    taken: tuple[str, ...] | None = None
    classes: Mapping[int, str] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "parameters": self.parameters, "images": self.images} | {
            "layers": [
                asdict(layer) | ({} if self.taken is None else {"job": layer.name in self.taken})
                for layer in self.found.layers
            ],
            "size": self.found.size,
            "transformer": None if self.found.transformer is None else asdict(self.found.transformer),
            "not_listed": self.found.not_listed,
            "classes": None if self.classes is None else dict(self.classes),
        }


def layers_of_job(job: Job, size: Size = None) -> Listing:
    """The layers of a job's model. size: side or (H, W) of the images instead of the job's. Raises ModelError."""
    section = job.model
    weights = section.weights if section.weights in NOT_PATHS else "random"  # they change nothing here
    model = _loaded(section.factory, section.kwargs, weights)
    said = not section.auto & {"resize", "crop"} and (section.input.crop or section.input.resize)
    shape: Shape | None = image_shape_of(job)
    images = "model.input"
    if size is not None or not said:
        shape, images = _shape(model, section.factory, section.kwargs, section.weights, size)
    taken = tuple(resolve_layers(model, job.layer_patterns))
    names = class_names(model, section.factory, section.kwargs, section.weights)
    return _listing(model, shape, images, taken=taken, classes=names)


def layers_of_factory(factory: str, kwargs: Mapping[str, Any], size: Size = None) -> Listing:
    """The layers of what a factory returns, with the weights that it brings by itself. Raises ModelError."""
    model = _loaded(factory, kwargs, "random")
    shape, images = _shape(model, factory, kwargs, "factory", size)
    names = class_names(model, factory, kwargs, "factory")
    return _listing(model, shape, images, classes=names)


def layers_in_memory(model: nn.Module, size: Size = None) -> Layers:
    """The layers of a module, which is left as it is. Raises ModelError where it does not take images of that size."""
    shape, images = _shape(model, "", {}, "random", size)
    training = [(part, part.training) for part in model.modules()]
    try:
        return _listing(model.eval(), shape, images).found
    finally:
        for part, was in training:
            part.training = was


def _loaded(factory: str, kwargs: Mapping[str, Any], weights: str) -> nn.Module:
    def read(path: str) -> bytes:
        raise ModelError(f"{path}: is not read")

    return load_model(factory, kwargs, weights, seed=0, read=read, python_path=[os.getcwd()])


def _shape(
    model: nn.Module, factory: str, kwargs: Mapping[str, Any], weights: str, size: Size
) -> tuple[Shape | None, str]:
    """(C, H, W) of the images, None where it is to be guessed; and who says so."""
    if size is not None:
        return _with_channels(model, size), SIZE
    try:
        found = preprocessing_of(model, factory, kwargs, weights)
    except ModelError:  # whoever asks for it by model.input: auto is told
        found = None
    own = [reading["crop"] or reading["resize"] for reading in ([] if found is None else found.readings)]
    return (_with_channels(model, own[0]), found.source) if found is not None and own and own[0] else (None, "")


def _with_channels(model: nn.Module, size: int | tuple[int, int]) -> Shape:
    height, width = (size, size) if isinstance(size, int) else size
    return image_channels(model), height, width


def _listing(
    model: nn.Module,
    shape: Shape | None,
    images: str,
    *,
    taken: Sequence[str] | None = None,
    classes: Mapping[int, str] | None = None,
) -> Listing:
    found, images = (layers_of(model, shape), images) if shape is not None else _guessed(model)
    parameters = sum(weight.numel() for weight in model.parameters())
    return Listing(type(model).__name__, parameters, found, images, None if taken is None else tuple(taken), classes)


def _guessed(model: nn.Module) -> tuple[Layers, str]:
    """The layers for images of the first size that the model takes; without maps where it takes none."""
    first: ModelError | None = None
    for side in USUAL_SIDES:
        try:
            return layers_of(model, _with_channels(model, side)), f"a guess; {SIZE} N for another size"
        except ModelError as error:
            first = first or error
    return layers_of(model, None), f"{first}; {SIZE} N for maps"
