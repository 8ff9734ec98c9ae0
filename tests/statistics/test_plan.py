from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import pca
from pcace_dist.statistics.effects.grid import GRID
from pcace_dist.statistics.plan import Plan, build_plan, make_target_plan
from tests.statistics.helpers import Array, projecting

N = 300


def layers(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    first = np.maximum(rng.normal(size=(N, 4, 25)) + rng.normal(size=(N, 4, 1)), 0)
    first[:, 2] = 0.3
    return {"conv1": first.astype(np.float32), "fc": rng.normal(size=(N, 6, 1)).astype(np.float32)}


def make(maps: dict[str, Array], batch: int = 64, **settings: object) -> Plan:
    rng = np.random.default_rng(1)

    def passes() -> Iterator[Mapping[str, Tensor]]:
        for start in range(0, N, batch):
            yield {name: torch.from_numpy(values[start : start + batch]) for name, values in maps.items()}

    chosen = {"components": 3, "knots": 9, "folds": 16, "scale": "pixel", "facts": {"batch": batch}, **settings}
    targets = {"logit:label": rng.normal(size=N), "column:no2": rng.integers(0, 2, N).astype(np.float64)}
    return build_plan(passes, {"conv1": (5, 5), "fc": ()}, targets, **chosen)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make(layers())


def test_plan_says_what_it_was_made_from(plan: Plan) -> None:
    assert [layer.name for layer in plan.layers] == ["conv1", "fc"]
    assert plan.layer("conv1").shape == (5, 5) and plan.layer("fc").shape == ()
    assert [target.name for target in plan.targets] == ["logit:label", "column:no2"]
    assert plan.pilot_rows == N and plan.facts == {"batch": 64}


def test_the_same_input_gives_the_same_digest(plan: Plan) -> None:
    assert make(layers()).digest == plan.digest


def test_any_change_changes_the_digest(plan: Plan) -> None:
    layer = plan.layers[0]
    knots = layer.knots.clone()
    knots[0, 0, 0] -= 1e-3
    others = [
        replace(plan, folds=8),
        replace(plan, facts={"batch": 32}),
        replace(plan, layers=(replace(layer, knots=knots), plan.layers[1])),
        replace(plan, layers=plan.layers[:1]),
        replace(plan, targets=plan.targets[::-1]),
    ]
    assert len({plan.digest, *(other.digest for other in others)}) == 6


def test_plan_survives_bytes_and_pickle(plan: Plan) -> None:
    data = plan.to_bytes()
    assert data == plan.to_bytes()
    for copy in (Plan.from_bytes(data), pickle.loads(pickle.dumps(plan))):
        assert copy.digest == plan.digest and copy.to_bytes() == data
        maps = torch.from_numpy(layers()["conv1"])
        ours, theirs = plan.layers[0].project(maps), copy.layers[0].project(maps)
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_bytes_that_are_no_plan_are_refused(data: bytes) -> None:
    with pytest.raises(StatisticsError, match="plan"):
        Plan.from_bytes(data)


def test_projection_is_affine_and_gives_the_mean(plan: Plan) -> None:
    layer = plan.layer("conv1")
    maps = torch.from_numpy(layers(5)["conv1"])
    components, means = layer.project(maps)
    expected = torch.einsum("bcd,cdp->bcp", maps, layer.weights) - layer.offsets
    assert torch.allclose(components, expected, atol=1e-5)
    assert torch.allclose(means, maps.mean(dim=2), atol=1e-6)
    assert components.is_contiguous() and components.dtype == torch.float32


def test_projection_of_a_view_equals_that_of_a_copy(plan: Plan) -> None:
    maps = torch.from_numpy(layers(5)["conv1"])
    wide = torch.zeros(N, 4, 40)
    wide[:, :, :25] = maps
    view = wide[:, :, :25]
    assert torch.allclose(plan.layer("conv1").project(view)[0], plan.layer("conv1").project(maps)[0], atol=1e-6)


def test_a_plan_with_projection_layout_is_the_same_with_its_weights_held_once(plan: Plan) -> None:
    layers = tuple(layer.with_projection_layout() for layer in plan.layers)
    laid_out = replace(plan, layers=layers)
    assert laid_out.digest == plan.digest and laid_out.to_bytes() == plan.to_bytes()
    for layer, own in zip(layers, plan.layers, strict=True):
        assert torch.equal(layer.weights, own.weights)
        assert layer.weights.untyped_storage().data_ptr() == layer._rows.untyped_storage().data_ptr()
        maps = torch.randn(3, layer.channels, layer.pixels)
        for one, other in zip(layer.project(maps), own.project(maps), strict=True):
            assert torch.equal(one, other)


def test_a_large_layer_holds_its_weights_packed_and_gives_them_back() -> None:
    nothing = torch.zeros(64, 5)
    own = replace(projecting(64, 784), knots=nothing, spread=nothing, live=nothing, explained=nothing)
    layer = own.with_projection_layout()
    assert layer.__dict__.keys() & {"weights", "_rows", "_axes"} == {"_axes"} and layer.pixels == 784
    assert torch.equal(layer.weights, own.weights)
    block = layer.block(slice(40, 70))
    assert block.channels == 24 and torch.equal(block.weights, own.weights[40:])
    for other in (pickle.loads(pickle.dumps(layer)), layer.to("cpu"), layer.first_components(2).first_components(1)):
        assert torch.equal(other.weights, own.weights[:, :, : other.components])
    maps = torch.randn(3, 784, 64).transpose(1, 2)
    for one, of_own in zip(layer.project(maps), own.project(maps), strict=True):
        assert torch.equal(one, of_own)


def test_maps_of_another_shape_are_refused(plan: Plan) -> None:
    with pytest.raises(StatisticsError, match="conv1"):
        plan.layer("conv1").project(torch.zeros(2, 4, 24))


def test_constant_channels_have_no_live_component(plan: Plan) -> None:
    layer = plan.layer("conv1")
    assert layer.live.sum(dim=1).tolist() == [3, 3, 0, 3]
    codes = layer.encode(*layer.project(torch.from_numpy(layers()["conv1"])))
    assert int(codes.codes[:, 2].max()) == 0


def test_knots_span_the_pilot(plan: Plan) -> None:
    layer = plan.layer("conv1")
    components, _ = layer.project(torch.from_numpy(layers()["conv1"]))
    for channel in (0, 1, 3):
        assert torch.allclose(layer.knots[channel, :, 0], components[:, channel].amin(dim=0), atol=1e-5)
        assert torch.allclose(layer.knots[channel, :, -1], components[:, channel].amax(dim=0), atol=1e-5)
    assert bool((layer.knots.diff(dim=2) > 0).all()) and bool((layer.spread > 0).all())


def test_codes_do_not_depend_on_the_batch_a_row_is_in(plan: Plan) -> None:
    layer = plan.layer("conv1")
    components, means = layer.project(torch.from_numpy(layers()["conv1"]))
    whole = layer.encode(components, means)
    part = layer.encode(components[17:30], means[17:30])
    assert torch.equal(whole.codes[17:30], part.codes) and torch.equal(whole.means[17:30], part.means)


def test_means_are_fixed_point_on_the_pilots_grid(plan: Plan) -> None:
    layer = plan.layer("conv1")
    components, means = layer.project(torch.from_numpy(layers()["conv1"]))
    fixed = layer.encode(components, means).means
    back = layer.mean_centre + layer.mean_unit * fixed
    assert bool(((back - means).abs() <= layer.mean_unit).all())
    assert int(fixed[:, 0].abs().max()) == GRID // 4
    far = layer.encode(components[:1], means[:1] + 1e9)
    assert int(far.means.min()) == GRID


def test_block_is_the_plan_of_those_channels(plan: Plan) -> None:
    layer = plan.layer("conv1")
    maps = torch.from_numpy(layers()["conv1"])
    block = layer.block(slice(1, 3))
    assert block.channels == 2
    codes = layer.encode(*layer.project(maps)).block(slice(1, 3))
    own = block.encode(*block.project(maps[:, 1:3]))
    assert (own.codes.int() - codes.codes.int()).abs().max() <= 1


def test_targets_are_coded_and_put_on_a_grid() -> None:
    target = make_target_plan("y", np.array([0.0, 1.0] * 50), 9)
    constant = make_target_plan("z", np.full(50, 2.5), 9)
    plan = Plan((), (target, constant), 1, 9, 4, "none", 50, {})
    codes, fixed = plan.encode_targets(np.array([[0.0, 2.5], [1.0, 2.5], [1.0, 2.5], [-5.0, 2.5]]))
    assert codes.T.tolist() == [[0, 31, 31, 0], [0, 0, 0, 0]]
    assert fixed.T.tolist() == [[-GRID // 4, GRID // 4, GRID // 4, -GRID], [0, 0, 0, 0]]
    assert codes.dtype == torch.uint8 and fixed.dtype == torch.int16


def test_the_spread_of_a_constant_target_is_one() -> None:
    assert make_target_plan("y", np.full(50, 2.5), 9).spread == 1.0


def test_both_ways_to_the_axes_give_the_same_plan_nearly(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "COVARIANCE_BYTES", 0)
    asked: list[set[str]] = []
    other = make(layers(), needs=lambda names: asked.append(set(names)))
    assert len(asked) >= 3 and asked[-1] == {"conv1", "fc"}, "several passes for the axes, the last one for all layers"
    assert torch.allclose(plan.layer("conv1").explained, other.layer("conv1").explained, atol=2e-3)


def test_infinite_pilot_values_are_refused() -> None:
    maps = layers()
    maps["conv1"][7, 1, 3] = np.nan
    with pytest.raises(StatisticsError, match="conv1"):
        make(maps)
    with pytest.raises(StatisticsError, match="target y"):
        make_target_plan("y", np.array([1.0, np.inf]), 9)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(StatisticsError, match="components"):
        make(layers(), components=21)
    with pytest.raises(StatisticsError, match="knots"):
        make(layers(), knots=2)
    with pytest.raises(StatisticsError, match="scale"):
        make(layers(), scale="rows")
    with pytest.raises(StatisticsError, match="no rows"):
        build_plan(lambda: iter([]), {}, {}, components=1, knots=9, folds=4, scale="none", facts={})


def test_a_missing_layer_is_named(plan: Plan) -> None:
    with pytest.raises(StatisticsError, match=r"conv9.*conv1"):
        plan.layer("conv9")
