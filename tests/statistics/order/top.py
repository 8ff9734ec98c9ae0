"""Who is in the true top, when it is known: python -m tests.statistics.order.top prints a table of
docs/method-tables.md, 5.

Scores of C channels are drawn from a law; the estimates have errors by fold, of which channels share a part (they are
seen on the same images), and another pilot changes the scores once more. The truth is the top of that other pilot with
any number of images. By bin of the probability: the share of its channels that is in the truth, and how many they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import numpy as np
import numpy.typing as npt

from pcace_dist.statistics.order.membership import InTop, membership

Floats = npt.NDArray[np.float64]
Random = np.random.Generator

FOLDS = 16
BINS = (0.0, 0.05, 0.35, 0.65, 0.95, 1.0)
LAWS: dict[str, Callable[[Random, int], Floats]] = {
    "normal": lambda random, count: random.normal(size=count),
    "a long tail": lambda random, count: random.exponential(size=count),
    "uniform": lambda random, count: np.sqrt(12) * random.uniform(size=count),
    "few stand out": lambda random, count: (
        np.where(random.uniform(size=count) < 0.1, 3, 0) + 0.3 * random.normal(size=count)
    ),
    "two groups": lambda random, count: random.choice([-1.0, 1.0], size=count) + 0.2 * random.normal(size=count),
    "all equal": lambda random, count: np.zeros(count),
}


@dataclass(frozen=True)
class Setting:
    """A law of true scores, and errors in its standard deviations: of the images, of which a share is common to all
    channels, and of the plan. uneven: errors differ by channel (a factor of e^(0.5 z))."""

    law: str
    channels: int
    top: int
    noise: float = 0.3
    plan: float = 0.3
    shared: float = 0.5
    uneven: bool = True


SETTINGS = (
    *(Setting("normal", count, top) for count, top in ((12, 3), (56, 10), (256, 20), (1024, 20))),
    Setting("normal", 56, 10, plan=0),
    Setting("normal", 56, 10, shared=0.9),
    Setting("normal", 56, 10, noise=1, plan=0.5),
    Setting("normal", 12, 3, noise=1, plan=0.5),
    *(Setting(law, 56, 10) for law in LAWS if law not in ("normal", "all equal")),
    *(Setting(law, 256, 20) for law in ("a long tail", "uniform", "few stand out", "two groups")),
    Setting("all equal", 56, 10, noise=1, plan=0.5),
)


@dataclass(frozen=True)
class Measured:
    """right_in: share of the repetitions in which all that are surely in are in the truth; right_out: in which the
    whole truth is possibly in. surely, possibly: mean sizes of the sets. expected, right: mean number of the named top
    that is expected to be in the truth, and that is. bins: by bin of the probability the share of the channels in it,
    and of these in the truth."""

    right_in: float
    right_out: float
    surely: float
    possibly: float
    expected: float
    right: float
    bins: tuple[tuple[float, float], ...]


def measure(setting: Setting, repetitions: int) -> Measured:
    random = np.random.default_rng(crc32(f"{setting}".encode()))
    truths, probabilities = [], []
    held, sizes, named = [], [], []
    for _ in range(repetitions):
        truth, pseudo, plan_noise = _draw(setting, random)
        squared = pseudo.mean(axis=1)
        found = membership(squared, pseudo, plan_noise, setting.top)
        best, surely, ruled_out = (
            np.argsort(-squared)[: setting.top],
            found.in_top == InTop.SURELY,
            found.in_top == InTop.NO,
        )
        truths.append(truth)
        probabilities.append(found.probability)
        named.append((found.probability[best].sum(), truth[best].sum()))
        held.append((truth[surely].all(), not truth[ruled_out].any()))
        sizes.append((surely.sum(), (~ruled_out).sum()))
    right_in, right_out = np.mean(held, axis=0)
    surely_in, possibly_in = np.mean(sizes, axis=0)
    expected, right = np.mean(named, axis=0)
    bins = _bins(np.concatenate(probabilities), np.concatenate(truths))
    return Measured(right_in, right_out, surely_in, possibly_in, expected, right, bins)


def _draw(setting: Setting, random: Random) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """The truth (C,), pseudo-values and the plan's noise (C, F)."""
    count = setting.channels
    uneven, uneven_plan = np.exp(0.5 * setting.uneven * random.normal(size=(2, count, 1)))
    common, own = random.normal(size=(1, FOLDS)), random.normal(size=(count, FOLDS))
    shared = np.sqrt(setting.shared) * common + np.sqrt(1 - setting.shared) * own
    of_plan = setting.plan * uneven_plan
    scores = LAWS[setting.law](random, count)[:, None]
    here, another = (scores + of_plan * random.normal(size=(count, 1)) for _ in range(2))
    noise = of_plan * np.sqrt(FOLDS) * random.normal(size=(count, FOLDS))
    truth = np.zeros(count, bool)
    truth[np.argsort(-another[:, 0])[: setting.top]] = True
    pseudo = here + setting.noise * uneven * np.sqrt(FOLDS) * shared
    return truth, pseudo, noise - noise.mean(axis=1, keepdims=True)


def _bins(probability: Floats, truth: npt.NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    number = np.digitize(probability, BINS[1:-1])
    return tuple(
        (float((number == one).mean()), float(truth[number == one].mean()) if (number == one).any() else np.nan)
        for one in range(len(BINS) - 1)
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.statistics.order.top", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    repetitions = parser.parse_args().repetitions
    columns = ["true scores", "channels, top", "errors", "surely: right", "possibly: right", "surely", "possibly"]
    columns += ["named: expected, right", *(f"{low:g} to {high:g}" for low, high in pairwise(BINS))]
    print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for setting in SETTINGS:
        m = measure(setting, repetitions)
        cells = [setting.law, f"{setting.channels:,}, {setting.top}"]
        cells += [f"{setting.noise:g}, {setting.plan:g}, {setting.shared:g}", f"{m.right_in:.1%}", f"{m.right_out:.1%}"]
        cells += [f"{m.surely:.1f}", f"{m.possibly:.1f}", f"{m.expected:.1f}, {m.right:.1f}"]
        cells += [f"{right:.2f} ({share:.0%})" for share, right in m.bins]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
