"""Coverage of effects' intervals and of their ranks', the axes drawn anew in every repetition: the table of
docs/method.md, section 11.

    python -m tests.statistics.effects.coverage [--repeats 300] [--only classes]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch

from pcace_dist.statistics.ranks import rank_channels
from tests.statistics.effects.planted_effects import CHANNELS, SETTINGS, effects_of, plan_of, true_effects, world

PILOT = 2048
CASES = [
    *((setting, rows, 64) for setting in SETTINGS for rows in (200, 1_000, 10_000)),
    ("interacting", 10_000, 16),
    ("interacting", 10_000, 256),
    ("classes", 10_000, 16),
    ("hidden", 100_000, 64),
    ("classes", 100_000, 64),
]


@dataclass(frozen=True)
class Coverage:
    """Shares of the repetitions: of intervals that hold the effect, mean and lowest over channels; of those without the
    axes' noise; of rank intervals that hold all ranks that ties allow."""

    interval: float
    worst: float
    given_axis: float
    ranks: float
    worst_rank: float
    width: float


def measure(setting: str, rows: int, images: int, repeats: int, seed: int = 0) -> Coverage:
    """Coverage of one case. The pilot is the first rows of the data, and the axes' images are its first."""
    truth = true_effects(setting)
    best = np.array([1 + (truth > own + 1e-9).sum() for own in truth])
    last = np.array([(truth >= own - 1e-9).sum() for own in truth])
    held, given, ranked, widths = [], [], [], []
    for repeat in range(repeats):
        data = world(setting, rows, seed=seed + 1_000 * repeat + rows)
        plan = plan_of(data.take(slice(0, PILOT)), images=images)
        found = effects_of(plan, data)
        assert (found.status == "ok").all(), found.status
        held.append((found.low <= truth + 1e-9) & (truth <= found.high + 1e-9))
        widths.append(found.high - found.low)
        plan.layers[0].noise.zero_()
        alone = effects_of(plan, data)
        given.append((alone.low <= truth + 1e-9) & (truth <= alone.high + 1e-9))
        ranks = rank_channels(found.effect, found.pseudo, np.ones(CHANNELS, bool))
        ranked.append((ranks.low <= best) & (ranks.high >= last))
    cover, order = np.mean(held, 0), np.mean(ranked, 0)
    return Coverage(cover.mean(), cover.min(), np.mean(given), order.mean(), order.min(), float(np.mean(widths)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--only", choices=SETTINGS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| setting | n | axis of | covered | worst channel | given the axis | ranks | worst | mean width |")
    print("|---|---|---|---|---|---|---|---|---|")
    for setting, rows, images in CASES:
        if arguments.only in (None, setting):
            got = measure(setting, rows, images, arguments.repeats)
            shares = (got.interval, got.worst, got.given_axis, got.ranks, got.worst_rank)
            told = " | ".join(f"{100 * share:.1f}%" for share in shares)
            print(f"| {setting} | {rows:,} | {images} | {told} | {got.width:.3f} |", flush=True)


if __name__ == "__main__":
    main()
