"""A planted world for effects: activations of six channels, a target with known gradients, the plan of its pilot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcace_dist.statistics.effects.axes import AxisMaker, PilotTable
from pcace_dist.statistics.effects.grid import grid_of
from pcace_dist.statistics.effects.plan import EVERY, EffectPlan, EffectTarget, LayerEffects
from pcace_dist.statistics.effects.scores import EffectScores, score_effects
from pcace_dist.statistics.effects.sums import EffectSums

CHANNELS, POSITIONS, KEYS = 6, 2, 5
FOLDS = 16
WEIGHTS = torch.tensor([1.0, 0.5, -0.4, 0.3, 0.2, 0.0])[:, None] * torch.tensor([1.0, 0.6])
LOADINGS = torch.tensor([[1, 0.5, 0], [0.5, 1, 0.2], [0, 1, 0.5], [0.3, 0, 1], [1, 0, -0.5], [0, 0.2, 0.9]])


@dataclass(frozen=True, eq=False)
class World:
    """n images: maps (n, C, D), targets (n,), keys (n,), gradients (n, C, D), folds (n,)."""

    maps: Tensor
    y: Any
    keys: Any
    gradients: Tensor
    folds: Any

    def take(self, rows: Any) -> World:
        return World(self.maps[rows], self.y[rows], self.keys[rows], self.gradients[rows], self.folds[rows])

    @property
    def count(self) -> int:
        return int(self.keys.max()) + 1


def _linear(maps: Tensor) -> tuple[Tensor, Tensor]:
    return (maps * WEIGHTS).sum((1, 2)), WEIGHTS.expand(maps.shape)


def _quadratic(maps: Tensor) -> tuple[Tensor, Tensor]:
    return ((maps + 0.5 * maps.square()) * WEIGHTS).sum((1, 2)), WEIGHTS * (1 + maps)


def _interacting(maps: Tensor) -> tuple[Tensor, Tensor]:
    mean = maps.mean(2)
    gradients = WEIGHTS.expand(maps.shape).clone()
    for channel, other, weight in ((0, 1, 1.5), (1, 0, 1.5), (2, 3, -1.0), (3, 2, -1.0)):
        gradients[:, channel] += weight * mean[:, other, None] / POSITIONS
    return (maps * WEIGHTS).sum((1, 2)) + 1.5 * mean[:, 0] * mean[:, 1] - mean[:, 2] * mean[:, 3], gradients


def _hidden(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Eight hidden units whose gradients switch on and off."""
    seeded = torch.Generator().manual_seed(5)
    inner = torch.randn(8, CHANNELS * POSITIONS, generator=seeded)
    outer, bias = torch.randn(8, generator=seeded), 0.5 * torch.randn(8, generator=seeded)
    hidden = maps.flatten(1) @ inner.T + bias
    return hidden.relu() @ outer, (((hidden > 0).float() * outer) @ inner).reshape(maps.shape)


TARGETS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "linear": _linear,
    "quadratic": _quadratic,
    "interacting": _interacting,
    "hidden": _hidden,
    "rare": _quadratic,
    "noisy": _interacting,
}
SETTINGS = (*TARGETS, "classes")


def world(setting: str, rows: int, seed: int) -> World:
    """`rows` images of a setting."""
    seeded = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, 3, generator=seeded) @ LOADINGS.T
    raw = latent[:, :, None] + 0.7 * torch.randn(rows, CHANNELS, POSITIONS, generator=seeded)
    folds = torch.randint(0, FOLDS, (rows,), generator=seeded).numpy()
    if setting == "classes":
        return _classes(raw, folds, seeded)
    maps = raw.relu()
    if setting == "rare":  # active on 3 % of the images, and large there
        maps[:, 0] *= 4 * (torch.rand(rows, 1, generator=seeded) < 0.03)
    y, gradients = TARGETS[setting](maps)
    if setting == "noisy":
        y = y + 2 * torch.randn(rows, generator=seeded)
    return World(maps, y.double().numpy(), np.zeros(rows, np.int64), gradients, folds)


