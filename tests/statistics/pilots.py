"""How much another pilot changes, and whether the intervals say so: table 8 of docs/method-tables.md, by

    python -m tests.statistics.pilots
    python -m tests.statistics.pilots --networks example anew --pilots 20 --sizes 512 2048 8192

Networks are trained anew here on MNIST (../shared/data; a minute each), none of which the estimate was set on. All
60,000 images are ranked once for each of `--pilots` pilots, drawn at random; the scores of any two pilots should lie in
each other's intervals. True: the standard deviation of score_squared between the pilots, of which the estimate is that
of a single pilot. By chance: where every interval holds 95 % of the others, the worst of so many channels under so many
pilots has this share (the median).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from examples.mnist.train import train
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.plan_noise.half_samples import HalfSamples
from pcace_dist.statistics.score import ChannelScores, score_channels
from tests.statistics import mnist
from tests.statistics.mnist import Activations

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FOLDS, KNOTS, PENALTY = 16, 9, 0.3
DIGITS = (None, 3, 8)  # all images, then groups


def narrow() -> nn.Sequential:
    """Three layers with strides, no pooling."""
    layers = [nn.Conv2d(1, 10, 4, stride=2), nn.Tanh(), nn.Conv2d(10, 28, 3, stride=2), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(28, 40, 3), nn.Tanh(), nn.Flatten(), nn.Linear(40 * 16, 10))


def pooled() -> nn.Sequential:
    """Two layers and pooling by means."""
    layers = [nn.Conv2d(1, 6, 5), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(6, 18, 5), nn.GELU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(18 * 16, 10))


def normalised() -> nn.Sequential:
    """Batch norm, and a layer whose maps are small."""
    layers = [nn.Conv2d(1, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32)]
    return nn.Sequential(*layers, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 25, 10))


def dense() -> nn.Sequential:
    """A linear layer behind a convolution: maps of one position, with one axis."""
    layers = [nn.Conv2d(1, 12, 7, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 64, 36), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(36, 10))


NETWORKS = {"narrow": (narrow, 2), "pooled": (pooled, 3), "normalised": (normalised, 3), "dense": (dense, 4)}
CONV2 = 3  # the layer's number in the example's network


@torch.enable_grad()
def trained(name: str, *, images: int = 60_000, seed: int = 0) -> nn.Sequential:
    """One of the networks after an epoch."""
    pixels, labels = mnist.images(mnist.TRAIN)
    torch.manual_seed(seed)
    model = NETWORKS[name][0]().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for rows in torch.split(torch.randperm(len(labels))[:images], 100):
        loss = nn.functional.cross_entropy(model(_normal(pixels[rows])), torch.from_numpy(labels)[rows])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return model.eval()


@torch.enable_grad()
def anew(seed: int = 20) -> nn.Sequential:
    """The example's network, trained with another seed."""
    pixels, labels = mnist.images(mnist.TRAIN)
    model = train(pixels, torch.from_numpy(labels), epochs=1, seed=seed)
    assert isinstance(model, nn.Sequential)
    return model


def of_network(name: str) -> Activations:
    """Maps of a layer of one of the networks, of the example's, or of the example's trained anew."""
    if name in NETWORKS:
        return activations(trained(name), NETWORKS[name][1])
    return activations(mnist.network() if name == "example" else anew(), CONV2)


@torch.inference_mode()
def activations(model: nn.Sequential, layer: int) -> Activations:
    """Maps of a layer for all images, and the logit of their own digit."""
    pixels, labels = mnist.images(mnist.TRAIN)
    maps, targets, shape = [], [], ()
    for rows in torch.split(torch.arange(len(labels)), 500):
        x = model[: layer + 1](_normal(pixels[rows]))
        maps.append(x.reshape(*x.shape[:2], -1).clone())
        shape = tuple(x.shape[2:]) or (1,)
        own = torch.from_numpy(labels)[rows, None]
        targets.append(model[layer + 1 :](x.clone()).gather(1, own)[:, 0].double().numpy())
    return Activations(torch.cat(maps), shape, np.concatenate(targets), labels)


def _normal(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255 - 0.1307) / 0.3081


def planned(pilot: Activations, keys: npt.NDArray[np.uint64], components: int) -> Plan:
    """The plan of a pilot, with its noise for all its images and for every digit."""
    names = [str(label) for label in pilot.labels]
    noise = HalfSamples(keys, {"y": pilot.target}, components, KNOTS, PENALTY, names, "label")

    return pilot.plan(components, knots=KNOTS, noise=noise)


