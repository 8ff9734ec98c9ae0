"""Coverage of the rank intervals through the whole statistic: python -m tests.statistics.order.rank_coverage prints a
table.

Twelve channels share a target. x_1 of channel c and y are bivariate normal with a known correlation, so the true order
is known; the noise of the channels is correlated. All channels have the same knots, so that equal channels are equal.
A repetition counts as covered for a channel if its interval holds all the ranks that ties allow it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.order.ranks import rank_channels
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.score import OK, score_channels
from tests.statistics.helpers import identity_plan

Floats = npt.NDArray[np.float64]

REPETITIONS = 500
CHANNELS = 12
COMPONENTS = 2
SHARED_NOISE = 0.4
CLUSTER = 5


@dataclass(frozen=True)
class Setting:
    """Correlations of the channels' first components with y, rows, whether rows come in clusters and fold by them."""

    name: str
    rho: tuple[float, ...]
    rows: int = 1000
    clustered: bool = False
    by_cluster: bool = False


def line(first: float, last: float) -> tuple[float, ...]:
    return tuple(np.linspace(first, last, CHANNELS).tolist())


GROUPS = (0.2,) * 4 + (0.35,) * 4 + (0.5,) * 4
SETTINGS = (
    Setting("spread 0 to 0.8", line(0, 0.8)),
    Setting("all independent of y", (0.0,) * CHANNELS),
    Setting("all independent of y", (0.0,) * CHANNELS, rows=300),
    Setting("all equal, 0.5", (0.5,) * CHANNELS),
    Setting("three groups of equals", GROUPS),
    Setting("three groups of equals", GROUPS, rows=300),
    Setting("close, 0.40 to 0.44", line(0.4, 0.44)),
    Setting("close, 0.40 to 0.44", line(0.4, 0.44), rows=5000),
    Setting("clusters of 5, fold_by", line(0.3, 0.5), clustered=True, by_cluster=True),
    Setting("clusters of 5, folds by row", line(0.3, 0.5), clustered=True),
)


@dataclass(frozen=True)
class Measured:
    """Coverage on average and of the worst channel; mean number of ranks in an interval."""

    average: float
    worst: float
    width: float


def measure(setting: Setting, repetitions: int = REPETITIONS) -> Measured:
    random = np.random.default_rng(zlib.crc32(f"{setting.name} {setting.rows}".encode()))
    plan = _plan(setting, random)
    rho = np.array(setting.rho)
    best = 1 + (rho > rho[:, None]).sum(axis=1)
    last = CHANNELS - (rho < rho[:, None]).sum(axis=1)
    covered, widths = [], []
    for _ in range(repetitions):
        low, high = _intervals(setting, plan, random)
        covered.append((low <= best) & (high >= last))
        widths.append(high - low + 1)
    return Measured(float(np.mean(covered)), float(np.mean(covered, axis=0).min()), float(np.mean(widths)))


def _draw(setting: Setting, random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    def noise(*shape: int) -> Floats:
        own = random.normal(size=(n, *shape))
        if not setting.clustered:
            return own
        common = random.normal(size=(-(-n // CLUSTER), *shape)).repeat(CLUSTER, axis=0)[:n]
        return np.asarray(np.sqrt(0.9) * common + np.sqrt(0.1) * own)

    rho = np.array(setting.rho)
    y = noise()
    rest = np.sqrt(SHARED_NOISE) * noise(1) + np.sqrt(1 - SHARED_NOISE) * noise(CHANNELS)
    first = rho * y[:, None] + np.sqrt(1 - rho**2) * rest
    return np.stack([first, noise(CHANNELS)], axis=2), y


def _plan(setting: Setting, random: np.random.Generator) -> Plan:
    x, y = _draw(setting, random, 2048)
    plan = identity_plan(x, {"y": y})
    layer = plan.layers[0]
    knots, spread = layer.knots[:1].expand(CHANNELS, -1, -1), layer.spread[:1].expand(CHANNELS, -1)
    return replace(plan, layers=(replace(layer, knots=knots.contiguous(), spread=spread.contiguous()),))


def _intervals(
    setting: Setting, plan: Plan, random: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    x, y = _draw(setting, random, setting.rows)
    folds = random.integers(0, plan.folds, setting.rows)
    if setting.by_cluster:
        folds = folds[np.arange(setting.rows) // CLUSTER]
    layer = plan.layers[0]
    own = layer.encode(*layer.project(torch.from_numpy(x).float()))
    codes, fixed = plan.encode_targets(y[:, None])
    gram = Gram(CHANNELS, COMPONENTS, 1, plan.knots, plan.folds).update(own.codes, own.means, codes, fixed, folds)
    scores = score_channels(gram, layer, plan.targets, penalty=0.3)[0]
    ranks = rank_channels(scores.score_squared, scores.pseudo, scores.status == OK)
    return ranks.low, ranks.high


def main() -> None:
    torch.set_num_threads(1)
    print("| channels | n | average | worst channel | ranks in an interval |")
    print("|---|---|---|---|---|")
    for setting in SETTINGS:
        m = measure(setting)
        print(
            f"| {setting.name} | {setting.rows:,} | {m.average:.1%} | {m.worst:.1%} | {m.width:.1f} of {CHANNELS} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
