"""Plans and Grams from arrays in memory, and an independent reference for the integer sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pcace_dist.statistics import basis
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes, LayerPlan, Plan, build_plan, make_layer_plan, make_target_plan
from pcace_dist.statistics.score import ChannelScores, score_channels

Array = npt.NDArray[Any]


def plan_of(maps: Array, targets: dict[str, Array], *, components: int = 5, knots: int = 9, folds: int = 16) -> Plan:
    """Plan with all rows as pilot; maps (n, C, D)."""
    values = torch.as_tensor(maps).float()
    return build_plan(
        lambda: iter([{"layer": part} for part in torch.split(values, 200)]),
        {"layer": (values.shape[2],)},
        {name: np.asarray(y, dtype=np.float64) for name, y in targets.items()},
        components=components,
        knots=knots,
        folds=folds,
        scale="pixel",
        facts={},
    )


def identity_plan(x: Array, targets: dict[str, Array], *, knots: int = 9, folds: int = 16, tails: float = 0.0) -> Plan:
    """Plan whose components are the columns of x (n, C, p) themselves."""
    values = torch.as_tensor(x).float()
    channels, components = values.shape[1:]
    weights = torch.eye(components).repeat(channels, 1, 1)
    axes = (
        weights,
        torch.zeros(channels, components),
        values.var(dim=0) > 0,
        torch.full((channels, components), 1 / components),
    )
    layer = make_layer_plan("layer", (components,), axes, values, values.mean(dim=2), knots, tails)
    plans = tuple(make_target_plan(name, np.asarray(y, dtype=np.float64), knots, tails) for name, y in targets.items())
    return Plan((layer,), plans, int(components), knots, folds, "none", len(values), {})


def codes_of(plan: Plan, maps: Array, targets: dict[str, Array], folds: Array) -> tuple[LayerCodes, RowCodes]:
    layer = plan.layers[0]
    own = layer.encode(*layer.project(torch.as_tensor(maps).float()))
    codes, fixed = plan.encode_targets(np.stack(list(targets.values()), axis=1).astype(np.float64))
    return own, RowCodes(torch.as_tensor(folds).to(torch.uint8), codes, fixed)


def gram_of(plan: Plan, maps: Array, targets: dict[str, Array], folds: Array) -> Gram:
    layer = plan.layers[0]
    own, rows = codes_of(plan, maps, targets, folds)
    gram = Gram(layer.channels, plan.components, len(plan.targets), plan.knots, plan.folds)
    return gram.update(own.codes, own.means, rows.target_codes, rows.target_fixed, rows.folds)


def scores_of(plan: Plan, maps: Array, y: Array, folds: Array, *, penalty: float = 0.3) -> ChannelScores:
    gram = gram_of(plan, maps, {"y": y}, folds)
    return score_channels(gram, plan.layers[0], plan.targets, penalty=penalty)[0]


def random_rows(
    n: int, channels: int, components: int, targets: int, knots: int, folds: int, seed: int
) -> dict[str, Any]:
    """Arguments of Gram.update: n random rows."""
    rng = np.random.default_rng(seed)
    top = basis.top_code(knots)
    return {
        "codes": torch.from_numpy(rng.integers(0, top + 1, (n, channels, components), dtype=np.uint8)),
        "means": torch.from_numpy(rng.integers(-16384, 16385, (n, channels), dtype=np.int16)),
        "target_codes": torch.from_numpy(rng.integers(0, top + 1, (n, targets), dtype=np.uint8)),
        "target_fixed": torch.from_numpy(rng.integers(-16384, 16385, (n, targets), dtype=np.int16)),
        "folds": torch.from_numpy(rng.integers(0, folds, n)),
    }


def times(gram: Gram, count: int) -> Gram:
    """The Gram of `count` copies of all rows of `one`, by merging doubles."""
    sizes: dict[str, Any] = gram.sizes
    result, power = Gram(**sizes), gram.copy()
    while count:
        if count & 1:
            result.merge([power])
        count >>= 1
        if count:
            power.merge([power.copy()])
    return result


def hat_table(knots: int) -> npt.NDArray[np.int64]:
    """Integer weights of every code on the knots by their definition: (256, knots). Codes above the top have none."""
    scale = 255 // (knots - 1)
    distance = np.abs(np.arange(256)[:, None] - scale * np.arange(knots))
    table: npt.NDArray[np.int64] = np.maximum(scale - distance, 0)
    table[scale * (knots - 1) + 1 :] = 0
    return table


def reference_sums(rows: dict[str, Any], knots: int, folds: int) -> dict[str, npt.NDArray[np.int64]]:
    """Full matrices of sums by plain int64 outer products, hats from their definition."""
    table = hat_table(knots)

    def hats(codes: torch.Tensor) -> npt.NDArray[np.int64]:
        flat: npt.NDArray[np.int64] = table[codes.numpy()].reshape(*codes.shape[:-1], -1)
        return flat

    x, y = hats(rows["codes"]), hats(rows["target_codes"][..., None])
    member = np.eye(folds, dtype=np.int64)[rows["folds"].numpy()]
    m, t = rows["means"].numpy().astype(np.int64), rows["target_fixed"].numpy().astype(np.int64)
    return {
        "rows": member.sum(0),
        "xx": np.einsum("nf,nca,ncb->cfab", member, x, x),
        "xy": np.einsum("nf,nca,ntb->tcfab", member, x, y),
        "yy": np.einsum("nf,nta,ntb->tfab", member, y, y),
        "mean_sum": m.sum(0),
        "mean_square": (m**2).sum(0),
        "mean_target": t.T @ m,
        "target_sum": t.sum(0),
        "target_square": (t**2).sum(0),
    }


def projecting(channels: int, pixels: int, components: int = 5) -> LayerPlan:
    """A layer's plan with random axes of length 1 that can only project."""
    draw = torch.Generator().manual_seed(channels + pixels)
    weights = torch.nn.functional.normalize(torch.randn((channels, pixels, components), generator=draw), dim=1)
    offsets = torch.randn((channels, components), generator=draw)
    nothing = torch.empty(0)
    return LayerPlan(
        "layer", (pixels,), channels, weights, offsets, nothing, nothing, nothing, nothing, nothing, nothing
    )
