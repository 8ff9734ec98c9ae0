from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import pca
from tests.statistics.helpers import Array

N, CHANNELS, SIDE = 400, 3, 8


def images(seed: int = 0) -> Array:
    """Smooth rectified maps (n, C, D), one channel with pixels that never move."""
    rng = np.random.default_rng(seed)
    grid = np.arange(SIDE)
    smooth = np.exp(-((grid[:, None] - grid[None, :]) ** 2) / 6)
    maps = np.einsum("ncij,ia,jb->ncab", rng.normal(size=(N, CHANNELS, SIDE, SIDE)), smooth, smooth)
    maps = np.maximum(maps + 0.5, 0).reshape(N, CHANNELS, SIDE * SIDE)
    maps[:, 1, :5] = 2.0
    return np.asarray(maps, dtype=np.float32)


def found(finder: pca.AxesFinder, maps: Array) -> pca.Spectrum:
    while not finder.done:
        for part in torch.split(torch.from_numpy(maps), 90):
            finder.update(part)
        finder.end_pass()
    return finder.spectrum()


def run(finder: pca.AxesFinder, maps: Array) -> pca.Axes:
    return found(finder, maps).axes(0, finder._components)  # type: ignore[attr-defined]


def scaled(maps: Array, scale: str) -> Array:
    spread = maps.std(axis=0)
    if scale == "pixel":
        spread = np.sqrt(spread**2 + (spread**2).mean(axis=1, keepdims=True))
    elif scale == "none":
        spread = np.ones_like(spread)
    return np.asarray((maps - maps.mean(axis=0)) / np.where(spread > 0, spread, 1))


def angle(axes: Array, expected: Array) -> float:
    """Largest principal angle in degrees between column spaces."""
    cosines = np.linalg.svd(np.linalg.qr(axes)[0].T @ np.linalg.qr(expected)[0], compute_uv=False)
    return float(np.degrees(np.arccos(min(1.0, cosines.min()))))


@pytest.mark.parametrize("finder", [pca.CovarianceAxes, pca.SubspaceIteration])
@pytest.mark.parametrize("scale", pca.SCALES)
@pytest.mark.parametrize("components", [1, 5])
def test_components_equal_those_of_scikit_learn(finder: type, scale: str, components: int) -> None:
    maps = images()
    weights, offsets, live, explained = run(finder(CHANNELS, SIDE * SIDE, components, scale), maps)
    assert bool(live.all())
    for channel in range(CHANNELS):
        values = scaled(maps.astype(np.float64), scale)[:, channel]
        reference = PCA(components).fit(values)
        ours = maps[:, channel].astype(np.float64) @ weights[channel].double().numpy() - offsets[channel].numpy()
        theirs = reference.transform(values)
        assert angle(ours, theirs) < 1.0
        assert np.allclose(explained[channel], reference.explained_variance_ratio_, rtol=1e-3)
        assert np.abs(ours.mean(axis=0)).max() < 1e-3 * ours.std()


def test_large_covariances_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    maps = (rng.normal(size=(500, 2, 40)) @ rng.normal(size=(40, 200)) + rng.normal(size=(500, 2, 200))).astype("f")
    weights, _, _, _ = run(pca.CovarianceAxes(2, 200, 4, "none"), maps)
    for channel in range(2):
        assert angle(weights[channel].double().numpy(), PCA(4).fit(maps[:, channel]).components_.T) < 0.2


def few_rows() -> Array:
    """40 rows of 300 pixels, of which one never moves (n, C, D)."""
    rng = np.random.default_rng(4)
    maps = rng.normal(size=(40, CHANNELS, 12)) @ rng.normal(size=(12, 300)) + rng.normal(size=(40, CHANNELS, 300))
    maps[:, 1, 7] = 2.0
    return np.asarray(maps, dtype=np.float32)


@pytest.mark.parametrize("scale", pca.SCALES)
def test_few_rows_of_many_pixels_have_the_axes_of_their_covariance_matrix(scale: str) -> None:
    maps = few_rows()
    finder = pca.CovarianceAxes(CHANNELS, 300, 4, scale)
    spectrum = found(finder, maps)
    assert finder._sum is None  # no 300 x 300 matrices
    products = spectrum.vectors.mT @ spectrum.vectors
    assert torch.allclose(products, torch.eye(products.shape[1]).expand_as(products), atol=1e-5)
    weights, offsets, live, explained = spectrum.axes(0, 4)
    assert bool(live.all()) and not weights[1, 7].any()
    for channel in range(CHANNELS):
        values = scaled(maps.astype(np.float64), scale)[:, channel]
        reference = PCA(4, svd_solver="full").fit(values)
        ours = maps[:, channel].astype(np.float64) @ weights[channel].double().numpy() - offsets[channel].numpy()
        assert angle(ours, reference.transform(values)) < 0.05
        assert np.allclose(explained[channel], reference.explained_variance_ratio_, rtol=1e-4)


