from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.effects.grid import GRID, MISSING
from pcace_dist.statistics.effects.plan import EffectPlan, EffectTarget, LayerEffects
from pcace_dist.statistics.effects.positions import block_count, block_edges, block_sizes, block_sums
from pcace_dist.statistics.folds import dealt_anew
from tests.statistics.effects.planted_effects import plan_of, world


def test_blocks_of_a_map_have_equal_edges_and_cover_it() -> None:
    assert block_edges((14, 14)) == (1, 1) and block_edges((197,)) == (1, 1) and block_edges(()) == (1, 1)
    assert block_edges((112, 28)) == (8, 2) and block_count((112, 28)) == 14 * 14
    assert block_count((26, 57)) == 13 * 12 and block_count(()) == 1 and block_count((3, 28, 28)) == 3 * 14 * 14
    maps = torch.randn(2, 3, 26 * 57)
    sums = block_sums(maps, (26, 57)).reshape(2, 3, 13, 12)
    planes = maps.reshape(2, 3, 26, 57)
    assert torch.allclose(sums[:, :, 4, 11], planes[:, :, 8:10, 55:57].sum((2, 3)), atol=1e-5)
    assert torch.equal(block_sizes((26, 57)).reshape(13, 12)[:, 11], torch.full((13,), 2 * 2.0))
    assert float(block_sizes((26, 57)).sum()) == 26 * 57


def test_blocks_of_a_volume_lie_in_its_planes() -> None:
    maps = torch.randn(2, 3, 4 * 20 * 16)
    sums = block_sums(maps, (4, 20, 16)).reshape(2, 3, 4, 10, 8)
    expected = maps.reshape(2, 3, 4, 10, 2, 8, 2).sum((4, 6))
    assert torch.allclose(sums, expected, atol=1e-5)


def test_channels_last_maps_stay_so() -> None:
    maps = torch.randn(2, 8, 28, 28).contiguous(memory_format=torch.channels_last).flatten(2)
    assert block_sums(maps, (28, 28)).transpose(1, 2).is_contiguous()


def layer(axes: int = 3, channels: int = 4, positions: int = 10) -> LayerEffects:
    seeded = torch.Generator().manual_seed(1)
    return LayerEffects(
        name="layer",
        shape=(positions,),
        axes=torch.randn(axes, channels, positions, generator=seeded),
        offsets=torch.randn(axes, channels, generator=seeded),
        units=torch.full((1, channels), 1e-3, dtype=torch.float64),
        noise=torch.zeros(1, 1, channels, 16),
        mean_maps=torch.zeros(channels, positions),
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_each_row_is_projected_on_its_own_axis_whatever_the_others_are(channels_last: bool) -> None:
    own, maps = layer(), torch.randn(6, 4, 10)
    if channels_last:
        maps = maps.transpose(1, 2).contiguous().transpose(1, 2)
    axes = torch.tensor([[0], [2], [1], [-1], [0], [2]])
    found = own.project(maps, axes)[:, :, 0]
    for row, (axis,) in enumerate(axes.tolist()):
        expected = (maps[row] * own.axes[axis]).sum(1) - own.offsets[axis]
        assert torch.allclose(found[row], expected if axis >= 0 else torch.zeros(4), atol=1e-5)
    beside = maps.clone()  # keeps the layout
    beside[2:] = torch.randn(4, 4, 10)
    others = own.project(beside, torch.tensor([[0], [2], [2], [2], [2], [2]]))
    assert torch.equal(others[:2, :, 0], found[:2])


def test_l_is_an_integer_on_the_grid_and_what_is_not_finite_is_0() -> None:
    codes = layer().encode(torch.tensor([[0.0015, 100.0, float("nan"), -0.0004]])[:, :, None])
    assert codes[0, :, 0].tolist() == [2, GRID, 0, 0] and codes.dtype == torch.int16


def test_a_row_goes_by_its_label_its_group_or_nothing() -> None:
    shared = {"name": "y", "of": "y", "images": (9, 9), "start": 3, "behind": (18,), "centre": 0.0, "unit": 0.5}
    by_label = EffectTarget(kind="label", keys=(1, 7), **shared)  # type: ignore[arg-type]
    assert by_label.axes_of(np.array([7, 1, 2, -1]), None, 4).tolist() == [4, 3, -1, -1]
    by_group = EffectTarget(kind="group", keys=("a", "null"), **shared)  # type: ignore[arg-type]
    assert by_group.axes_of(None, ["null", "b", "a"], 3).tolist() == [4, -1, 3]
    one = EffectTarget(kind="one", keys=(0,), **shared)  # type: ignore[arg-type]
    assert one.axes_of(None, None, 2).tolist() == [3, 3]
    with pytest.raises(StatisticsError, match="by the label of each row"):
        by_label.axes_of(None, None, 2)


def test_targets_without_axis_or_value_are_missing() -> None:
    plan = plan_of(world("classes", 300, 0))
    values = torch.tensor([[plan.targets[0].centre + plan.targets[0].unit * 7], [float("nan")], [0.0]]).double()
    assert plan.encode_targets(values, torch.tensor([[2], [2], [-1]])).flatten().tolist() == [7, MISSING, MISSING]


def test_a_plan_travels_and_parts_of_it_do() -> None:
    plan = plan_of(world("classes", 300, 0))
    again = EffectPlan.unpacked(json.loads(json.dumps(plan.settings())), plan.tensors())
    assert again.settings() == plan.settings() and again.targets == plan.targets
    assert again.select(layers=["layer"], targets=[]).layers[0].units.shape == (0, 6)
    assert again.select(layers=[], targets=["y"]).layers == ()


def test_noise_of_a_group_that_the_pilot_hardly_saw_is_too_much_rather_than_too_little() -> None:
    plan = replace(plan_of(world("classes", 900, 0)), group_by="place", rankings=("", "north"))
    (own,) = plan.layers
    plan = replace(
        plan,
        targets=(replace(plan.targets[0], behind=(320, 64)),),
        layers=(replace(own, noise=torch.cat([own.noise, 2 * own.noise], 1)),),
    )
    every = plan.noise("layer", slice(0, 2), "south", 16)
    assert np.allclose(every, np.sqrt(5) * own.noise[:, 0, :2].numpy(), rtol=1e-6)
    assert np.allclose(plan.noise("layer", slice(0, 2), "north", 16), 2 * own.noise[:, 0, :2].numpy())
    assert plan.behind(0, "north") == 64 and plan.behind(0, "south") == 64
    assert np.allclose(plan.grouped_by(None).noise("layer", slice(0, 2), "south", 16), own.noise[:, 0, :2].numpy())


@pytest.mark.parametrize("folds", [4, 8, 16, 32])
def test_noise_keeps_its_variance_when_it_is_dealt_to_other_folds(folds: int) -> None:
    random = np.random.default_rng(0).standard_normal((4000, 16))
    noise = random - random.mean(1, keepdims=True)

    def variance(values: np.ndarray) -> float:
        count = values.shape[1]
        return float((np.square(values).sum(1) / (count * (count - 1))).mean())

    assert variance(dealt_anew(noise, folds)) == pytest.approx(variance(noise), rel=0.05)
