"""A worker that computes something else than the pilot did is not admitted, or its difference is reported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pcace_dist.models.forward import Forward, numeric_class
from pcace_dist.models.precision import Numerics
from pcace_dist.statistics.plan import LayerPlan, build_plan
from pcace_dist.worker.admission import CheckRows, NotAdmitted
from tests.planted import BLOCK, RHO, PlantedNetwork, planted_network

BATCH = 16
CLASS = numeric_class("cpu", numerics=Numerics(), batch_size=BATCH, threads=1)


def images(rows: int, seed: int = 0) -> Tensor:
    random = np.random.default_rng(seed)
    grey = random.integers(0, 256, (rows, 1, 1, len(RHO), 1)).astype(np.uint8)
    return torch.from_numpy(np.broadcast_to(grey, (rows, 1, BLOCK, len(RHO), BLOCK)).reshape(rows, 1, BLOCK, -1).copy())


def forward(network: PlantedNetwork) -> Forward:
    return Forward(network.eval(), "cpu", BATCH, [0.0], [1.0], ["read"])


@pytest.fixture(scope="module")
def layers() -> dict[str, LayerPlan]:
    pilot = images(200)
    maps: list[Tensor] = []
    for start in range(0, 200, BATCH):
        forward(planted_network())(pilot[start : start + BATCH], lambda _, seen, __: maps.append(seen.clone()))
    plan = build_plan(
        lambda: ({"read": m} for m in maps),
        {"read": (1, 1)},
        {"t": np.arange(200.0)},
        components=1,
        knots=9,
        folds=4,
        scale="pixel",
        facts={},
    )
    return {layer.name: layer for layer in plan.layers}


@pytest.fixture(scope="module")
def check(layers: dict[str, LayerPlan]) -> CheckRows:
    check_rows = CheckRows.compute(images(12, seed=1), forward(planted_network()), layers, BATCH)
    return CheckRows.from_bytes(check_rows.to_bytes())


def other_network() -> PlantedNetwork:
    network = planted_network()
    with torch.no_grad():
        network.read.weight *= 1.05
    return network


def test_the_same_model_on_the_same_machine_is_admitted(check: CheckRows, layers: dict[str, LayerPlan]) -> None:
    admitted = check.admit(forward(planted_network()), layers, own_class=CLASS, plan_class=CLASS, exact="strict")
    assert admitted.differing == 0


def test_more_rows_than_a_batch_are_those_of_its_batches(layers: dict[str, LayerPlan]) -> None:
    rows = images(BATCH + 4, seed=2)
    many = CheckRows.compute(rows, forward(planted_network()), layers, BATCH)
    parts = [CheckRows.compute(part, forward(planted_network()), layers, BATCH) for part in torch.split(rows, BATCH)]
    assert torch.equal(many.images, rows) and torch.equal(many.outputs, torch.cat([part.outputs for part in parts]))
    assert torch.equal(many.codes["read"], torch.cat([part.codes["read"] for part in parts]))
    assert (
        many.admit(forward(planted_network()), layers, own_class=CLASS, plan_class=CLASS, exact="strict").differing == 0
    )


def test_another_model_is_refused(check: CheckRows, layers: dict[str, LayerPlan]) -> None:
    with pytest.raises(NotAdmitted, match="check codes differently"):
        check.admit(forward(other_network()), layers, own_class=CLASS, plan_class=CLASS, exact="strict")


def test_another_numeric_class_is_refused_and_named(check: CheckRows, layers: dict[str, LayerPlan]) -> None:
    older = {**CLASS, "cpu_capability": "AVX2x"}
    with pytest.raises(NotAdmitted, match="this worker's cpu_capability is AVX2x"):
        check.admit(forward(planted_network()), layers, own_class=older, plan_class=CLASS, exact="strict")


def test_with_exact_off_any_worker_is_admitted_and_its_difference_reported(
    check: CheckRows, layers: dict[str, LayerPlan]
) -> None:
    older = {**CLASS, "cpu_capability": "AVX2x"}
    admitted = check.admit(forward(other_network()), layers, own_class=older, plan_class=CLASS, exact="off")
    assert admitted.numeric_class["cpu_capability"] == "AVX2x"
    assert 0 < admitted.differing <= 1
