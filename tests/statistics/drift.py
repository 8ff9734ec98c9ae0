"""How often a comparison sees movement where there is none: python -m tests.statistics.drift prints the table.

Every setting: pairs of runs that estimate the same thing, judged as `pcace compare` does (difference, false discovery
rate 5 % over all channels and groups). An alarm is a pair with any channel named.

    halves           two disjoint random samples of MNIST, each with the plan of its own pilot
    shared plan      the same with one plan for both
    noisy copies     the same images through two networks whose maps differ by independent noise: equal in truth, and
                     paired by fold; each with the plan of its own maps of the same pilot images
    other pilots     one network over the same images, maps of one position, each with the plan of another pilot: its
                     knots are all that differs
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from pcace_dist.analysis.movement import Side, difference, false_discovery
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.plan_noise.half_samples import HalfSamples
from pcace_dist.statistics.score import ChannelScores, score_channels
from tests.statistics import mnist, pilots
from tests.statistics.comparison import PENALTY, gram_of
from tests.statistics.mnist import Activations

COMPONENTS = 5
FOLDS = 16
LEVEL = 0.05
LAYERS = ("conv1", "conv2", "conv3")
NOISE = 0.5  # of noisy copies, in standard deviations of a map's values

Layers = Mapping[str, Activations]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Pairs of runs, alarms among them, channels judged in each, and the share of p-values below 5 % and 0.1 %."""

    pairs: int
    alarms: int
    channels: int
    below_5: float
    below_01: float

    def __str__(self) -> str:
        shares = f"{100 * self.below_5:.1f} % | {100 * self.below_01:.2f} %"
        return f"{self.channels:,} | {self.pairs} | {self.alarms} | {shares}"


def layers_of(images: int | None = None, *, full: bool = False) -> dict[str, Activations]:
    """Activations of all layers for random images of the example, or of the full training set."""
    folder = mnist.TRAIN if full else mnist.EXAMPLE
    by_layer = {}
    for layer in LAYERS:
        rows = mnist.activations(folder, layer)
        rows_taken = np.sort(np.random.default_rng(7).permutation(len(rows.target))[:images])
        by_layer[layer] = rows.rows(rows_taken)
    return by_layer


def halves(
    layers: Layers, size: int, pairs: int, *, pilot: int = 2048, by_digit: bool = False, shared: bool = False
) -> Found:
    """Two disjoint samples of `size` images each."""
    rows = len(next(iter(layers.values())).target)
    plans = (
        {name: held.rows(_spread(rows, pilot)).plan(COMPONENTS) for name, held in layers.items()} if shared else None
    )

    def sides() -> Iterator[tuple[Side, Side]]:
        for seed in range(pairs):
            rng = np.random.default_rng(seed)
            order = rng.permutation(rows)
            both = []
            for half in range(2):
                index = np.sort(order[half * size : (half + 1) * size])
                own = {name: held.rows(index) for name, held in layers.items()}
                folds = rng.integers(0, FOLDS, size)
                both.append(_side(own, folds, plans, pilot, by_digit=by_digit, counted=not shared))
            yield both[0], both[1]

    return judge(sides(), paired=False)


def noisy_copies(layers: Layers, size: int, pairs: int, *, pilot: int = 2048) -> Found:
    """The same `size` images, maps with independent noise."""
    rows = len(next(iter(layers.values())).target)

    def sides() -> Iterator[tuple[Side, Side]]:
        for seed in range(pairs):
            rng = np.random.default_rng(seed)
            index = np.sort(rng.permutation(rows)[:size])
            folds = rng.integers(0, FOLDS, size)
            own = {name: held.rows(index) for name, held in layers.items()}
            one, other = ({name: _noisy(held, 10 * seed + copy) for name, held in own.items()} for copy in range(2))
            yield (
                _side(one, folds, None, pilot, by_digit=False, counted=True),
                _side(other, folds, None, pilot, by_digit=False, counted=True),
            )

    return judge(sides(), paired=True)


