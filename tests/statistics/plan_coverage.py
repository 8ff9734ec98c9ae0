"""Coverage of both intervals of the score, another pilot each time: python -m tests.statistics.plan_coverage prints
table 2 of docs/method-tables.md in ten minutes of one core.

Every repetition draws n rows and a pilot of min(n, 2,048) of them. Truth for the interval that holds another pilot: the
values that the plans of OTHERS independent pilots have in the population; for the one given the plan: the value of the
repetition's own plan. A value in the population is that of POOL rows.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import Plan, build_plan
from pcace_dist.statistics.plan_noise.half_samples import HalfSamples
from pcace_dist.statistics.score import ChannelScores, score_channels

Floats = npt.NDArray[np.float64]
Part = tuple[Tensor, Floats, npt.NDArray[np.int64]]  # maps, target, folds
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]

PIXELS, LATENT = 16, 12
PILOT = 2048
OTHERS = 20
POOL = 40_000
FOLDS, KNOTS, PENALTY = 16, 9, 0.3
EVENT = 8.0  # how far out an event lies, in target and pixels
_ROWS = 50_000  # drawn at a time


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return random.standard_normal(shape)


def heavy_tails(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.asarray(random.standard_t(4, shape) / np.sqrt(2))


@dataclass(frozen=True)
class Setting:
    """A law of maps and target, and sizes.

    rectified: pixels below 0.5 are 0, in 70 % of the rows. faint: the target has five times the noise. events: all that
    target and maps share is this share of the rows, in which both are far out.
    """

    name: str
    rows: int
    channels: int = 12
    components: int = 5
    folds: int = FOLDS
    draw: Draw = normal
    rectified: bool = False
    faint: bool = False
    events: float = 0.0
    repetitions: int = 40
    others: int = OTHERS

    def __str__(self) -> str:
        """What seeds its draws, and names its tests."""
        folds = "" if self.folds == FOLDS else f", {self.folds} folds"
        return f"{self.name}, {self.rows} rows, {self.channels} channels, {self.components} components{folds}"


SETTINGS = (
    *(Setting("normal", rows, repetitions=100) for rows in (200, 1_000)),
    Setting("normal", 200, components=1, repetitions=100),
    Setting("normal", 300, components=10, repetitions=100),
    Setting("normal", 10_000, repetitions=60),
    Setting("normal", 100_000, repetitions=20),
    Setting("normal", 1_000_000, repetitions=10),
    Setting("normal", 10_000, components=1),
    Setting("normal", 10_000, components=10),
    Setting("normal", 10_000, folds=64),
    Setting("normal", 10_000, channels=64, repetitions=10),
    Setting("normal", 10_000, channels=512, repetitions=4, others=8),
    *(Setting("faint", rows, faint=True) for rows in (300, 1_000, 10_000)),
    *(Setting("heavy tails", rows, draw=heavy_tails) for rows in (200, 1_000, 10_000)),
    Setting("heavy tails", 100_000, draw=heavy_tails, repetitions=20),
    *(Setting("zero-inflated", rows, rectified=True) for rows in (200, 1_000, 10_000)),
    Setting("zero-inflated", 100_000, rectified=True, repetitions=20),
    *(Setting("tail events", rows, events=0.005) for rows in (1_000, 10_000)),
    Setting("tail events", 100_000, events=0.005, repetitions=20),
)


class World:
    """Maps are mixtures of the same latent values, each channel its own, plus noise: variances fall off slowly, so
    that neighbouring axes are hard to tell apart. The target is a function of the first latent values."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        random = np.random.default_rng(zlib.crc32(setting.name.encode()))
        falling = 0.75 ** np.arange(LATENT)
        mixing = random.standard_normal((setting.channels, LATENT, PIXELS)) * falling[:, None]
        self._mixing = torch.from_numpy(mixing).float()

    def rows(self, random: np.random.Generator, count: int) -> tuple[Tensor, Floats]:
        """Maps float32 (n, C, D) and the target (n,)."""
        setting = self._setting
        latent = setting.draw(random, (count, LATENT))
        maps = torch.einsum("nl,cld->ncd", torch.from_numpy(latent).float(), self._mixing)
        noise = torch.from_numpy(random.standard_normal((count, setting.channels, PIXELS), dtype=np.float32))
        maps += 0.5 * noise
        spread = 4.0 if setting.faint else 0.8
        y = spread * setting.draw(random, (count,))
        if setting.events:
            happens = EVENT * (random.random(count) < setting.events)
            maps += torch.from_numpy(happens).float()[:, None, None] * self._mixing[:, 0]
            return maps, y + happens
        y += latent[:, 0] + np.abs(latent[:, 1]) + latent[:, 2] + 0.5 * latent[:, 3]
        return (maps - 0.5).clamp_(min=0) if setting.rectified else maps, y


