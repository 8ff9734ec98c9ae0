"""The choices of axes that tests.statistics.rotations compares are what they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.statistics import mnist, rotations
from tests.statistics.mnist import Activations
from tests.statistics.rotations import P, Pilot


@pytest.fixture(scope="module")
def pilot() -> Pilot:
    """600 rows of 3 channels with 12 pixels: mixtures of skewed sources with falling variances."""
    random = np.random.default_rng(0)
    sources = random.gamma(0.5, size=(600, 3, 12)) * 0.8 ** np.arange(12)
    maps = np.einsum("ncs,cds->ncd", sources, random.standard_normal((3, 12, 12)))
    target = maps[:, :, :3].sum(axis=(1, 2)) + random.standard_normal(600)
    return Pilot.of(Activations(torch.from_numpy(maps).float(), (12,), target, np.zeros(600, np.int64)))


def test_the_first_five_are_those_of_a_plan_with_five(pilot: Pilot) -> None:
    own, plan = pilot.rows.plan(P).layers[0], rotations.first(P)(pilot).layers[0]
    torch.testing.assert_close(plan.weights, own.weights)
    torch.testing.assert_close(plan.knots, own.knots, atol=1e-3, rtol=1e-3)


def test_turned_axes_span_what_the_first_five_span(pilot: Pilot) -> None:
    every = pilot.components[:, :, :P].double()
    for choose in (rotations.independent, rotations.varimax):
        turned = torch.from_numpy(pilot.rows.components(choose(pilot).layers[0]))
        for channel in range(3):
            design = torch.cat([every[:, channel], torch.ones(600, 1, dtype=torch.float64)], 1)
            fitted = design @ torch.linalg.lstsq(design, turned[:, channel]).solution
            torch.testing.assert_close(fitted, turned[:, channel], atol=1e-3, rtol=1e-3)


def test_the_targets_direction_is_the_regression_on_all_ten(pilot: Pilot) -> None:
    first = pilot.rows.components(rotations.by_target(pilot).layers[0])[:, :, 0]
    for channel in range(3):
        design = np.column_stack([pilot.components[:, channel].double().numpy(), np.ones(600)])
        fitted = design @ np.linalg.lstsq(design, pilot.rows.target, rcond=None)[0]
        assert abs(np.corrcoef(first[:, channel], fitted)[0, 1]) > 0.999


def test_a_gap_leaves_three_to_seven(pilot: Pilot) -> None:
    live = rotations.until_a_gap(pilot).layers[0].live.sum(1)
    assert live.min() >= 3 and live.max() <= 7


@pytest.mark.statistics
@pytest.mark.skipif(not mnist.TRAIN.exists(), reason=mnist.WITHOUT)
def test_no_choice_of_axes_agrees_as_a_larger_pilot_does() -> None:
    judged = [own for _, own in rotations.table(mnist.activations(mnist.TRAIN, "conv3"), 4)]
    assert judged[-1].between < min(own.between for own in judged[:-1])