def other_pilots(count: int, *, pilot: int = 2048) -> Found:
    """Every two of `count` pilots over all images, for the units of the network `dense` of tests.statistics.pilots."""
    runs = pilots.runs_of(pilots.of_network("dense"), pilot, count)[None]
    return judge(combinations([_side_of(run, pilot) for run in runs], 2), paired=True)


def judge(sides: Iterable[tuple[Side, Side]], *, paired: bool) -> Found:
    """Alarms among pairs."""
    alarms, pairs, values = 0, 0, []
    for one, other in sides:
        p_value = difference(one, other, paired=paired).p_value
        alarms += bool(np.nanmin(false_discovery(p_value)) <= LEVEL)
        pairs += 1
        values.append(p_value[np.isfinite(p_value)])
    every = np.concatenate(values)
    return Found(pairs, alarms, len(every) // pairs, float((every < 0.05).mean()), float((every < 0.001).mean()))


def _side(
    layers: Layers, folds: Integers, plans: Mapping[str, Plan] | None, pilot: int, *, by_digit: bool, counted: bool
) -> Side:
    scored: list[ChannelScores] = []
    size = len(folds)
    for name, rows in layers.items():
        plan = _own_plan(rows, folds, pilot, by_digit=by_digit) if plans is None else plans[name]
        parts = [np.flatnonzero(rows.labels == digit) for digit in range(10)] if by_digit else [np.arange(size)]
        for digit, part in enumerate(parts):
            gram = gram_of(plan, rows.rows(part), folds[part])
            noise = None if plan.noise is None else plan.noise.of("y", "layer", slice(None), str(digit), FOLDS)
            scored += score_channels(gram, plan.layers[0], plan.targets, penalty=PENALTY, noise=[noise])
    return _side_of(ChannelScores.cat(scored), min(pilot, size) if counted else None)


def _side_of(scores: ChannelScores, pilot: int | None) -> Side:
    nothing = np.zeros(len(scores.images), dtype=bool)
    return Side(scores.score_squared, scores.pseudo, scores.images, nothing, pilot, scores.plan_noise)


def _own_plan(rows: Activations, folds: Integers, pilot: int, *, by_digit: bool) -> Plan:
    """The plan of a pilot among these rows, with its noise."""
    chosen = _spread(len(folds), pilot)
    own = rows.rows(chosen)
    groups = [str(label) for label in own.labels] if by_digit else None
    keys = folds[chosen].astype(np.uint64)
    noise = HalfSamples(keys, {"y": own.target}, COMPONENTS, 9, PENALTY, groups, "label" if by_digit else None)
    return own.plan(COMPONENTS, noise=noise)


def _spread(rows: int, pilot: int) -> Integers:
    return np.unique(np.linspace(0, rows - 1, min(pilot, rows)).astype(np.int64))


def _noisy(rows: Activations, seed: int) -> Activations:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows.maps.shape, generator=generator) * (NOISE * float(rows.maps.std()))
    return Activations(rows.maps + noise, rows.shape, rows.target, rows.labels)


def main() -> None:
    torch.set_num_threads(1)
    full = mnist.TRAIN.exists() and "--example" not in sys.argv
    layers = layers_of(20_000 if full else None, full=full)
    size = 10_000 if full else 2500
    print("| pairs of runs | channels | pairs | alarms | p < 5 % | p < 0.1 % |\n|---|---|---|---|---|---|")
    print(f"| halves, 2,500 images, own plans | {halves(layers, 2500, 100)} |", flush=True)
    print(f"| halves, 2,500 images, shared plan | {halves(layers, 2500, 100, shared=True)} |", flush=True)
    print(f"| noisy copies, 2,500 images | {noisy_copies(layers, 2500, 100)} |", flush=True)
    if full:
        print(f"| other pilots, 60,000 images, maps of one position, paired | {other_pilots(10)} |", flush=True)
        print(f"| halves, {size:,} images, own plans | {halves(layers, size, 100)} |", flush=True)
        print(f"| halves, 5,000 images, by digit, own plans | {halves(layers, 5000, 100, by_digit=True)} |", flush=True)
        shared = halves(layers, 5000, 100, by_digit=True, shared=True)
        print(f"| halves, 5,000 images, by digit, shared plan | {shared} |", flush=True)


if __name__ == "__main__":
    main()
