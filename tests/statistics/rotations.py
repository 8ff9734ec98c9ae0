"""Would other axes make the scores of two pilots agree better? python -m tests.statistics.rotations prints the table of
docs/method-tables.md, 8.

Each choice of axes is made anew on each of `--pilots` pilots of 2,048 images and judged on the same other rows: how
much the scores differ between the pilots, how well the channels' order agrees, and what the transforms are worth on
rows that were held out (fitted on 16,000 rows, and on 500). Some minutes on one core.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pcace_dist.statistics.plan import LayerPlan, Plan, make_layer_plan
from tests.statistics import mnist, pilots
from tests.statistics.comparison import held_out, scored, spearman
from tests.statistics.mnist import Activations

Floats = npt.NDArray[np.float64]

WIDE, MOST = 10, 7  # components of the pilot's plan; the most that a gap may choose
P = 5
ROWS, HELD, FEW = 16_000, 4_000, 500


@dataclass(frozen=True)
class Pilot:
    """A pilot's rows, its plan with the first 10 axes, and its components, float32 (n, C, 10)."""

    rows: Activations
    plan: Plan
    components: Tensor
    means: Tensor

    @classmethod
    def of(cls, rows: Activations) -> Pilot:
        plan = rows.plan(min(WIDE, rows.maps.shape[2] - 1))
        return cls(rows, plan, *plan.layers[0].project(rows.maps))

    @property
    def layer(self) -> LayerPlan:
        return self.plan.layers[0]

    @property
    def whitened(self) -> tuple[Floats, Floats]:
        """Components by channel, (C, n, 10), of variance 1, and their standard deviations (C, 10)."""
        values = self.components.transpose(0, 1).double().numpy()
        return values / values.std(axis=1, keepdims=True), values.std(axis=1)

    def turned(self, rotation: Tensor, live: Tensor | None = None) -> Plan:
        """The plan whose axes are the first ten times `rotation` (C, 10, q); live: bool (C, q), those that count."""
        own = self.layer
        every = torch.ones(rotation.shape[0], rotation.shape[2]) if live is None else live.float()
        weights = torch.bmm(own.weights, rotation) * every.unsqueeze(1)
        offsets = torch.bmm(own.offsets.unsqueeze(1), rotation).squeeze(1) * every
        components = torch.einsum("ncp,cpq->ncq", self.components, rotation) * every
        axes = weights, offsets, every.bool(), every
        layer = make_layer_plan(own.name, own.shape, axes, components.contiguous(), self.means, self.plan.knots)
        return replace(self.plan, layers=(layer,), components=rotation.shape[2])


def first(count: int) -> Callable[[Pilot], Plan]:
    """The first axes as they are."""
    return lambda pilot: pilot.turned(torch.eye(pilot.plan.components)[:, :count].repeat(pilot.layer.channels, 1, 1))


def until_a_gap(pilot: Pilot) -> Plan:
    """The first 3 to 7 axes of each channel, up to the largest ratio of two variances."""
    variances = pilot.components.double().var(0)
    ratios = variances[:, 2:MOST] / variances[:, 3 : MOST + 1]
    count = 3 + ratios.argmax(1)
    rotation = torch.eye(pilot.plan.components)[:, :MOST].repeat(pilot.layer.channels, 1, 1)
    return pilot.turned(rotation, torch.arange(MOST) < count.unsqueeze(1))


