"""Coverage of the curves of sets: python -m tests.statistics.sets.coverage prints table 17 of docs/method-tables.md.

Each repetition draws n rows, finds the orders and the curves; the truth of a curve is the share of the same sets over a
million rows, that of a size the number of channels that reach the share there in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pcace_dist.statistics.sets.carried import Kept, Removed
from pcace_dist.statistics.sets.curves import Choice, Curve, curve_of
from tests.statistics.sets.laws import Floats, covariance_of, moments_of, shares_of

CHANNELS, MANY = 12, 1_000_000
SHARES = (0.5, 0.9)
REPETITIONS = 200
CASES = [("factors", 200), ("factors", 1000), ("factors", 10_000), ("alike", 1000), ("tails", 1000), ("part", 1000)]
Draw = Callable[[np.random.Generator, int], tuple[Floats, Floats]]


def _parts(random: np.random.Generator, rows: int, shared: float) -> Floats:
    fixed = np.random.default_rng(11)
    factors = random.normal(size=(rows, 4)) @ fixed.normal(size=(4, CHANNELS))
    return (shared * factors + random.normal(size=(rows, CHANNELS))) * 0.3 * fixed.uniform(0.1, 1, CHANNELS)


def factors(random: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Four common factors; the output is the sum of the parts."""
    parts = _parts(random, rows, 0.7)
    return parts.sum(1), parts


def alike(random: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Parts of one size: each set is as good as many others, and the order is chance."""
    parts = 0.2 * random.normal(size=(rows, CHANNELS))
    return parts.sum(1), parts


def tails(random: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Parts as behind a ReLU, with heavy tails."""
    parts = np.maximum(_parts(random, rows, 0.7), 0) ** 1.5
    return parts.sum(1), parts


def part(random: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """The output has more that does not go through the layer, and depends on it in a curve."""
    parts = _parts(random, rows, 0.7)
    through = parts.sum(1)
    return through + 0.2 * through**2 + 0.5 * random.normal(size=rows), parts


CHOICES: dict[str, Choice] = {"carried": Kept(), "lost": Removed()}
LAWS: dict[str, Draw] = {"factors": factors, "alike": alike, "tails": tails, "part": part}


@dataclass(frozen=True)
class Covered:
    """Share of the truths in their intervals: points of the carrying curve, of the removal curve, sizes for 50 and
    90 %. worst: of the points."""

    carried: float
    lost: float
    size: float
    worst: float


def measure(law: str, rows: int, repetitions: int) -> Covered:
    """Coverage over repetitions of n rows."""
    truth = covariance_of(*LAWS[law](np.random.default_rng(99), MANY))
    hits: dict[str, list[Floats]] = {"carried": [], "lost": [], "size": []}
    for seed in range(repetitions):
        random = np.random.default_rng(1000 + seed)
        moments = moments_of(*LAWS[law](random, rows), random.integers(0, 16, rows))
        for name, choice in CHOICES.items():
            curve = curve_of(moments, choice)
            exact = shares_of(choice, truth, curve.order)
            hits[name].append(((curve.low <= exact) & (exact <= curve.high))[:-1].astype(float))
            hits["size"].append(np.array([_covers(curve, exact, share) for share in SHARES], float))
    points = np.concatenate([np.mean(hits[name], axis=0) for name in ("carried", "lost")])
    carried, lost, size = (float(np.mean(hits[name])) for name in ("carried", "lost", "size"))
    return Covered(carried, lost, size, float(points.min()))


def _covers(curve: Curve, exact: Floats, share: float) -> bool:
    size, true = curve.size(share), int(np.flatnonzero(exact >= share)[0]) + 1
    return size.low <= true <= size.high


def main() -> None:
    print("| law | n | carried | lost | channels for 50 and 90 % | worst point |\n|---|---|---|---|---|---|")
    for law, rows in CASES:
        found = measure(law, rows, REPETITIONS)
        shares = (found.carried, found.lost, found.size, found.worst)
        print(f"| {law} | {rows:,} | " + " | ".join(f"{100 * share:.1f}%" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
