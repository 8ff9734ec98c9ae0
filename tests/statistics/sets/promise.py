"""Does the network keep what a set promises? python -m tests.statistics.sets.promise prints what docs/method.md says.

Sets from 1,000 training images of each digit, for the logit of their class; all other channels of the layer at their
mean maps; what is kept is r^2 of the logit on the test images. And how far greedy is from the best of all subsets.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from pcace_dist.statistics.sets.carried import carrying_order, layer_loss, removal_order
from tests.statistics.mnist import TEST, TRAIN, Activations, activations, network
from tests.statistics.sets.laws import Floats, carried_shares, covariance_of, lost_of_rows, lost_shares
from tests.statistics.sets.test_carried import mixed

LAYERS, DIGITS, ROWS, SHARES = ("relu1", "relu2", "relu3"), range(10), 1000, (0.5, 0.9)
STEPS = {"image": (1.0,), "path": (0.1, 0.3, 0.5, 0.7, 0.9)}


def gradients(layer: str, digit: int, rows: Activations, gradient: str) -> Tensor:
    """Of the digit's logit by the maps (n, C, D): the mean of the first 64 images', each image's, or along the path."""
    mean = rows.maps.mean(0)
    if gradient == "mean":
        return _gradient(layer, digit, rows, rows.maps[:64]).mean(0)
    points = [mean + step * (rows.maps - mean) for step in STEPS[gradient]]
    return torch.stack([_gradient(layer, digit, rows, maps) for maps in points]).mean(0)


def _gradient(layer: str, digit: int, rows: Activations, maps: Tensor) -> Tensor:
    leaf = maps.clone().requires_grad_(True)
    return torch.autograd.grad(logit(layer, digit, rows.shape, leaf).sum(), leaf)[0]


def logit(layer: str, digit: int, shape: tuple[int, ...], maps: Tensor) -> Tensor:
    """The digit's logit (n,) from a layer's maps (n, C, D) on."""
    names = [name for name, _ in network().named_children()]
    logits: Tensor = network()[names.index(layer) + 1 :](maps.reshape(*maps.shape[:2], *shape))
    return logits[:, digit]


def kept(layer: str, digit: int, gradient: str) -> Floats:
    """whole, then for each share the channels of its set, and r^2 of the logit with them alone."""
    rows = activations(TRAIN, layer, digit).rows(np.arange(ROWS))
    held = activations(TEST, layer, digit)
    mean = rows.maps.mean(0)
    parts = ((rows.maps - mean) * gradients(layer, digit, rows, gradient)).sum(2).double().numpy()
    covariance = covariance_of(rows.target, parts)
    order = carrying_order(covariance)
    shares, found = carried_shares(covariance, order), [layer_loss(covariance)]
    for share in SHARES:
        size = int(np.flatnonzero(shares >= share)[0]) + 1
        maps = held.maps.clone()
        maps[:, order[size:].copy()] = mean[order[size:].copy()]
        with torch.no_grad():
            after = logit(layer, digit, held.shape, maps).double().numpy()
        found += [size, float(np.corrcoef(held.target, after)[0, 1] ** 2)]
    return np.array(found)


def gaps(seed: int, channels: int = 8) -> tuple[list[float], list[float]]:
    """The best share of a set of each size less that of greedy's set: by removal, by carrying."""
    y, parts = mixed(seed, channels, ROWS)
    covariance = covariance_of(y, parts)
    every = lost_of_rows(y, parts, range(channels))
    sets = [np.flatnonzero(bits).tolist() for bits in product((0, 1), repeat=channels)]
    lost = {tuple(one): lost_of_rows(y, parts, one) / every for one in sets}
    removed = lost_shares(covariance, removal_order(covariance))
    carried = carried_shares(covariance, carrying_order(covariance))
    by_size = [[value for one, value in lost.items() if len(one) == size] for size in range(channels + 1)]
    sizes = range(1, channels + 1)
    return (
        [max(by_size[size]) - removed[size - 1] for size in sizes],
        [1 - min(by_size[channels - size]) - carried[size - 1] for size in sizes],
    )


def main() -> None:
    network()  # first, outside of inference mode, which keeps no gradients
    print(
        "| gradient | maps | whole | channels for 50 % | kept | channels for 90 % | kept | worst digit |\n"
        + "|---" * 8
        + "|"
    )
    for gradient, layer in product(("mean", *STEPS), LAYERS):
        found = np.stack([kept(layer, digit, gradient) for digit in DIGITS])
        whole, half, kept_half, most, kept_most = found.mean(0)
        numbers = f"{whole:.2f} | {half:.1f} | {kept_half:.2f} | {most:.1f} | {kept_most:.2f} | {found[:, 4].min():.2f}"
        print(f"| {gradient} | {layer} | {numbers} |", flush=True)
    by = np.array([gaps(seed) for seed in range(60)])
    print(
        "greedy less than the best by (removal, carrying):",
        by.mean((0, 2)).round(3),
        "at worst",
        by.max((0, 2)).round(2),
    )


if __name__ == "__main__":
    main()
