"""Channels are found again after a permutation, whatever signs and rotations their axes have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pcace_dist.analysis.matching import likeness, match_channels
from tests.statistics import mnist

Codes = npt.NDArray[np.uint8]


def mnist_codes(layer: str, images: int, pilot: int, seed: int = 0) -> Codes:
    """Codes (n, C, 5) of a layer of the example's network, with a plan from `pilot` random images."""
    rows = mnist.activations(mnist.EXAMPLE, layer)
    order = np.random.default_rng(seed).permutation(len(rows.target))
    plan = rows.rows(order[:pilot]).plan(5)
    activations = rows.rows(np.arange(images))
    return np.asarray(plan.layers[0].encode(*plan.layers[0].project(activations.maps)).codes.numpy())


def quantised(values: npt.NDArray[np.float64]) -> Codes:
    """Values (n, C, p) as codes."""
    return np.clip(np.rint(128 + 30 * values), 0, 255).astype(np.uint8)


def test_a_permuted_network_is_recognised() -> None:
    codes = mnist_codes("conv3", 512, 1000)
    shuffle = np.random.default_rng(1).permutation(codes.shape[1])
    other = np.empty_like(codes)
    other[:, shuffle] = codes  # channel c went to place shuffle[c]
    matching = match_channels(codes, other)
    assert (matching.permutation == shuffle).all()
    assert (matching.likeness > 0.999).all()
    assert matching.moved == int((shuffle != np.arange(len(shuffle))).sum())


@pytest.mark.parametrize("layer", ["conv2", "conv3"])
def test_plans_from_other_pilots_do_not_hide_a_channel(layer: str) -> None:
    codes_a, codes_b = mnist_codes(layer, 512, 1000, seed=0), mnist_codes(layer, 512, 1000, seed=1)
    shuffle = np.random.default_rng(2).permutation(codes_a.shape[1])
    matching = match_channels(codes_a, codes_b[:, np.argsort(shuffle)])
    assert (matching.permutation == shuffle).all()


def test_signs_and_rotations_of_the_axes_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((400, 6, 3))
    turned = np.stack([values[:, c] @ np.linalg.qr(rng.standard_normal((3, 3)))[0] for c in range(6)], axis=1)
    alike = likeness(quantised(values), quantised(-turned))
    assert (np.diagonal(alike) > 0.99).all()
    assert (alike - np.diag(np.diagonal(alike)) < 0.3).all()


def test_unrelated_channels_are_alike_only_by_chance() -> None:
    values = np.random.default_rng(4).standard_normal((2, 512, 40, 5))
    alike = likeness(quantised(values[0]), quantised(values[1]))
    assert np.mean(np.square(alike)) < 0.01
    assert match_channels(quantised(values[0]), quantised(values[1])).found == 0


def test_a_shared_component_alone_does_not_make_two_channels_the_same() -> None:
    rng = np.random.default_rng(5)
    brightness = rng.standard_normal((512, 1, 1))
    values = np.concatenate([np.repeat(brightness, 8, 1), rng.standard_normal((512, 8, 4))], axis=2)
    other = np.concatenate([np.repeat(brightness, 8, 1), rng.standard_normal((512, 8, 4))], axis=2)
    assert match_channels(quantised(values), quantised(other)).found == 0


def test_a_dead_channel_is_like_none_and_is_matched_last() -> None:
    codes = quantised(np.random.default_rng(6).standard_normal((200, 4, 2)))
    codes[:, 1] = 128
    matching = match_channels(codes, codes)
    assert (matching.permutation == np.arange(4)).all()
    assert matching.likeness[1] == 0 and matching.found == 3


def test_more_channels_than_a_tile_and_a_layer_of_one_channel() -> None:
    codes = quantised(np.random.default_rng(7).standard_normal((64, 300, 2)))
    shuffle = np.random.default_rng(8).permutation(300)
    assert (match_channels(codes[:, shuffle], codes).permutation == shuffle).all()
    assert match_channels(codes[:, :1], codes[:, :1]).permutation.tolist() == [0]


def test_other_images_are_refused() -> None:
    codes = np.zeros((10, 3, 2), np.uint8)
    with pytest.raises(ValueError, match="the same images"):
        match_channels(codes, codes[:5])
