"""How far rankings of two disjoint samples agree: python -m tests.statistics.stability prints the docs' tables.

Spearman's rank correlation over the channels of a layer between the two halves, on the example's network and MNIST: the
full training set where it lies beside the project (../shared/data), else the example's 5,000 images. A second table
compares the ways to scale pixels. Some minutes on one core; `--example` takes the small set.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from pcace_dist.statistics.ace import MAX_ROWS, ace
from tests.statistics import mnist
from tests.statistics.comparison import Floats, held_out, scored, spearman
from tests.statistics.mnist import Activations

COMPONENTS = 5
SIZES = (300, 1000, 3000)
PILOTS = (300, 1000, 2048)
LAYERS = ("conv2", "conv3")
DIGITS = (3, 7, None)
Halves = tuple[Activations, Activations]


def splits(rows: Activations, size: int | None, seed: int) -> Halves:
    """Two disjoint random samples of `size` rows; None: the two halves of all."""
    order = np.random.default_rng(seed).permutation(len(rows.target))
    count = len(order) // 2 if size is None else size
    return rows.rows(order[:count]), rows.rows(order[count : 2 * count])


def shared_plan(rows: Activations, pilot: int) -> Callable[[Halves], tuple[Floats, Floats]]:
    """Additive score, one plan from a pilot of `pilot` rows spread over all."""
    places = np.unique(np.linspace(0, len(rows.target) - 1, min(pilot, len(rows.target))).astype(np.int64))
    plan = rows.rows(places).plan(COMPONENTS)

    def score(halves: Halves) -> tuple[Floats, Floats]:
        one, other = (scored(plan, half).score_squared for half in halves)
        return one, other

    return score


def own_plan(halves: Halves, scale: str = "pixel") -> tuple[Floats, Floats]:
    """Additive score, each half with the plan of its own first 2,048 rows."""
    one, other = (
        scored(half.rows(np.arange(min(2048, len(half.target)))).plan(COMPONENTS, scale=scale), half).score_squared
        for half in halves
    )
    return one, other


def by_ace(halves: Halves) -> list[tuple[Floats, Floats]]:
    """Sample-level ACE on axes of the half itself, each pixel standardised: summed score, published first component."""
    results = [ace(half.components(half.plan(COMPONENTS, scale="standard").layers[0]), half.target) for half in halves]
    return [(results[0].score, results[1].score), (results[0].first_component, results[1].first_component)]


def agreement(rows: Activations, size: int | None, repeats: int) -> list[float]:
    """Mean Spearman over the splits: shared plan per pilot size, own plans, ACE summed, ACE first component."""
    scores = [shared_plan(rows, pilot) for pilot in PILOTS]
    agreements = []
    for seed in range(repeats):
        halves = splits(rows, size, seed)
        pairs = [score(halves) for score in scores] + [own_plan(halves)]
        small = len(halves[0].target) <= MAX_ROWS
        pairs += by_ace(halves) if small else []
        agreed = [spearman(*pair) for pair in pairs]
        agreements.append(agreed + [float("nan")] * (0 if small else 2))
    return [float(value) for value in np.mean(agreements, axis=0)]


def stability(folder_rows: Callable[[str, int | None], Activations]) -> Iterator[str]:
    """Lines of the table."""
    pilots = " | ".join(f"shared plan, pilot {pilot:,}" for pilot in PILOTS)
    yield f"| layer | digit | rows in each half | {pilots} | own plans | ACE, summed | ACE, first component |"
    yield "|---|---|---|" + "---|" * (len(PILOTS) + 3)
    for layer in LAYERS:
        for digit in DIGITS:
            rows = folder_rows(layer, digit)
            sizes: list[int | None] = [size for size in SIZES if 2 * size <= len(rows.target)]
            if sizes and len(rows.target) > 2.2 * (sizes[-1] or 0):
                sizes.append(None)
            for size in sizes:
                repeats = 2 if size is None or size > 1000 else 6
                values = agreement(rows, size, repeats if size is not None or digit is not None else 1)
                count = size or len(rows.target) // 2
                cells = " | ".join("-" if np.isnan(value) else f"{value:.2f}" for value in values)
                yield f"| {layer} | {'all' if digit is None else digit} | {count:,} | {cells} |"


def ablation(layer: str, rows: Activations, order: npt.NDArray[np.int64]) -> float:
    """Share of the target's variance lost when the first 1, 2 and 4 channels become their mean map; mean."""
    lost = []
    own = torch.from_numpy(rows.labels)[:, None]
    for count in (1, 2, 4):
        maps = rows.maps.clone()
        top = torch.from_numpy(order[:count].copy())
        maps[:, top] = maps[:, top].mean(dim=0)
        changed = Activations(maps, rows.shape, rows.target, rows.labels)
        left = mnist.logits_after(layer, changed).gather(1, own)[:, 0].double().numpy()
        lost.append(1 - (np.corrcoef(left, rows.target)[0, 1] ** 2 if np.ptp(left) > 0 else 0.0))
    return float(np.mean(lost))


def scales(folder_rows: Callable[[str, int | None], Activations]) -> Iterator[str]:
    """Lines of the table of pixel scales."""
    yield "| scale | layer | held-out correlation | halves of 1,000 agree, own plans | variance lost by ablation |"
    yield "|---|---|---|---|---|"
    for layer in ("relu1", "conv2", "relu2", "conv3", "relu3"):
        cases = [folder_rows(layer, digit) for digit in (3, 7)]
        for scale in ("pixel", "standard", "none"):
            held, agreed, lost = [], [], []
            for rows in cases:
                fit, rest = splits(rows, None, 0)
                plan = fit.plan(COMPONENTS, scale=scale)
                held.append(held_out(plan, fit, rest).mean())
                size = min(1000, len(rows.target) // 2)
                agreed += [spearman(*own_plan(splits(rows, size, seed), scale)) for seed in range(6)]
                lost.append(ablation(layer, rest, np.argsort(-scored(plan, fit).score_squared)))
            yield f"| {scale} | {layer} | {np.mean(held):.3f} | {np.mean(agreed):.3f} | {np.mean(lost):.3f} |"


def main() -> None:
    torch.set_num_threads(1)
    full = mnist.TRAIN.exists() and "--example" not in sys.argv
    folder = mnist.TRAIN if full else mnist.EXAMPLE

    def rows(layer: str, digit: int | None) -> Activations:
        return mnist.activations(folder, layer, digit)

    print(f"{'MNIST training set' if full else 'the 5,000 images of the example'}, p = {COMPONENTS}\n")
    for lines in (stability(rows), scales(rows)):
        for text in lines:
            print(text, flush=True)
        print()


if __name__ == "__main__":
    main()
