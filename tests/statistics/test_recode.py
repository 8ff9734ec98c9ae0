"""Other knots from codes: positions, quantiles and tables against numpy and against encoding the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pcace_dist.statistics import basis
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes, robust_spread
from pcace_dist.statistics.recode import Recoding, histograms, knots_of, positions, refit
from tests.statistics.helpers import identity_plan

ROWS = 4000


@pytest.fixture(scope="module")
def values() -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(np.stack([random.normal(size=ROWS), random.exponential(size=ROWS)], 1))


@pytest.mark.parametrize("knots", [3, 9, 17, 32])
def test_a_codes_position_is_within_half_a_step_of_its_value(values: torch.Tensor, knots: int) -> None:
    chosen = basis.choose_knots(values, knots)
    codes = basis.encode(values, chosen)
    back = positions(chosen).gather(1, codes.T.long()).T
    widest = (chosen[:, 1:] - chosen[:, :-1]).amax(1)
    assert bool(((back - values).abs() <= widest / (2 * basis.unit_scale(knots)) + 1e-12).all())


def test_knots_are_the_positions_of_their_own_codes() -> None:
    knots = torch.tensor([[0.0, 1.0, 4.0], [-2.0, 0.5, 0.75]], dtype=torch.float64)
    scale = basis.unit_scale(3)
    assert torch.equal(positions(knots)[:, [0, scale, 2 * scale, 255]], knots[:, [0, 1, 2, 2]])


def test_histograms_are_numpys(values: torch.Tensor) -> None:
    codes = basis.encode(values, basis.choose_knots(values, 9))
    counts = histograms(codes)
    for column in range(2):
        assert counts[column].tolist() == np.bincount(codes[:, column].numpy(), minlength=256).tolist()


def test_new_knots_lie_at_the_quantiles_of_the_rows(values: torch.Tensor) -> None:
    old = basis.choose_knots(values, 9)
    some = values[values[:, 0] > 0]
    new, spread = knots_of(histograms(basis.encode(some, old)), old, 17)
    wanted = np.quantile(some.numpy(), np.linspace(0, 1, 17), axis=0).T
    step = float((old[:, 1:] - old[:, :-1]).amax()) / basis.unit_scale(9)
    assert np.abs(new.numpy() - wanted)[:, 1:-1].max() < step
    assert torch.allclose(spread, robust_spread(some), rtol=0.05)


def test_recoding_onto_the_same_knots_changes_nothing(values: torch.Tensor) -> None:
    knots = basis.choose_knots(values, 9)
    codes = basis.encode(values, knots)
    assert torch.equal(Recoding.between(knots, knots)(codes), codes)


def test_recoding_agrees_with_encoding_the_values_up_to_the_old_step(values: torch.Tensor) -> None:
    old, new = basis.choose_knots(values, 9), basis.choose_knots(values, 5)
    recoded = Recoding.between(old, new)(basis.encode(values, old)).int()
    direct = basis.encode(values, new).int()
    assert int((recoded - direct).abs().max()) <= 4 and float((recoded != direct).float().mean()) < 0.6


def test_refit_gives_a_group_all_its_knots() -> None:
    """A group on a tenth of the axis falls between two old knots; afterwards its codes use the whole range."""
    random = np.random.default_rng(1)
    everyone = random.normal(size=(ROWS, 1, 1))
    plan = identity_plan(everyone, {"y": everyone[:, 0, 0]}, knots=9, folds=16)
    group = torch.from_numpy(random.uniform(0.0, 0.2, size=(500, 1, 1)))
    layer = plan.layers[0]
    codes = LayerCodes(basis.encode(group.float(), layer.knots), torch.zeros(500, 1, dtype=torch.int16))
    target_codes, target_fixed = plan.encode_targets(group[:, 0])
    rows = RowCodes(torch.zeros(500, dtype=torch.uint8), target_codes, target_fixed)
    fitted, targets, recoded, shared = refit(layer, plan.targets, codes, rows, 9, 0.0)
    assert int(codes.codes.max()) - int(codes.codes.min()) < 40
    assert int(recoded.codes.min()) == 0 and int(recoded.codes.max()) == basis.top_code(9)
    assert int(shared.target_codes.max()) == basis.top_code(9)
    assert fitted.knots.shape == layer.knots.shape and targets[0].knots.shape == (9,)