@dataclass(frozen=True)
class Spread:
    """Of one ranking under several pilots.

    each_other: share of the scores that lie in the other pilots' intervals; first: in those of the first pilot;
    given_plan: in each other's given the plan. worst: of the channel with the smallest share; chance: its median where
    all channels are covered as promised. true and estimated: standard deviation of score_squared between pilots, rms
    over the channels. width, width_given: of the intervals.
    """

    each_other: float
    first: float
    given_plan: float
    worst: float
    chance: float
    true: float
    estimated: float
    width: float
    width_given: float

    def __str__(self) -> str:
        shares = [f"{share:.1%}" for share in (self.each_other, self.first, self.given_plan)]
        shares += [f"{share:.0%}" for share in (self.worst, self.chance)]
        return (
            f"{' | '.join(shares)} | {self.true:.4f} | {self.estimated:.4f} | {self.width:.3f} ({self.width_given:.3f})"
        )

    @classmethod
    def of(cls, runs: list[ChannelScores]) -> Spread:
        squared = np.array([run.score_squared for run in runs])
        noise = np.array([np.square(run.plan_noise).sum(axis=1) / (FOLDS * (FOLDS - 1)) for run in runs])
        held = _held(runs, "score_low", "score_high")
        return cls(
            float(held.mean()),
            float(held[: len(runs) - 1].mean()),
            float(_held(runs, "score_low_given_plan", "score_high_given_plan").mean()),
            float(held.mean(axis=0).min()),
            worst_by_chance(*squared.shape),
            float(np.sqrt(squared.var(axis=0, ddof=1).mean())),
            float(np.sqrt(noise.mean())),
            float(np.mean([run.score_high - run.score_low for run in runs])),
            float(np.mean([run.score_high_given_plan - run.score_low_given_plan for run in runs])),
        )


def worst_by_chance(pilots: int, channels: int, repetitions: int = 400) -> float:
    """The median share of the worst channel where scores are normal and every interval holds 95 % of the others."""
    random = np.random.default_rng(0)
    scores = random.standard_normal((repetitions, pilots, channels))
    reach = stdtrit(FOLDS - 1, 0.975) * np.sqrt(2 * random.chisquare(FOLDS - 1, scores.shape) / (FOLDS - 1))
    held = np.abs(scores[:, :, None] - scores[:, None]) <= reach[:, :, None]
    shares = (held.sum(axis=(1, 2)) - pilots) / (pilots * (pilots - 1))
    return float(np.median(shares.min(axis=1)))


def _held(runs: list[ChannelScores], low: str, high: str) -> npt.NDArray[np.bool_]:
    """Whether the interval of each run holds the score of each other one: (pairs, C)."""
    return np.array(
        [
            (getattr(one, low) <= other.score) & (other.score <= getattr(one, high))
            for one in runs
            for other in runs
            if one is not other
        ]
    )


def spreads(rows: Activations, pilot: int, pilots: int, *, components: int = 5) -> dict[int | None, Spread]:
    """For all images and for some digits: all rows ranked under each of `pilots` plans from `pilot` rows."""
    return {digit: Spread.of(runs) for digit, runs in runs_of(rows, pilot, pilots, components=components).items()}


def runs_of(
    rows: Activations, pilot: int, pilots: int, *, components: int = 5, seed: int = 0
) -> dict[int | None, list[ChannelScores]]:
    """Scores of all rows, and of some digits, under each of the plans."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 2**63, len(rows.target)).astype(np.uint64)
    runs: dict[int | None, list[ChannelScores]] = {digit: [] for digit in DIGITS}
    for _ in range(pilots):
        chosen = np.sort(rng.permutation(len(rows.target))[:pilot])
        plan = planned(rows.rows(chosen), keys[chosen], components)
        for digit, scores in _ranked(plan, rows, (keys % np.uint64(FOLDS)).astype(np.int64)).items():
            runs[digit].append(scores)
    return runs


def _ranked(plan: Plan, rows: Activations, folds: Integers) -> dict[int | None, ChannelScores]:
    layer = plan.layers[0]
    own = layer.encode(*layer.project(rows.maps))
    codes, fixed = plan.encode_targets(rows.target[:, None])
    scores = {}
    assert plan.noise is not None
    for digit in DIGITS:
        kept = torch.arange(len(folds)) if digit is None else torch.from_numpy(np.flatnonzero(rows.labels == digit))
        gram = Gram(layer.channels, plan.components, 1, KNOTS, FOLDS)
        gram.update(own.codes[kept], own.means[kept], codes[kept], fixed[kept], folds[kept.numpy()])
        all_rows = plan.noise.select(layers=["layer"], targets=["y"], group_by=None)
        noise = (all_rows if digit is None else plan.noise).of("y", "layer", slice(None), str(digit), FOLDS)
        scores[digit] = score_channels(gram, layer, plan.targets, penalty=PENALTY, noise=[noise])[0]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=[*NETWORKS, "example", "anew"])
    parser.add_argument("--pilots", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048])
    parser.add_argument("--components", type=int, nargs="+", default=[5])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["network", "p", "pilot", "images of", "in each other's", "in the first's", "given the plan"]
    columns += ["worst channel", "by chance", "true", "estimated", "width"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name in arguments.networks:
        rows = of_network(name)
        for components in arguments.components:
            for size in arguments.sizes:
                for digit, spread in spreads(rows, size, arguments.pilots, components=components).items():
                    what = "all" if digit is None else f"digit {digit}"
                    where = f"{name}, {rows.maps.shape[1]} channels | {components} | {size:,} | {what}"
                    print(f"| {where} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
