"""What it costs a group to cover only a small part of the shared knots, and what knots of its own give back.

    python -m tests.statistics.narrow [--repeats 20]

A channel's component and the target are normal over all rows; the group has the middle 5, 10, 20 or 50 % of the rows by
the component, or as many at its upper end, and its target depends on the component within that part alone. The truth is
the correlation of the noiseless curve with the target. Knots: 9 of the plan, and 9 chosen from the group's codes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.group_accumulator import RowCodes, add_codes
from pcace_dist.statistics.plan import LayerCodes, LayerPlan, Plan, make_target_plan
from pcace_dist.statistics.recode import refit
from pcace_dist.statistics.score import score_channels

Floats = npt.NDArray[np.float64]

ROWS = 5000
FOLDS = 16
CURVES: dict[str, Callable[[Floats], Floats]] = {
    "line": lambda u: u,
    "parabola": lambda u: np.square(u),
    "wave": lambda u: np.sin(2 * np.pi * u),
}
COVERS = (0.05, 0.1, 0.2, 0.5)
NOISE = 0.75  # of the curve's standard deviation: the truth is 0.8


@dataclass(frozen=True)
class Cost:
    """Mean score of a group with the plan's knots and with its own, and the truth."""

    plan: float
    own: float
    truth: float


def population(knots: int, seed: int) -> LayerPlan:
    """The plan of a channel whose component is standard normal."""
    sample = np.random.default_rng(seed).standard_normal(4096)
    levels = np.quantile(sample, np.linspace(0, 1, knots))
    unit = torch.ones(1, 1)
    return LayerPlan(
        name="layer",
        shape=(1,),
        channels=1,
        weights=torch.ones(1, 1, 1),
        offsets=torch.zeros(1, 1),
        knots=torch.from_numpy(levels).float().reshape(1, 1, knots),
        spread=unit,
        live=unit.bool(),
        explained=unit,
        mean_centre=torch.zeros(1, dtype=torch.float64),
        mean_unit=torch.full((1,), 1e-3, dtype=torch.float64),
    )


def cost(curve: str, cover: float, *, end: bool, repeats: int = 20, knots: int = 9) -> Cost:
    """Scores of groups that cover so much of the component's axis, around its middle or at its upper `end`."""
    costs = []
    for seed in range(repeats):
        layer = population(knots, seed)
        random = np.random.default_rng(1000 + seed)
        low = 1 - cover if end else 0.5 - cover / 2
        share = random.random(ROWS)
        x = stats.norm.ppf(low + cover * share)
        clean = CURVES[curve](2 * share - 1)
        y = clean + NOISE * clean.std() * random.standard_normal(ROWS)
        spread = clean.std() * np.hypot(1, NOISE)
        others = y.mean() + spread / cover * random.standard_normal(4096)  # the target too covers little of its axis
        target = make_target_plan("y", others, knots)
        plan = Plan((layer,), (target,), 1, knots, FOLDS, "pixel", 0, {})
        maps = torch.from_numpy(x).float().reshape(-1, 1, 1)
        codes = layer.encode(*layer.project(maps))
        rows = RowCodes(
            torch.from_numpy(random.integers(0, FOLDS, ROWS).astype(np.uint8)), *plan.encode_targets(y[:, None])
        )
        own_layer, own_targets, own_codes, own_rows = refit(layer, (target,), codes, rows, knots, 0.0)
        by_plan = _score(plan, layer, codes, rows)
        by_own = _score(replace(plan, layers=(own_layer,), targets=own_targets), own_layer, own_codes, own_rows)
        costs.append((by_plan, by_own, abs(float(np.corrcoef(clean, y)[0, 1]))))
    return Cost(*(float(np.mean(column)) for column in zip(*costs, strict=True)))


def _score(plan: Plan, layer: LayerPlan, codes: LayerCodes, rows: RowCodes) -> float:
    gram = add_codes(Gram(1, 1, 1, plan.knots, FOLDS), codes, rows)
    return float(score_channels(gram, layer, plan.targets, penalty=0.3)[0].score[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.statistics.narrow", description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    print("| curve within the group | rows covered | truth | plan's knots | own knots |\n|---|---|---|---|---|")
    for curve in CURVES:
        for end in (False, True):
            for cover in COVERS:
                costs = cost(curve, cover, end=end, repeats=repeats)
                where = "upper" if end else "middle"
                print(
                    f"| {curve} | {where} {cover:.0%} | {costs.truth:.3f} | {costs.plan:.3f} | {costs.own:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
