"""Bias of the score at 300 images, and what could be done about it: python -m tests.statistics.small_samples prints the
table 4 of docs/method-tables.md.

Candidates beside the jackknife over folds: extrapolation from balanced halves (2 r^2 - their mean), a jackknife that
removes 1/n^2 too, a larger penalty. Each changes the bias, its noise, or what the transforms predict.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.statistics import score
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.lanes import Solved
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.plan_noise.half_samples import SIGNS
from tests.statistics.coverage import Draw, add, curve, normal
from tests.statistics.helpers import identity_plan

Floats = npt.NDArray[np.float64]

ROWS, REPETITIONS, FOLDS, KNOTS = 300, 300, 16, 9
PENALTIES = (0.3, 1.0)
HELD = 20_000
FIRST = np.zeros(1, np.int64)  # the only channel, the only target
# weights of r^2 of all rows, without a fold (mean), of a half (mean): exact for v + b / n + c / n^2
SECOND_ORDER = np.linalg.solve(np.vander([1.0, 16 / 15, 2.0], increasing=True).T, np.array([1.0, 0.0, 0.0]))


def zero_inflated(random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = np.maximum(random.normal(size=(n, 5)) - 0.5, 0)
    return x, x[:, 0] + x[:, 1] + 0.5 * random.normal(size=n)


def four_of_five(random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    x = random.normal(size=(n, 5))
    return x, x[:, 0] + np.abs(x[:, 1]) + x[:, 2] + 0.5 * x[:, 3] + 0.8 * random.normal(size=n)


LAWS: dict[str, Draw] = {
    "independent, p=5": normal(0.0, 5),
    "normal 0.5, p=5": normal(0.5, 5),
    "four of five matter": four_of_five,
    "zero-inflated, p=5": zero_inflated,
    "2 sin(2x), p=5": curve(lambda x: 2 * np.sin(2 * x), 5),
    "a jump, p=1": curve(lambda x: 3.0 * (x > 0.5)),
}


class Replicates:
    """All rows, all but each fold, and each balanced half (as score.LeaveOneOut)."""

    def __init__(self, rows: Tensor) -> None:
        self._of_folds = torch.from_numpy(np.vstack([np.ones(FOLDS), 1 - np.eye(FOLDS), SIGNS > 0]).astype(float))
        self.n = self._of_folds @ rows.double()

    def of(self, sums: Tensor, out: Tensor | None = None) -> Tensor:
        found = torch.einsum("rf,...fk->...rk", self._of_folds, sums.double())
        return found if out is None else out.copy_(found.reshape(out.shape))


def measure(name: str, repetitions: int = REPETITIONS) -> Iterator[tuple[str, float, Floats]]:
    """Candidate, value of r^2, and (repetitions, 3): estimates, whether the interval covers, held-out correlation."""
    draw, random = LAWS[name], np.random.default_rng(zlib.crc32(name.encode()))
    x, y = draw(random, 2048)
    plan = identity_plan(x[:, None], {"y": y})
    value, held = _value(name, plan, random), draw(random, HELD)
    found: dict[str, list[list[float]]] = {}
    for _ in range(repetitions):
        rows = draw(random, ROWS)
        gram = add(_gram(plan), plan, *rows, random.integers(0, FOLDS, ROWS))
        for penalty in PENALTIES:
            replicates: Any = Replicates(gram.rows)
            solved = score._solve(gram, plan.layers[0], plan.targets, FIRST, FIRST, penalty, replicates)[0]
            squared = solved.squared
            ours = score.jackknife(squared[:, 0], squared[:, 1 : FOLDS + 1], gram.rows.numpy())
            low, high = ours.interval()
            covers = float(low[0] <= value and (value <= high[0] or value == 0))
            told = _held_out(plan, solved, *held) if value else np.nan
            found.setdefault(f"penalty {penalty:g}", []).append([ours.estimate[0], covers, told])
            if penalty == PENALTIES[0]:
                means = squared[0, 0], squared[0, 1 : FOLDS + 1].mean(), squared[0, FOLDS + 1 :].mean()
                found.setdefault("halves", []).append([2 * means[0] - means[2], np.nan, told])
                found.setdefault("second order", []).append([float(SECOND_ORDER @ means), np.nan, told])
    for candidate, values in found.items():
        yield candidate, value, np.array(values)


def _gram(plan: Plan) -> Gram:
    return Gram(1, plan.components, 1, KNOTS, FOLDS)


def _value(name: str, plan: Plan, random: np.random.Generator) -> float:
    if name.startswith("independent"):
        return 0.0
    gram = _gram(plan)
    for _ in range(6):
        add(gram, plan, *LAWS[name](random, 50_000), random.integers(0, FOLDS, 50_000))
    return float(score.score_channels(gram, plan.layers[0], plan.targets, penalty=0.0)[0].score_squared[0])


def _held_out(plan: Plan, solved: Solved, x: Floats, y: Floats) -> float:
    knots = plan.layers[0].knots[0].double().numpy()
    total = sum(np.interp(x[:, c], knots[c], solved.phi[0, c]) for c in range(len(knots)))
    return float(np.corrcoef(total, np.interp(y, plan.targets[0].knots, solved.theta[0]))[0, 1])


def main() -> None:
    torch.set_num_threads(1)
    print("| law | value of r^2 | estimate | bias | rmse | covered | held out |\n|---|---|---|---|---|---|---|")
    for name in LAWS:
        for candidate, value, values in measure(name):
            apart = values[:, 0] - value
            covered, told = values[:, 1].mean(), values[:, 2].mean()
            shown = ["-" if np.isnan(covered) else f"{covered:.0%}", "-" if np.isnan(told) else f"{told:.3f}"]
            numbers = f"{apart.mean():+.3f} | {np.sqrt(np.square(apart).mean()):.3f}"
            print(f"| {name} | {value:.3f} | {candidate} | {numbers} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
