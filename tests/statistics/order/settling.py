"""How often `stop` is wrong, and what it saves: simulated borders of the top, and MNIST in random orders.

    python -m tests.statistics.order.settling [--repeats 4000] [--orders 200] [--example]

A stop is wrong when a channel outside the top it names is better than one inside by more than the tolerance. "Naive"
spends all of alpha at every look.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pcace_dist.statistics.folds import key_of_bytes
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.order.settled import PREFIXES, check_settled, prefixes, spent
from pcace_dist.statistics.plan import Plan, build_plan
from pcace_dist.statistics.score import OK, TOO_FEW_IMAGES, ChannelScores, score_channels
from tests.statistics import mnist

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
FOLDS = 16
UNITS = 256
LOOKS = PREFIXES
TIED = 0.5 - 1e-9  # as good as 0.5, and yet the wrong one
ROWS = 60_000


@dataclass(frozen=True)
class Border:
    """True maximal correlations of the channels, the top that is asked for, and the noise of one row's influence on
    r^2 by channel; `shared`: the share of its variance that is common to all channels."""

    name: str
    correlations: Sequence[float]
    top: int
    tolerance: float
    noise: Sequence[float] | None = None
    shared: float = 0.0
    heavy: bool = False


BORDERS = (
    Border("a tied pair", (0.9, 0.8, 0.5, TIED, 0.2, 0.1), 3, 0.0),
    Border("a tied pair, noise 1 : 5", (0.9, 0.8, 0.5, TIED, 0.2, 0.1), 3, 0.0, (1, 1, 0.4, 2, 1, 1)),
    Border("a tied pair, shared noise", (0.9, 0.8, 0.5, TIED, 0.2, 0.1), 3, 0.0, shared=0.8),
    Border("a tied pair, heavy tails", (0.9, 0.8, 0.5, TIED, 0.2, 0.1), 3, 0.0, heavy=True),
    Border("a pair at the tolerance", (0.9, 0.8, 0.51, 0.4999, 0.2, 0.1), 3, 0.01),
    Border("five tied for two places", (0.9, 0.8, 0.5, 0.5, *[TIED] * 3, 0.2), 4, 0.0),
    Border("twenty near-ties", (*np.linspace(0.6, 0.4, 20),), 10, 0.01),
    Border("many near-ties, noise 1 : 9", (*np.linspace(0.6, 0.4, 40),), 20, 0.01, (*np.geomspace(1 / 3, 3, 40),)),
    Border("weak channels", (0.9, 0.8, *[0.02] * 10), 3, 0.01),
    Border("a clear border", (0.9, 0.8, 0.7, 0.3, 0.2, 0.1), 3, 0.01),
)


@dataclass(frozen=True)
class Outcome:
    """Shares of the runs that stopped early, that were wrong when they did; mean share of the rows read."""

    stopped: float
    wrong: float
    read: float


def is_wrong(correlations: Floats, inside: npt.NDArray[np.int64], tolerance: float) -> bool:
    """Whether one outside is better than one inside by more than the tolerance."""
    outside = np.setdiff1d(np.arange(len(correlations)), inside)
    return bool(correlations[outside].max() - correlations[inside].min() > tolerance)


def level_of(look: int) -> float:
    return spent(ALPHA, look, LOOKS)


def naive(_: int) -> float:
    return ALPHA


def simulate(border: Border, repeats: int, levels: Callable[[int], float], *, seed: int = 0) -> Outcome:
    """Runs over independent rows: fold sums of the rows' influences on r^2 grow from look to look."""
    random = np.random.default_rng(seed)
    truth = np.asarray(border.correlations, np.float64)
    noise = np.ones(len(truth)) if border.noise is None else np.asarray(border.noise, np.float64)
    sizes = prefixes(UNITS)
    stopped = wrong = read = 0.0
    for _ in range(repeats):
        total = np.zeros((len(truth), FOLDS))
        before = 0
        for look, size in enumerate(sizes, start=1):
            more = (size - before) * ROWS / UNITS / FOLDS
            before = size
            if size == UNITS:
                break
            total += np.sqrt(more) * _draw(random, border, len(truth))
            pseudo = truth[:, None] ** 2 + noise[:, None] * total / (size * ROWS / UNITS / FOLDS)
            estimate = pseudo.mean(axis=1)
            ok = np.ones(len(truth), bool)
            settlement = check_settled(
                estimate, pseudo, ok, top=border.top, level=levels(look), tolerance=border.tolerance
            )
            if settlement.settled:
                stopped += 1
                wrong += is_wrong(truth, np.argsort(-estimate)[: border.top], border.tolerance)
                break
        read += before / UNITS
    return Outcome(stopped / repeats, wrong / repeats, read / repeats)


def _draw(random: np.random.Generator, border: Border, channels: int) -> Floats:
    """Standardised fold sums (C, F) of one stretch of rows."""
    own, common = random.standard_normal((channels, FOLDS)), random.standard_normal(FOLDS)
    drawn = np.sqrt(1 - border.shared) * own + np.sqrt(border.shared) * common
    if border.heavy:
        drawn = drawn / np.sqrt(random.chisquare(4, (channels, FOLDS)) / 4) / np.sqrt(2)
    return np.asarray(drawn, np.float64)


