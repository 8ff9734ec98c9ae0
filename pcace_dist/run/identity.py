"""What identifies a job: its layers, its weights and code, and the fingerprint of all that the result depends on.

Known once the model is loaded; no data are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from pcace_dist.config.job import Job
from pcace_dist.config.sections import Layer
from pcace_dist.errors import ModelError
from pcace_dist.models.layers import do_not_run, excluded_layers, named_exactly, resolve_layers
from pcace_dist.models.load import weights_digest
from pcace_dist.models.source import code_digest
from pcace_dist.progress import logs
from pcace_dist.worker.spec import WorkSpec

DOES_NOT_RUN = "does not run in a forward pass"
GUESSED_SIZE = 224  # pixels, of an image whose size the job leaves open


@dataclass(frozen=True)
class Identity:
    """Resolved layers, what the job says of their axes, the weights' digest, and the fingerprint of all that the result
    depends on; `former` is the fingerprint as version 0.1.0 made it, which did not cover the model's code. `code` is
    the digest of that code (models/source.py). `left_out` are layers that the job's patterns bring and that are not
    ranked, with the reason. `prototypes` are digests of the files of vectors, by target.
    """

    layers: tuple[str, ...]
    layouts: dict[str, str]
    weights: str
    fingerprint: str
    former: str
    code: str | None = None
    prototypes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def is_of(self, fingerprint: object) -> bool:
        """Whether a recorded fingerprint is this job's."""
        return fingerprint in (self.fingerprint, self.former)


def identity_of(job: Job, spec: WorkSpec, model: nn.Module) -> Identity:
    """Identify a job by its loaded model. Raises ModelError for layers that are not there or do not run."""
    layers, left_out = _layers(job, model)
    layouts, weights = _layouts(job, model), weights_digest(model)
    code = code_digest(model, job.model.factory)
    prototypes = {one.name: one.prototypes.digest for one in spec.targets if one.prototypes is not None}
    former, now = (
        job.fingerprint(
            layers=layers, weights_digest=weights, layouts=layouts, code=covered_code, prototypes=prototypes
        )
        for covered_code in (None, code)
    )
    return Identity(layers, layouts, weights, now, former, code, prototypes, left_out)


def _layers(job: Job, model: nn.Module) -> tuple[tuple[str, ...], dict[str, str]]:
    """The job's layers, in model order; and those that are left out, with the reason: by "!", or because a glob or
    "all" brings them and they do not run."""
    layers = resolve_layers(model, job.layer_patterns)
    exact = named_exactly(model, job.layer_patterns)
    brought = [name for name in layers if name not in exact]
    idle = do_not_run(model, brought, _image_shape(job)) if brought else []
    if idle:
        logs.say(f"left out, as they do not run in a forward pass: {', '.join(idle)}", prefix="pcace: layers: ")
    if len(idle) == len(layers):
        raise ModelError(f"layers {', '.join(job.layer_patterns)}: none of them runs in a forward pass of the model")
    excluded = {name: f"left out by {pattern}" for name, pattern in excluded_layers(model, job.layer_patterns).items()}
    left_out = excluded | dict.fromkeys(idle, DOES_NOT_RUN)
    return tuple(name for name in layers if name not in idle), left_out


def _image_shape(job: Job) -> tuple[int, int, int]:
    """Shape (C, H, W) of an image as the model may get it; a guess where the job leaves images as they are."""
    size = job.model.input.crop or job.model.input.resize or GUESSED_SIZE
    height, width = (size, size) if isinstance(size, int) else size
    return job.model.input.image_channels, height, width


def _layouts(job: Job, model: nn.Module) -> dict[str, str]:
    """What the job says of its layers' axes, by resolved name; the last word counts."""
    said = [layer for layer in job.layers if isinstance(layer, Layer)]
    return {name: layer.layout for layer in said for name in resolve_layers(model, [layer.name])}
