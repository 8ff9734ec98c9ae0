"""Cuts channels out of a run's network and asks whether its prediction still depends on traffic.

The best channels of a layer, as many of the worst, and as many random ones are replaced by their mean maps, on streets
that neither the network nor the ranking has seen. Measured is the slope of the prediction on the known traffic.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from examples.street.city import City, Floats, make_city, saturating
from examples.street.runs import PREDICTION, Share, city_of_run, model_of, picture_size
from examples.street.sight import images_of, total_effects
from examples.street.train import normalise
from pcace_dist.artifacts.run import Run
from pcace_dist.models.ablation.replacement import Ablation

OTHER_SEED = 1000  # added to the run's city's seed
DRAWS = 200  # random sets of channels, and bootstrap samples of panoramas


@dataclass(frozen=True)
class Cut:
    """What is left of the prediction's slope on traffic without `channels` channels of a layer.

    best, worst: with an interval over panoramas (bootstrap); random: median and middle 95 % of DRAWS sets of channels.
    """

    channels: int
    best: Share
    worst: Share
    random: Share


@dataclass(frozen=True)
class Ablated:
    """The channels of a layer from best to worst, the total effects of each factor, and the cuts."""

    layer: str
    order: list[int]
    effects: dict[str, list[float]]
    on_prediction: dict[str, float]
    slope: float
    cuts: list[Cut]

    def seeing(self, factor: str, least: float) -> list[int]:
        """The channels on which a factor's total effect is at least `least`."""
        return [channel for channel, effect in zip(self.order, self.effects[factor], strict=True) if effect >= least]


def ablate(run: Run, layer: str, *, panoramas: int = 500, sizes: Sequence[int] | None = None) -> Ablated:
    """Cut the best, the worst and random channels of a layer out of the run's network."""
    model = model_of(run)
    city = make_city(panoramas, views=2, seed=city_of_run(run).seed + OTHER_SEED)
    order = mean_ranking(run, layer)
    pixels = picture_size(run)
    on_prediction, on_channels = total_effects(model, city, layer, size=pixels)
    tail = _from(model, layer)
    before = _before(model, layer, images_of(city, pixels))
    values = tail[0](before).mean(0).flatten(1)
    traffic = saturating(city.traffic)
    uncut = _predicted(tail, before)

    def predicted_without(channels: Sequence[int]) -> Floats:
        with Ablation(tail, layer, channels, values):
            return _predicted(tail, before)

    cuts = [
        Cut(
            size,
            best=_slope_left(city, traffic, uncut, predicted_without(order[:size])),
            worst=_slope_left(city, traffic, uncut, predicted_without(order[-size:])),
            random=_spread(
                [_slope(traffic, predicted_without(drawn)) / _slope(traffic, uncut) for drawn in _sets(order, size)]
            ),
        )
        for size in sizes or _sizes(len(order))
    ]
    effects = {factor: effect[order].round(4).tolist() for factor, effect in on_channels.items()}
    return Ablated(layer, order, effects, on_prediction, _slope(traffic, uncut), cuts)


def mean_ranking(run: Run, layer: str) -> list[int]:
    """Channels of a layer from best to worst by their mean score for the prediction over the boroughs."""
    table = run.ranking(target=PREDICTION, layer=layer)
    scores: dict[int, list[float]] = {}
    for channel, score in zip(table["channel"].to_pylist(), table["score_squared"].to_pylist(), strict=True):
        scores.setdefault(channel, []).append(-np.inf if score is None else score)
    return sorted(scores, key=lambda channel: -float(np.mean(scores[channel])))


def _sizes(channels: int) -> list[int]:
    return [size for size in (1, 2, 3, 4, 6, 8, 12, 16, 20) if size < channels]


def _sets(order: Sequence[int], size: int) -> list[list[int]]:
    random = np.random.default_rng(size)
    return [random.choice(order, size, replace=False).tolist() for _ in range(DRAWS)]


def _slope(traffic: Floats, predicted: Floats) -> float:
    """Micrograms from an empty street to a full one."""
    centred = traffic - traffic.mean()
    return float(centred @ predicted / (centred @ centred))


def _slope_left(city: City, traffic: Floats, uncut: Floats, cut: Floats) -> Share:
    """The slope with the cut divided by the slope without; the interval is from a bootstrap over panoramas."""
    _, panorama = np.unique(city.panorama, return_inverse=True)
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        weight = np.bincount(
            random.integers(panorama.max() + 1, size=panorama.max() + 1), minlength=panorama.max() + 1
        )[panorama]
        centred = (traffic - np.average(traffic, weights=weight)) * weight
        drawn.append(float(centred @ cut / (centred @ uncut)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Share(_slope(traffic, cut) / _slope(traffic, uncut), float(low), float(high))


def _spread(values: Sequence[float]) -> Share:
    low, middle, high = np.quantile(values, [0.025, 0.5, 0.975])
    return Share(float(middle), float(low), float(high))


def _from(model: nn.Module, layer: str) -> nn.Sequential:
    """The network from `layer` on; the modules are the network's own."""
    children = dict(model.named_children())
    names = list(children)
    return nn.Sequential(OrderedDict((name, children[name]) for name in names[names.index(layer) :]))


@torch.inference_mode()
def _before(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """The input of `layer`."""
    children = dict(model.named_children())
    names = list(children)
    head = nn.Sequential(*(children[name] for name in names[: names.index(layer)]))
    return torch.cat([head(normalise(part)) for part in torch.split(images, 250)])


@torch.inference_mode()
def _predicted(tail: nn.Module, before: Tensor) -> Floats:
    return np.asarray(tail(before)[:, 0].double().numpy(), np.float64)