def _classes(raw: Tensor, folds: Any, seeded: torch.Generator) -> World:
    """Five classes, each with a function and mean maps of its own."""
    keys = torch.randint(0, KEYS, (len(raw),), generator=seeded)
    fixed = torch.Generator().manual_seed(7)
    shape = (KEYS, CHANNELS, POSITIONS)
    first, second = torch.randn(shape, generator=fixed), 0.5 * torch.randn(shape, generator=fixed)
    maps = (raw + torch.randn(KEYS, CHANNELS, 1, generator=fixed)[keys]).relu()
    y = ((first[keys] + 0.5 * second[keys] * maps) * maps).sum((1, 2))
    return World(maps, y.double().numpy(), keys.numpy(), first[keys] + second[keys] * maps, folds)


def plan_of(pilot: World, *, images: int = 64, keys: int | None = None, folds: int = FOLDS) -> EffectPlan:
    """The plan that a pilot freezes; the first `images` of each key give its axis."""
    count = pilot.count if keys is None else keys
    table = PilotTable(pilot.y, pilot.keys, np.full(len(pilot.y), -1), pilot.folds, count, folds)
    maker = AxisMaker(table, *pilot.maps.shape[1:])
    every = slice(0, len(pilot.y))
    maker.add_maps(pilot.maps, every)
    drawn = np.concatenate([np.flatnonzero(pilot.keys == key)[:images] for key in range(count)])
    maker.add_gradients(pilot.gradients[drawn], pilot.keys[drawn], pilot.folds[drawn])
    (centre,), (unit,) = grid_of(torch.from_numpy(pilot.y)[:, None])
    target = EffectTarget(
        name="y",
        of="y",
        kind="one" if count == 1 else "label",
        keys=tuple(range(count)),
        images=tuple(maker.images.tolist()),
        start=0,
        behind=tuple(maker.behind()),
        centre=float(centre),
        unit=float(unit),
    )
    channels = pilot.maps.shape[1]
    layer = LayerEffects(
        name="layer",
        shape=tuple(pilot.maps.shape[2:]),
        axes=maker.axes,
        offsets=maker.offsets,
        units=torch.ones(1, channels, dtype=torch.float64),
        noise=torch.zeros(1, 1, channels, folds),
        mean_maps=maker.mean_maps,
    )
    maker.add_projected(layer.project(pilot.maps, torch.from_numpy(pilot.keys)[:, None])[:, :, 0], pilot.maps, every)
    layer = replace(layer, units=maker.units[None], noise=maker.noise()[None])
    return EffectPlan("mean", "activation", images, (target,), {}, None, None, (EVERY,), {}, (layer,))


def add_up(plan: EffectPlan, rows: World, folds: int = FOLDS) -> EffectSums:
    """The sums of rows under a plan."""
    (layer,) = plan.layers
    sums = EffectSums(layer.channels, 1, folds)
    for start in range(0, len(rows.y), 20_000):
        part = rows.take(slice(start, start + 20_000))
        axes = torch.from_numpy(part.keys)[:, None]
        codes = layer.encode(layer.project(part.maps, axes))
        targets = plan.encode_targets(torch.from_numpy(part.y)[:, None], axes)
        sums.update(codes, targets, torch.from_numpy(part.folds))
    return sums


def scores_of(plan: EffectPlan, sums: EffectSums, images: int) -> EffectScores:
    """The effects of all channels."""
    every = slice(0, plan.layers[0].channels)
    return score_effects(plan, sums, ["y"], layer="layer", channels=every, group="", images=images, folds=sums.folds)[0]


def effects_of(plan: EffectPlan, rows: World, folds: int = FOLDS) -> EffectScores:
    """The effects of rows under a plan."""
    return scores_of(plan, add_up(plan, rows, folds), len(rows.y))


def true_effects(setting: str, rows: int = 1_000_000) -> Any:
    """Effects (C,) with the mean gradient of all images, over many of them, in plain float64."""
    many = world(setting, rows, seed=99)
    axes = torch.stack([many.gradients[many.keys == key].double().mean(0) for key in range(many.count)])
    apart = many.maps.double() - many.maps.double().mean(0)
    along = (apart * axes[torch.from_numpy(many.keys)]).sum(2).numpy()
    return (along * (many.y - many.y.mean())[:, None]).mean(0) / many.y.var()