def test_fewer_rows_than_axes_have_as_many_axes_as_they_span() -> None:
    _, _, live, explained = run(pca.CovarianceAxes(CHANNELS, 300, 5, "pixel"), few_rows()[:3])
    assert live.tolist() == [[True, True, False, False, False]] * CHANNELS
    assert np.allclose(explained.sum(1), 1.0, atol=1e-5)


def test_rows_beyond_the_few_give_the_sums_of_those_added_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = few_rows()
    monkeypatch.setattr(pca, "_DIRECT_ROWS", 30)  # torch.split in `found` gives all rows at once: in tiles of 10 here
    monkeypatch.setattr(pca, "_COPY_BYTES", 10 * 4 * maps[0].size)
    held = pca.CovarianceAxes(CHANNELS, 300, 4, "pixel")
    monkeypatch.setattr(pca, "_DIRECT_ROWS", 0)
    at_once = pca.CovarianceAxes(CHANNELS, 300, 4, "pixel")
    first, second = found(held, maps), found(at_once, maps)
    assert held._sum is not None and at_once._sum is not None and torch.equal(held._sum, at_once._sum)
    assert torch.equal(first.vectors, second.vectors)


@pytest.mark.parametrize("finder", [pca.CovarianceAxes, pca.SubspaceIteration])
def test_axes_are_the_same_every_time_and_signs_are_fixed(finder: type) -> None:
    maps = images()
    first = run(finder(CHANNELS, SIDE * SIDE, 3, "pixel"), maps)
    second = run(finder(CHANNELS, SIDE * SIDE, 3, "pixel"), maps)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    scale = pca.pixel_scale(torch.from_numpy(maps.astype(np.float64).var(axis=0)), "pixel")
    axes = first[0].double() * scale.unsqueeze(2)
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    assert bool((largest > 0).all())


@pytest.mark.parametrize("finder", [pca.CovarianceAxes, pca.SubspaceIteration])
def test_constant_channels_and_surplus_components_are_not_live(finder: type) -> None:
    maps = images()
    maps[:, 0] = 0.1  # no exact binary fraction: rounding must not look like variance
    maps[:, 2, 2:] = 7.0  # rank 2
    weights, _, live, explained = run(finder(CHANNELS, SIDE * SIDE, 4, "pixel"), maps)
    assert live.sum(dim=1).tolist() == [0, 4, 2]
    assert not weights[~live.unsqueeze(1).expand_as(weights)].any()
    assert torch.isfinite(weights).all() and explained[2].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("finder", [pca.CovarianceAxes, pca.SubspaceIteration])
def test_one_pixel_maps_have_one_component(finder: type) -> None:
    maps = images()[:, :, 40:41]
    weights, offsets, live, _ = run(finder(CHANNELS, 1, 5, "standard"), maps)
    assert live.tolist() == [[True, False, False, False, False]] * CHANNELS
    values = torch.from_numpy(maps[:, :, 0]) * weights[:, 0, 0] - offsets[:, 0]
    assert torch.allclose(values.std(dim=0, correction=0), torch.ones(CHANNELS), atol=1e-4)


def test_a_large_mean_does_not_spoil_the_axes() -> None:
    maps = images()
    shifted = run(pca.CovarianceAxes(CHANNELS, SIDE * SIDE, 3, "pixel"), maps + 1000)
    plain = run(pca.CovarianceAxes(CHANNELS, SIDE * SIDE, 3, "pixel"), maps)
    for channel in (0, 2):
        assert angle(shifted[0][channel].double().numpy(), plain[0][channel].double().numpy()) < 0.1


def test_small_layers_are_solved_in_one_pass_and_large_ones_iterate(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {"small": torch.zeros(1, 4, 9), "large": torch.zeros(1, 4, 900)}
    monkeypatch.setattr(pca, "COVARIANCE_BYTES", 4 * 4 * 9 * 9)
    chosen = pca.choose_finders(batch, 5, "pixel")
    assert isinstance(chosen["small"], pca.CovarianceAxes)
    assert isinstance(chosen["large"], pca.SubspaceIteration)


def test_unknown_scales_are_refused() -> None:
    with pytest.raises(StatisticsError, match="scale"):
        pca.pixel_scale(torch.ones(1, 1, dtype=torch.float64), "rows")
