"""`Plan.facts` as typed fields: what the pilot fixed besides the statistic. Plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pcace_dist.models.precision import CONTIGUOUS, Numerics
from pcace_dist.statistics.folds import BLAKE2B
from pcace_dist.statistics.lanes import LAPACK
from pcace_dist.statistics.plan import Plan


@dataclass(frozen=True)
class PlanMetadata:
    """Frozen with the plan.

    `image_shape` is (H, W) as the model gets it, `weights` the digest of the loaded weights, `numeric_class` what the
    bits depend on, `weight_norms` the L2 norm of each channel's weights by layer (None for a layer without weights),
    `decode` what decodes the images (cpu or gpu), `channel_axes` the layers whose channels do not lie where the rule of
    models/tap.py says: first or last (models/layouts.py), `fold_hash` the hash of the fold keys (statistics/folds.py),
    `solver` what solves the rankings (statistics/lanes.py).
    """

    batch: int
    precision: str
    image_shape: tuple[int, int]
    outputs: int
    weights: str
    numeric_class: dict[str, str | int]
    weight_norms: dict[str, list[float | None]]
    layout: str = CONTIGUOUS  # of plans that do not say
    decode: str = "cpu"  # the same
    channel_axes: dict[str, str] = field(default_factory=dict)
    fold_hash: str = BLAKE2B  # the same
    solver: str = LAPACK  # the same

    @property
    def numerics(self) -> Numerics:
        """The arithmetic of every forward pass under this plan."""
        return Numerics(self.precision, self.layout)

    @classmethod
    def of(cls, plan: Plan) -> PlanMetadata:
        fields: dict[str, Any] = dict(plan.facts)
        height, width = fields.pop("image_shape")
        return cls(image_shape=(height, width), **fields)

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self) | {"image_shape": list(self.image_shape)}
        if not self.channel_axes:
            del fields["channel_axes"]  # a plan without such layers keeps its digest
        if self.fold_hash == BLAKE2B:
            del fields["fold_hash"]  # likewise an older plan
        if self.solver == LAPACK:
            del fields["solver"]  # likewise
        return fields


def solver_of(plan: Plan) -> str:
    """What solves the rankings of a plan (statistics/lanes.py)."""
    return str(plan.facts.get("solver", LAPACK))
