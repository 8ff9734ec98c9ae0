"""What `statistics.tails` changes: python -m tests.statistics.tails prints table 13 of docs/method-tables.md.

Against acepack (reference/make_acepack.py) on laws with heavy tails, atoms and rare events, and on the example's
layers: the correlation on held-out rows, the score, its support, its distance to acepack's. A minute on one core.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from tests.statistics.comparison import Floats, correlations, dealt, held_out, scored
from tests.statistics.heavy_tails import CASES, SAMPLES, TailCase
from tests.statistics.helpers import identity_plan, scores_of
from tests.statistics.reference.make_acepack import EXAMPLE_CASES, STORED, Case

TAILS = (0.0, 0.005, 0.01, 0.02, 0.05)
COMPONENTS = 5

REFERENCE = json.loads(STORED.read_text())["cases"]


def of_law(case: TailCase, number: int, tails: float) -> Floats:
    """Means over the channels: held-out correlation, distance to acepack's score, score, support."""
    (x, y), (held_x, held_y) = case.sample(number), case.held(number)
    plan = identity_plan(x[:, :, None], {"y": y}, tails=tails)
    scores = scores_of(plan, x[:, :, None], y, dealt(len(y)))
    knots, phi, theta = plan.layers[0].knots[:, 0].double().numpy(), scores.phi[:, 0], scores.theta
    of_x = np.stack([np.interp(held_x[:, c], knots[c], phi[c]) for c in range(x.shape[1])])
    of_y = np.stack([np.interp(held_y, plan.targets[0].knots, line) for line in theta])
    theirs = np.array(REFERENCE[f"{case.name}-{number}"]["score"])
    distance = np.abs(scores.score_in_sample - theirs)
    return np.array([np.mean(v) for v in (correlations(of_x, of_y), distance, scores.score, scores.support)])


def of_example(case: Case, tails: float) -> Floats:
    """The same of a layer of the example."""
    fit, held = case.split()
    plan = fit.plan(case.components, tails=tails)
    scores = scored(plan, fit)
    distance = np.abs(scores.score_in_sample - np.array(REFERENCE[case.name]["score"]))
    return np.array([np.nanmean(v) for v in (held_out(plan, fit, held), distance, scores.score, scores.support)])


def rows() -> Iterator[tuple[str, list[Floats], float]]:
    """Name, the numbers for each of TAILS, acepack's held-out correlation."""
    for case in CASES:
        theirs = [np.mean(REFERENCE[f"{case.name}-{number}"]["held_out"]) for number in range(SAMPLES)]
        of_tails = [np.mean([of_law(case, number, tails) for number in range(SAMPLES)], axis=0) for tails in TAILS]
        yield f"{case.law}, {case.rows:,}", of_tails, float(np.mean(theirs))
    for example in EXAMPLE_CASES:
        if example.components == COMPONENTS:
            theirs = REFERENCE[example.name]["held_out"]
            yield example.name, [of_example(example, tails) for tails in TAILS], float(np.mean(theirs))


def main() -> None:
    columns = ("held out", "distance", "score", "support")
    every = list(rows())
    for index, column in enumerate(columns):
        print(f"\n| {column} | " + " | ".join(f"{tails:g}" for tails in TAILS) + " | acepack |")
        print("|---|" + "---|" * (len(TAILS) + 1))
        for name, values, theirs in every:
            acepack = f"{theirs:.3f}" if column == "held out" else ""
            print(
                f"| {name} | " + " | ".join(f"{value[index]:.3f}" for value in values) + f" | {acepack} |", flush=True
            )


if __name__ == "__main__":
    main()
