"""What summary.json says of a run's effects."""

from __future__ import annotations

from typing import Any

from pcace_dist.models.effects.places import Place
from pcace_dist.statistics.effects.plan import EffectPlan, EffectTarget


def effects_summary(plan: EffectPlan) -> dict[str, Any]:
    """Gradient, targets, places and bytes as plain JSON."""
    return {
        "gradient": plan.gradient,
        "at": {layer: Place.from_json(place).shown for layer, place in plan.places.items()},
        "targets": {target.name: _target(target) for target in plan.targets},
        "without": dict(plan.statuses),
        "note": plan.note,
        "bytes": plan.nbytes,
    }


def _target(target: EffectTarget) -> dict[str, Any]:
    """images: behind the axis with the fewest and with the most."""
    images = [min(target.images, default=0), max(target.images, default=0)]
    return {"of": target.of, "axes_by": target.kind, "axes": len(target.keys), "images": images}