def independent(pilot: Pilot) -> Plan:
    """The first five, turned to independent components; where these are almost normal no turn is better than another,
    and none is settled."""
    values, spread = pilot.whitened
    settings = {"whiten": False, "max_iter": 1000, "tol": 1e-3, "w_init": np.eye(P)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        unmixing = [FastICA(**settings).fit(own[:, :P] - own[:, :P].mean(axis=0)).components_.T for own in values]
    return pilot.turned(_padded(np.array(unmixing) / spread[:, :P, None], pilot.plan.components))


def varimax(pilot: Pilot) -> Plan:
    """The first five, turned so that each rests on few pixels (Kaiser 1958)."""
    weights = pilot.layer.weights[:, :, :P].double().numpy()
    return pilot.turned(_padded(np.array([_varimax(own) for own in weights]), pilot.plan.components))


def _varimax(weights: Floats) -> Floats:
    loadings, rotation = weights / np.linalg.norm(weights, axis=0), np.eye(P)
    for _ in range(100):
        turned = loadings @ rotation
        left, _, right = np.linalg.svd(loadings.T @ (turned**3 - turned * np.square(turned).mean(axis=0)))
        rotation = left @ right
    return np.asarray(rotation)


def by_target(pilot: Pilot) -> Plan:
    """First the direction among ten that predicts the target best, then the first four axes, made orthogonal to it."""
    values, spread = pilot.whitened
    target = pilot.rows.target - pilot.rows.target.mean()
    rotations = []
    for own, scale in zip(values, spread, strict=True):
        slope = own.T @ target
        basis = np.linalg.qr(np.column_stack([slope, np.eye(len(scale))[:, : P - 1]]))[0]
        rotations.append(basis / scale[:, None])
    return pilot.turned(torch.from_numpy(np.array(rotations)).float())


def _padded(rotations: Floats, rows: int) -> Tensor:
    """(C, rows, q) of (C, p, q), zero below."""
    missing = rows - rotations.shape[1]
    return torch.from_numpy(np.pad(rotations, ((0, 0), (0, missing), (0, 0)))).float()


CHOICES: dict[str, Callable[[Pilot], Plan]] = {
    "p = 5": first(P),
    "p = 3": first(3),
    "p = 7": first(7),
    "3 to 7, up to a gap": until_a_gap,
    "5 independent": independent,
    "5 by varimax": varimax,
    "the target's, and 4": by_target,
}


@dataclass(frozen=True)
class Judged:
    """Standard deviation of score_squared between pilots (rms over channels); Spearman's correlation of two pilots'
    scores; correlation on held-out rows of transforms fitted on ROWS and on FEW."""

    between: float
    agreement: float
    held_out: float
    held_out_few: float

    def __str__(self) -> str:
        return f"{self.between:.4f} | {self.agreement:.3f} | {self.held_out:.3f} | {self.held_out_few:.3f}"


def judge(plans: list[Plan], rows: Activations, held: Activations, few: list[Activations]) -> Judged:
    """few: other rows for each plan."""
    squared = np.array([scored(plan, rows).score_squared for plan in plans])
    return Judged(
        float(np.sqrt(squared.var(axis=0, ddof=1).mean())),
        float(np.mean([spearman(one, other) for one, other in combinations(squared, 2)])),
        float(np.mean([held_out(plan, rows, held) for plan in plans])),
        float(np.mean([held_out(plan, own, held) for plan, own in zip(plans, few, strict=True)])),
    )


def table(every: Activations, count: int, sizes: tuple[int, int] = (2048, 8192)) -> Iterator[tuple[str, Judged]]:
    """Every choice of axes with pilots of the first size, and p = 5 with pilots of the second."""
    random = np.random.default_rng(0)
    order = random.permutation(len(every.target))
    rows, held = every.rows(order[:ROWS]), every.rows(order[ROWS : ROWS + HELD])
    rest = order[ROWS + HELD :]
    few = [every.rows(rest[FEW * number : FEW * (number + 1)]) for number in range(count)]
    drawn = [[Pilot.of(every.rows(random.permutation(rest)[:size])) for _ in range(count)] for size in sizes]
    for name, choose in CHOICES.items():
        yield name, judge([choose(pilot) for pilot in drawn[0]], rows, held, few)
    yield f"p = 5, a pilot of {sizes[1]:,}", judge([first(P)(pilot) for pilot in drawn[1]], rows, held, few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilots", type=int, default=6)
    count = parser.parse_args().pilots
    torch.set_num_threads(1)
    print("| maps | axes | between pilots | agreement | held out | held out, n = 500 |\n|---|---|---|---|---|---|")
    for name in ("conv3", "narrow"):
        rows = mnist.activations(mnist.TRAIN, name) if name == "conv3" else pilots.of_network(name)
        for choice, judged in table(rows, count):
            print(f"| {name} | {choice} | {judged} |", flush=True)


if __name__ == "__main__":
    main()
