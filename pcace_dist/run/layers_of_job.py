"""The layers of a job: which of the model's it ranks, which it leaves out and why, and what it says of their axes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from pcace_dist.config.job import Job
from pcace_dist.config.sections import Layer
from pcace_dist.datasets.paths import first_names
from pcace_dist.errors import ModelError
from pcace_dist.models.inputs import USUAL_SIDES
from pcace_dist.models.layers import (
    ALL,
    excluded_layers,
    globs_of,
    linear_layers,
    named_exactly,
    output_axes,
    resolve_layers,
)
from pcace_dist.progress import logs

DOES_NOT_RUN = "does not run in a forward pass"
NO_CONVOLUTION = "is a linear layer on tokens or maps; all takes convolutions"
VECTOR = 2  # axes of an output without positions
NAMED = 4  # layers in a line


def ranked_layers(job: Job, model: nn.Module) -> tuple[tuple[str, ...], dict[str, str]]:
    """The job's layers, in model order; and those that are left out, with the reason: by "!", or because a glob or
    "all" brings them and they do not run."""
    layers = resolve_layers(model, job.layer_patterns)
    exact = named_exactly(model, job.layer_patterns)
    brought = [name for name in layers if name not in exact]
    beside = [name for name in linear_layers(model) if name not in layers] if ALL in job.layer_patterns else []
    axes = output_axes(model, [*brought, *beside], image_shape_of(job)) if brought else {}
    idle = [] if axes is None else [name for name in brought if name not in axes]
    if idle:
        logs.say(f"left out, as they do not run in a forward pass: {', '.join(idle)}", prefix="pcace: layers: ")
    if len(idle) == len(layers):
        raise ModelError(f"layers {', '.join(job.layer_patterns)}: none of them runs in a forward pass of the model")
    others = [name for name in beside if (axes or {}).get(name, 0) > VECTOR]
    if others:
        logs.say(_said_of_all(layers, others), prefix="pcace: layers: ", level=logging.WARNING)
    excluded = {name: f"left out by {pattern}" for name, pattern in excluded_layers(model, job.layer_patterns).items()}
    left_out = excluded | dict.fromkeys(idle, DOES_NOT_RUN) | dict.fromkeys(others, NO_CONVOLUTION)
    return tuple(name for name in layers if name not in idle), left_out


def _said_of_all(layers: Sequence[str], others: Sequence[str]) -> str:
    """What `all` takes and leaves out in a network that does much of its work outside of convolutions."""
    taken = f"{len(layers)} convolution{'' if len(layers) == 1 else 's'} ({first_names(layers, NAMED)})"
    globs = globs_of(others)
    left_out = f"{len(others)} linear layers on tokens or maps ({first_names(globs, NAMED)})"
    return f'all takes {taken} and leaves out {left_out}; to rank some of these: layers: [all, "{globs[-1]}"]'


def image_shape_of(job: Job) -> tuple[int, int, int]:
    """Shape (C, H, W) of an image as the model may get it; a guess where the job leaves images as they are."""
    size = job.model.input.crop or job.model.input.resize or USUAL_SIDES[0]
    height, width = (size, size) if isinstance(size, int) else size
    return job.model.input.image_channels, height, width


def layouts_of(job: Job, model: nn.Module) -> dict[str, str]:
    """What the job says of its layers' axes, by resolved name; the last word counts."""
    said = [layer for layer in job.layers if isinstance(layer, Layer)]
    return {name: layer.layout for layer in said for name in resolve_layers(model, [layer.name])}
