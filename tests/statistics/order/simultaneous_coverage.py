"""Whether all channels lie in their intervals at once: python -m tests.statistics.order.simultaneous_coverage prints a
table of docs/method-tables.md, 5.

The laws of `plan_coverage`: rows and pilot are drawn anew in each repetition. A repetition holds another pilot if the
values that this pilot's plan has in the population lie in the intervals of all channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch

from pcace_dist.statistics.order.simultaneous import simultaneous_intervals
from tests.statistics.plan_coverage import PILOT, Floats, Setting, World, heavy_tails, planned, rows_in_parts, scored

POOL = 60_000
OTHERS = 40
SETTINGS = (
    Setting("normal", 1_000, repetitions=60),
    Setting("heavy tails", 1_000, draw=heavy_tails, repetitions=60),
    Setting("zero-inflated", 1_000, rectified=True, repetitions=60),
    Setting("normal", 10_000, repetitions=40),
    Setting("normal", 10_000, channels=64, repetitions=20),
)


@dataclass(frozen=True)
class Measured:
    """Shares: of all values in the channels' own intervals; of the other pilots whose values all are, and that all are
    in the simultaneous intervals. Mean widths of both."""

    each: float
    own_at_once: float
    at_once: float
    width: float
    width_at_once: float


def measure(setting: Setting, *, pool: int = POOL, others: int = OTHERS) -> Measured:
    random = np.random.default_rng(crc32(f"{setting}".encode()))
    world, pilot = World(setting), min(PILOT, setting.rows)
    every = rows_in_parts(world, random, pool, setting.folds)

    def value() -> Floats:
        return scored(planned(*world.rows(random, pilot), None, setting.components), every).score

    values = np.array([value() for _ in range(others)])
    own, at_once, widths = [], [], []
    for _ in range(setting.repetitions):
        parts = rows_in_parts(world, random, setting.rows, setting.folds)
        maps, y, folds = parts[0]
        keys = folds[:pilot].astype(np.uint64)
        found = scored(planned(maps[:pilot], y[:pilot], keys, setting.components, setting.folds), parts)
        wide = simultaneous_intervals(found.score_squared, found.pseudo_of_another)
        intervals = ((found.score_low, found.score_high), wide)
        held = [(low <= values) & (values <= high) for low, high in intervals]
        own.append(held[0])
        at_once.append(held[1].all(axis=1))
        widths.append([(high - low).mean() for low, high in intervals])
    each, own_at_once = np.mean(own), np.mean(np.all(own, axis=2))
    return Measured(float(each), float(own_at_once), float(np.mean(at_once)), *np.mean(widths, axis=0).tolist())


def main() -> None:
    torch.set_num_threads(1)
    columns = ["law", "n", "channels", "one channel in its own", "all in their own", "all in the simultaneous", "width"]
    print(f"| {' | '.join([*columns, 'simultaneous'])} |\n" + "|---" * 8 + "|")
    for setting in SETTINGS:
        m = measure(setting)
        print(
            f"| {setting.name} | {setting.rows:,} | {setting.channels} | {m.each:.1%} | {m.own_at_once:.1%}"
            f" | {m.at_once:.1%} | {m.width:.3f} | {m.width_at_once:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
