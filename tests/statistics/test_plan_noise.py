"""What another pilot would change: against a closed form, and against pilots that were really drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pcace_dist.statistics.effects.plan import EVERY
from pcace_dist.statistics.plan import Plan, build_plan
from pcace_dist.statistics.plan_noise import ANOTHER
from pcace_dist.statistics.plan_noise.half_samples import _BLOCK, PARTS, SIGNS, HalfSamples
from pcace_dist.statistics.plan_noise.noise import UNKNOWN, PlanNoise
from pcace_dist.statistics.score import score_channels
from tests.statistics.helpers import gram_of

Floats = npt.NDArray[np.float64]

ROWS, CHANNELS = 2048, 6
LARGER, SMALLER = 1.5, 1.0  # variances of the two pixels


def two_pixels(seed: int, rows: int = ROWS, channels: int = CHANNELS) -> tuple[Tensor, Floats]:
    """Maps (n, C, 2) of independent normal pixels with variances LARGER and SMALLER, and y = the sum over channels of
    both pixels."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((rows, channels, 2)) * np.sqrt([LARGER, SMALLER])
    return torch.from_numpy(maps).float(), maps.sum(axis=2) @ np.full(channels, 1.0)


def planned(
    maps: Tensor,
    y: Floats,
    seed: int = 0,
    *,
    components: int = 1,
    groups: list[str] | None = None,
    noise: bool = True,
    threads: int = 1,
) -> Plan:
    keys = np.random.default_rng(seed).integers(0, 2**63, len(y)).astype(np.uint64)
    group_by = None if groups is None else "street"
    maker = HalfSamples(keys, {"y": y}, components, 9, 0.3, groups, group_by, threads=threads)

    def passes() -> Iterator[Mapping[str, Tensor]]:
        return ({"layer": part} for part in torch.split(maps, 500))

    return build_plan(
        passes,
        {"layer": (maps.shape[2],)},
        {"y": y},
        components=components,
        knots=9,
        folds=16,
        scale="none",
        facts={},
        noise=maker if noise else None,
    )


def variance(plan: Plan, ranking: int = 0) -> Floats:
    """Of score_squared between pilots, (C,), as estimated."""
    assert plan.noise is not None
    noise = plan.noise.layers["layer"][0, ranking].double().numpy()
    return np.asarray(np.square(noise).sum(axis=1) / (PARTS * (PARTS - 1)))


def test_the_halves_are_balanced() -> None:
    assert (SIGNS.sum(axis=1) == 0).all(), "every half has half of the parts"
    assert (PARTS * np.eye(PARTS - 1) == (SIGNS @ SIGNS.T)).all()
    assert (np.abs(SIGNS.sum(axis=0)) <= 5).all(), "and every part is in about half of the halves"


def test_the_spread_between_pilots_is_that_of_the_angle_of_an_axis() -> None:
    """One component of two pixels, y = a_1 + a_2 summed over the channels. An axis at angle t has
    r^2(t) = (l_1 cos t + l_2 sin t)^2 / ((l_1 cos^2 t + l_2 sin^2 t) Var y), so that dr^2/dt = 2 l_2 / Var y at t = 0.
    The angle of the first axis from m rows has the variance l_1 l_2 / ((l_1 - l_2)^2 m) (Anderson 1963)."""
    slope = 2 * SMALLER / (CHANNELS * (LARGER + SMALLER))
    angle = np.sqrt(LARGER * SMALLER / (ROWS * (LARGER - SMALLER) ** 2))
    estimated = np.mean([variance(planned(*two_pixels(seed), seed)).mean() for seed in range(8)])
    assert np.sqrt(estimated) == pytest.approx(slope * angle, rel=0.1)


def test_maps_of_one_pixel_have_nothing_to_choose() -> None:
    maps, y = two_pixels(3, channels=2)
    assert np.sqrt(variance(planned(maps[:, :, :1], y))).max() < 1e-3


def test_components_that_no_channel_has_take_no_part() -> None:
    maps, y = two_pixels(10, rows=300, channels=2)
    five, two = (planned(maps, y, components=components).noise for components in (5, 2))
    assert five is not None and two is not None
    torch.testing.assert_close(five.layers["layer"], two.layers["layer"])


def test_the_plan_is_otherwise_the_same_bits() -> None:
    maps, y = two_pixels(4, rows=300, channels=3)
    with_noise, without = planned(maps, y), planned(maps, y, noise=False)
    assert without.noise is None
    for name in ("weights", "offsets", "knots", "spread", "live", "explained"):
        assert torch.equal(getattr(with_noise.layers[0], name), getattr(without.layers[0], name))
    assert without.digest != with_noise.digest