def planned(maps: Tensor, y: Floats, keys: npt.NDArray[np.uint64] | None, components: int, folds: int = FOLDS) -> Plan:
    """The plan of a pilot; with its noise where there are fold keys."""
    noise = None if keys is None else HalfSamples(keys, {"y": y}, components, KNOTS, PENALTY)
    return build_plan(
        lambda: iter([{"layer": maps}]),
        {"layer": (maps.shape[2],)},
        {"y": y},
        components=components,
        knots=KNOTS,
        folds=folds,
        scale="pixel",
        facts={},
        noise=noise,
    )


def scored(plan: Plan, parts: list[Part]) -> ChannelScores:
    """Scores of all rows together."""
    layer = plan.layers[0]
    gram = Gram(layer.channels, plan.components, 1, KNOTS, plan.folds)
    for maps, y, folds in parts:
        own = layer.encode(*layer.project(maps))
        gram.update(own.codes, own.means, *plan.encode_targets(y[:, None]), folds)
    noise = None if plan.noise is None else plan.noise.of("y", "layer", slice(None), "", plan.folds)
    return score_channels(gram, layer, plan.targets, penalty=PENALTY, noise=[noise])[0]


@dataclass(frozen=True)
class Measured:
    """Mean value under other pilots. Shares: of those values in the interval, and in the one given the plan; of the own
    plan's value in the latter (NaN where the pool is not much larger than the sample). Mean widths of both."""

    value: float
    another: float
    another_given_plan: float
    own: float
    width: float
    width_given: float


def measure(setting: Setting, *, pool: int = POOL) -> Measured:
    """Coverage of one setting; seeded by its name and size."""
    random = np.random.default_rng(zlib.crc32(f"{setting}".encode()))
    world = World(setting)
    every = rows_in_parts(world, random, max(pool, setting.rows // 5), FOLDS)
    pilot = min(PILOT, setting.rows)

    def value(plan: Plan) -> Floats:
        return scored(plan, every).score

    plans = (planned(*world.rows(random, pilot), None, setting.components) for _ in range(setting.others))
    values = np.array([value(plan) for plan in plans])
    another, given, own, widths = [], [], [], []
    for _ in range(setting.repetitions):
        parts = rows_in_parts(world, random, setting.rows, setting.folds)
        maps, y, folds = parts[0]
        keys = folds[:pilot].astype(np.uint64)
        plan = planned(maps[:pilot], y[:pilot], keys, setting.components, setting.folds)
        found = scored(plan, parts)
        another.append((found.score_low <= values) & (values <= found.score_high))
        narrow = found.score_low_given_plan, found.score_high_given_plan
        given.append((narrow[0] <= values) & (values <= narrow[1]))
        if setting.rows <= pool // 40:
            truth = value(plan)
            own.append((narrow[0] <= truth) & (truth <= narrow[1]))
        widths.append([(found.score_high - found.score_low).mean(), (narrow[1] - narrow[0]).mean()])
    shares = (float(np.mean(part)) if part else float("nan") for part in (another, given, own))
    return Measured(float(values.mean()), *shares, *np.mean(widths, axis=0).tolist())


def rows_in_parts(world: World, random: np.random.Generator, rows: int, folds: int) -> list[Part]:
    sizes = [min(_ROWS, rows - first) for first in range(0, rows, _ROWS)]
    return [(*world.rows(random, size), random.integers(0, folds, size)) for size in sizes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="settings whose name and size begin so")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["law", "n", "p", "channels", "repetitions", "value", "another pilot's value", "given the plan"]
    print("| " + " | ".join([*columns, "own plan's value", "width", "given the plan"]) + " |")
    print("|---" * (len(columns) + 3) + "|")
    for setting in SETTINGS:
        if not str(setting).startswith(arguments.only or ""):
            continue
        m = measure(setting)
        own = "-" if np.isnan(m.own) else f"{m.own:.1%}"
        print(
            f"| {setting.name} | {setting.rows:,} | {setting.components} | {setting.channels} | {setting.repetitions}"
            f" | {m.value:.3f} | {m.another:.1%} | {m.another_given_plan:.1%} | {own} | {m.width:.3f}"
            f" | {m.width_given:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
