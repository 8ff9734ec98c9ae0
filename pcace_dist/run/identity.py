"""What identifies a job: its layers, its weights and code, and the fingerprint of all that the result depends on.

Known once the model is loaded; no data are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from pcace_dist.config.job import Job
from pcace_dist.models.load import weights_digest
from pcace_dist.models.source import code_digest
from pcace_dist.run.layers_of_job import layouts_of, ranked_layers
from pcace_dist.worker.spec import WorkSpec


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
    layers, left_out = ranked_layers(job, model)
    layouts, weights = layouts_of(job, model), weights_digest(model)
    code = code_digest(model, job.model.factory)
    prototypes = {one.name: one.prototypes.digest for one in spec.targets if one.prototypes is not None}
    former, now = (
        job.fingerprint(
            layers=layers, weights_digest=weights, layouts=layouts, code=covered_code, prototypes=prototypes
        )
        for covered_code in (None, code)
    )
    return Identity(layers, layouts, weights, now, former, code, prototypes, left_out)