def test_it_is_the_same_for_any_number_of_threads() -> None:
    maps, y = two_pixels(0, rows=200, channels=_BLOCK + 1)
    assert planned(maps, y, threads=3).digest == planned(maps, y).digest


def test_it_travels_with_the_plan() -> None:
    maps, y = two_pixels(5, rows=300, channels=3)
    plan = planned(maps, y, groups=["a", "b"] * 150)
    again = Plan.from_bytes(plan.to_bytes(), digest=plan.digest)
    assert plan.noise is not None and again.noise is not None
    assert (again.noise.targets, again.noise.rankings, again.noise.group_by) == (("y",), (EVERY, "a", "b"), "street")
    assert torch.equal(again.noise.layers["layer"], plan.noise.layers["layer"])


def test_few_rows_or_few_folds_give_none() -> None:
    maps, y = two_pixels(6, rows=20, channels=2)
    assert planned(maps, y).noise is None
    maps, y = two_pixels(6, rows=300, channels=2)
    one_cluster = HalfSamples(np.zeros(300, np.uint64), {"y": y}, 1, 9, 0.3)
    one_cluster.add(planned(maps, y).layers[0], planned(maps, y).targets, torch.zeros(300, 2, 6))
    assert one_cluster.finish() is None


def test_a_group_that_the_pilot_hardly_knows_has_the_noise_of_all_rows_enlarged() -> None:
    maps, y = two_pixels(7, rows=300, channels=3)
    noise = planned(maps, y, groups=["a"] * 290 + ["b"] * 10).noise
    assert noise is not None and noise.rankings == (EVERY, "a")

    def of(noise: PlanNoise, group: str) -> Floats:
        found = noise.of("y", "layer", slice(0, 3), group, 16)
        assert found is not None
        return found

    every = noise.layers["layer"][0, 0].double().numpy()
    assert of(noise, "b") == pytest.approx(UNKNOWN * every)
    assert of(noise, "a") == pytest.approx(noise.layers["layer"][0, 1].double().numpy())
    of_all = noise.select(layers=["layer"], targets=["y"], group_by=None)
    assert of(of_all, "") == pytest.approx(every)
    assert of(noise.select(layers=["layer"], targets=["y"], group_by="city"), "a") == pytest.approx(UNKNOWN * every)
    assert noise.select(layers=["layer"], targets=[], group_by=None).of("y", "layer", slice(0, 3), "", 16) is None


def test_scores_stay_and_intervals_widen() -> None:
    maps, y = two_pixels(8, rows=600, channels=4)
    plan = planned(maps[:, :, :], y)
    assert plan.noise is not None
    folds = np.arange(600) % 16
    gram = gram_of(plan, maps.numpy(), {"y": y}, folds)
    noise = plan.noise.of("y", "layer", slice(0, 4), "", 16)
    assert noise is not None
    (narrow,), (wide,) = (
        score_channels(gram, plan.layers[0], plan.targets, penalty=0.3, noise=[own]) for own in (None, noise)
    )
    for name in (
        "score",
        "score_squared",
        "score_in_sample",
        "pseudo",
        "score_low_given_plan",
        "score_high_given_plan",
    ):
        assert np.array_equal(getattr(narrow, name), getattr(wide, name))
    assert np.array_equal(narrow.score_low, narrow.score_low_given_plan) and np.isnan(narrow.plan_noise).all()
    assert np.array_equal(wide.plan_noise, noise)
    assert np.array_equal(wide.pseudo_of_another, wide.pseudo + ANOTHER * noise)
    assert np.array_equal(narrow.pseudo_of_another, narrow.pseudo)
    assert (wide.score_high > wide.score_high_given_plan).mean() > 0.5


def test_empty_folds_take_no_part_in_the_noise() -> None:
    maps, y = two_pixels(9, rows=600, channels=4)
    plan = planned(maps, y)
    assert plan.noise is not None
    gram = gram_of(plan, maps.numpy(), {"y": y}, 1 + np.arange(600) % 15)
    noise = plan.noise.of("y", "layer", slice(0, 4), "", 16)
    (scores,) = score_channels(gram, plan.layers[0], plan.targets, penalty=0.3, noise=[noise])
    assert np.isnan(scores.plan_noise[:, 0]).all() and np.isfinite(scores.plan_noise[:, 1:]).all()
    assert np.isfinite(scores.score_low).all()