# -- MNIST


@dataclass(frozen=True)
class Orders:
    """Random orders of real units: of `orders` runs, how many were right within the tolerance, and what they read."""

    images: int
    orders: int
    right: float
    stopped: float
    read: float


def unit_grams(folder: Path, units: int, layers: Sequence[str]) -> tuple[Plan, dict[str, list[Gram]]]:
    """The plan of the first 2,048 images, and by layer the Gram of each unit of consecutive images."""
    plans: list[Plan] = []
    grams: dict[str, list[Gram]] = {}
    pictures, _ = mnist.images(folder)
    keys = np.array([key_of_bytes(bytes(p.numpy().tobytes())) for p in pictures], np.uint64)
    folds = torch.from_numpy((keys % np.uint64(FOLDS)).astype(np.uint8))
    for name in layers:
        activations = mnist.activations(folder, name)
        pilot = activations.rows(np.linspace(0, len(activations.target) - 1, 2048).astype(np.int64))
        plan = build_plan(
            lambda pilot=pilot, name=name: iter([{name: part} for part in torch.split(pilot.maps, 500)]),  # type: ignore[misc]
            {name: activations.shape},
            {"y": pilot.target},
            components=5,
            knots=9,
            folds=FOLDS,
            scale="pixel",
            facts={},
        )
        plans.append(plan)
        layer = plan.layer(name)
        targets = plan.encode_targets(activations.target[:, None])
        grams[name] = []
        for part in np.array_split(np.arange(len(activations.target)), units):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            codes = layer.encode(*layer.project(activations.maps[rows]))
            gram = Gram(layer.channels, 5, 1, 9, FOLDS)
            gram.update(codes.codes, codes.means, targets[0][rows], targets[1][rows], folds[rows])
            grams[name].append(gram)
        del activations, pilot
    first = plans[0]
    joined = Plan(
        tuple(layer for plan in plans for layer in plan.layers),
        first.targets,
        first.components,
        first.knots,
        first.folds,
        first.scale,
        first.pilot_rows,
        first.facts,
    )
    return joined, grams


def random_orders(
    folder: Path, orders: int, *, units: int = 64, top: int = 10, tolerance: float = 0.01, seed: int = 0
) -> Orders:
    """Runs over the same images, their units in so many random orders; right is what all images say."""
    plan, grams = unit_grams(folder, units, ("conv1", "conv2", "conv3"))

    def score(sums: dict[str, Gram]) -> ChannelScores:
        return ChannelScores.cat([score_channels(sums[y.name], y, plan.targets, penalty=0.3)[0] for y in plan.layers])

    def add(sums: dict[str, Gram], places: npt.NDArray[np.int64]) -> dict[str, Gram]:
        return {name: gram.merge([grams[name][place] for place in places]) for name, gram in sums.items()}

    def empty() -> dict[str, Gram]:
        return {y.name: Gram(y.channels, 5, 1, 9, FOLDS) for y in plan.layers}

    truth = score(add(empty(), np.arange(units))).score
    random = np.random.default_rng(seed)
    right = stopped = read = 0.0
    sizes = prefixes(units)
    for _ in range(orders):
        order, sums, before = random.permutation(units), empty(), 0
        for look, size in enumerate(sizes, start=1):
            if size == units:
                right += 1
                read += 1
                break
            sums = add(sums, order[before:size])
            before = size
            scores_so_far = score(sums)
            ok = scores_so_far.status == OK
            level = spent(ALPHA, look, len(sizes) - 1)
            settlement = check_settled(
                scores_so_far.score_squared, scores_so_far.pseudo, ok, top=top, level=level, tolerance=tolerance
            )
            if settlement.settled and not (scores_so_far.status == TOO_FEW_IMAGES).any():
                ranked = np.argsort(-np.where(ok, scores_so_far.score_squared, -np.inf), kind="stable")
                right += not is_wrong(truth, ranked[:top], tolerance)
                stopped += 1
                read += size / units
                break
    images = int(sum(gram.images for gram in grams["conv1"]))
    return Orders(images, orders, right / orders, stopped / orders, read / orders)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.statistics.order.settling", description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--example", action="store_true", help="the 5,000 images of examples/mnist")
    arguments = parser.parse_args()
    print("| border of the top | stopped | wrong | read | naive: stopped | naive: wrong |\n|---|---|---|---|---|---|")
    for border in BORDERS if arguments.repeats else ():
        by_rule, by_naive = (simulate(border, arguments.repeats, one) for one in (level_of, naive))
        print(
            f"| {border.name} | {by_rule.stopped:.1%} | {by_rule.wrong:.1%} | {by_rule.read:.0%} "
            f"| {by_naive.stopped:.1%} | {by_naive.wrong:.1%} |",
            flush=True,
        )
    folder = mnist.EXAMPLE if arguments.example or not mnist.TRAIN.exists() else mnist.TRAIN
    if arguments.orders:
        torch.set_num_threads(1)
        print(random_orders(folder, arguments.orders), flush=True)


if __name__ == "__main__":
    main()
