"""What summary.json and `pcace estimate` say of a run's effects."""

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


def effects_line(plan: EffectPlan | None) -> str:
    """The same in a line."""
    if plan is None:
        return "effects: none are asked for (effect.gradient: off)"
    size = f"{plan.nbytes / 2**20:,.1f} MiB in the plan"
    axes = sum(len(target.keys) for target in plan.targets)
    kinds = {
        "mean": f"{axes:,} axes, mean gradients of up to {plan.images} images each, taken by the pilot; {size}",
        "image": "a backward pass for every image and target, about three times the time of a pass without",
        "path": "backward passes along a path for every image, target and layer, many times the time of a pass without",
    }
    parts = [kinds[plan.gradient]] if plan.targets else []
    parts += [f"{name}: {status}" for name, status in plan.statuses.items()]
    return "; ".join([f"effects: {plan.gradient}", *parts, *([plan.note] if plan.note else [])])
