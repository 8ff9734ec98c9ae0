from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ace.ace import ACESolver

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import ace as ace_module
from pcace_dist.statistics.ace import MAX_ROWS, ace
from tests.statistics import mnist
from tests.statistics.comparison import Floats, ace_held_out, held_out, scored, spearman
from tests.statistics.heavy_tails import CASES as TAIL_CASES
from tests.statistics.heavy_tails import SAMPLES
from tests.statistics.reference.make_acepack import EXAMPLE_CASES, FULL_CASES, STORED, Case

REFERENCE = json.loads(STORED.read_text())["cases"]


def reference(case: Case, column: str) -> Floats:
    return np.array(REFERENCE[case.name][column])


def planted(n: int = 400, channels: int = 6, components: int = 3, seed: int = 0) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(n, channels, components)), random.normal(size=n)
    x[:, :, 0] += np.linspace(0, 2, channels) * y[:, None] ** 2
    return x, y


# Against acepack, values computed once by reference/make_acepack.py ---------------------------------------------------


@pytest.fixture(scope="module")
def against_acepack() -> dict[str, tuple[Floats, Floats, Floats]]:
    """For every example case: differences of score and first component, and the held-out correlations of ours."""
    result = {}
    for case in EXAMPLE_CASES:
        fit, test_rows = case.split()
        layer = fit.plan(case.components).layers[0]
        x, held_x = fit.components(layer), test_rows.components(layer)
        our_fit = ace(x, fit.target)
        result[case.name] = (
            np.abs(our_fit.score - reference(case, "score")),
            np.abs(our_fit.first_component - reference(case, "first_component")),
            ace_held_out(our_fit, x, fit.target, held_x, test_rows.target) - reference(case, "held_out"),
        )
    return result


def test_scores_agree_with_acepack_to_a_hundredth_on_99_percent_of_channels(
    against_acepack: dict[str, tuple[Floats, Floats, Floats]],
) -> None:
    score = np.concatenate([values[0] for values in against_acepack.values()])
    first = np.concatenate([values[1] for values in against_acepack.values()])
    assert len(score) == sum(len(REFERENCE[case.name]["score"]) for case in EXAMPLE_CASES) == 648
    assert (score <= 0.01).mean() >= 0.99 and (first <= 0.01).mean() >= 0.99
    assert score.max() < 0.03 and np.median(score) < 1e-4


def test_transforms_hold_out_as_acepack_s_do(against_acepack: dict[str, tuple[Floats, Floats, Floats]]) -> None:
    differences = np.concatenate([values[2] for values in against_acepack.values()])
    assert np.abs(differences.mean()) < 0.001 and (np.abs(differences) < 0.01).mean() >= 0.98


@pytest.mark.parametrize("case", [case for case in EXAMPLE_CASES if case.digit is None], ids=lambda case: case.name)
def test_the_additive_score_ranks_as_acepack_and_holds_out_better(case: Case) -> None:
    fit, test_rows = case.split()
    plan = fit.plan(case.components)
    scores, theirs = scored(plan, fit), reference(case, "score")
    assert spearman(scores.score_squared, theirs) >= 0.97
    assert (scores.score >= theirs - 0.02).mean() >= 0.95
    assert held_out(plan, fit, test_rows).mean() > reference(case, "held_out").mean()


@pytest.mark.statistics
@pytest.mark.skipif(not (mnist.TRAIN.exists() and mnist.TEST.exists()), reason=mnist.WITHOUT)
@pytest.mark.parametrize("case", FULL_CASES, ids=lambda case: case.name)
def test_on_all_training_images_of_a_digit_the_ranking_is_acepack_s(case: Case) -> None:
    """Some 6,000 images; held out: the test images of the digit."""
    fit, test_rows = case.split()
    plan = fit.plan(case.components)
    scores, theirs = scored(plan, fit), reference(case, "score")
    assert len(fit.target) > 6000
    assert spearman(scores.score_squared, theirs) >= 0.97
    assert (scores.score >= theirs - 0.02).mean() >= 0.95
    # with one component a line through nearly nothing: theirs is ahead by up to 0.007
    slack = 0.01 if case.components == 1 else 0.002
    assert held_out(plan, fit, test_rows).mean() >= reference(case, "held_out").mean() - slack


@pytest.mark.statistics
@pytest.mark.skipif(not (mnist.TRAIN.exists() and mnist.TEST.exists()), reason=mnist.WITHOUT)
def test_with_five_components_our_held_out_correlation_is_not_below_acepack_s_on_average() -> None:
    ours, theirs = [], []
    for case in FULL_CASES:
        if case.components == 5:
            fit, test_rows = case.split()
            ours.append(held_out(fit.plan(5), fit, test_rows).mean())
            theirs.append(reference(case, "held_out").mean())
    assert np.mean(ours) >= np.mean(theirs)


def test_without_bass_control_it_is_the_python_package_ace() -> None:
    x, y = planted(n=300, channels=2)
    our_fit = ace(x, y, alpha=0.0)
    for channel in range(2):
        solver = ACESolver()
        solver.specify_data_set([list(column) for column in x[:, channel].T], list(y))
        solver.solve()
        total = np.sum(solver.x_transforms, axis=0)
        assert our_fit.score[channel] == pytest.approx(np.corrcoef(solver.y_transform, total)[0, 1], abs=1e-6)


# Properties -----------------------------------------------------------------------------------------------------------


def test_a_square_is_found_and_transforms_reproduce_the_score() -> None:
    x, y = planted()
    our_fit = ace(x, y)
    assert our_fit.score[-1] > 0.8 and np.all(np.diff(our_fit.score[1:]) > -0.02)
    for channel in range(6):
        total = our_fit.phi[channel].sum(axis=0)
        assert our_fit.score[channel] == pytest.approx(np.corrcoef(our_fit.theta[channel], total)[0, 1], abs=1e-9)
        first = abs(np.corrcoef(our_fit.theta[channel], our_fit.phi[channel, 0])[0, 1])
        assert our_fit.first_component[channel] == pytest.approx(first, abs=1e-9)
    assert np.allclose(our_fit.theta.mean(axis=1), 0, atol=1e-9) and np.allclose(our_fit.theta.var(axis=1), 1)


def test_independent_data_show_why_a_correction_is_due() -> None:
    random = np.random.default_rng(0)
    our_fit = ace(random.normal(size=(300, 40, 5)), random.normal(size=300))
    assert 0.2 < our_fit.score.mean() < 0.35
    unpulled = ace(random.normal(size=(300, 40, 5)), random.normal(size=300), alpha=0.0)
    assert unpulled.score.mean() > 0.4


def test_a_channel_s_result_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = planted()
    together = ace(x, y)
    monkeypatch.setattr(ace_module, "_BLOCK_FLOATS", 2 * len(y))
    apart = ace(x, y)
    alone = ace(x[:, 3:4], y)
    assert np.allclose(together.score, apart.score, atol=1e-9)
    assert alone.score[0] == pytest.approx(together.score[3], abs=1e-9)


def test_scale_shift_and_order_of_rows_do_not_matter() -> None:
    x, y = planted()
    order = np.random.default_rng(1).permutation(len(y))
    expected = ace(x, y).score
    assert np.allclose(ace(1e4 * x + 7, 0.01 * y - 3).score, expected, atol=1e-6)
    assert np.allclose(ace(x[order], y[order]).score, expected, atol=1e-9)


def test_degenerate_channels_have_finite_scores() -> None:
    x, y = planted()
    x[:, 0] = 0.0  # dead
    x[:, 1, 2] = 5.0  # a constant component
    x[:, 2] = np.maximum(x[:, 2] - 2, 0)  # almost never active
    x[:, 3, 0] = y > 0  # two values
    x[:, 4] = x[:, 5]  # two identical channels
    our_fit = ace(x, y)
    for values in (our_fit.score, our_fit.first_component, our_fit.theta, our_fit.phi):
        assert np.isfinite(values).all()
    assert our_fit.score[0] == our_fit.first_component[0] == 0
    assert np.all(our_fit.phi[1, 2] == 0)
    assert np.all(np.ptp(our_fit.phi[3, 0][y > 0]) < 1e-12) and our_fit.score[3] > 0.7
    assert our_fit.score[4] == our_fit.score[5]
    assert (our_fit.score <= 1).all()


def test_a_constant_target_scores_zero() -> None:
    x, _ = planted()
    our_fit = ace(x, np.full(len(x), 2.5))
    assert np.all(our_fit.score == 0) and np.isfinite(our_fit.theta).all()


def test_ties_in_the_target_share_one_value_of_theta() -> None:
    x, y = planted()
    rounded = np.round(2 * y)
    theta = ace(x, rounded).theta
    for value in np.unique(rounded):
        assert np.ptp(theta[:, rounded == value], axis=1).max() < 1e-9


def test_wrong_input_is_refused() -> None:
    x, y = planted()
    with pytest.raises(StatisticsError, match="components"):
        ace(x, y[:-1])
    with pytest.raises(StatisticsError, match="NaN"):
        ace(x * np.nan, y)
    with pytest.raises(StatisticsError, match="10 images"):
        ace(x[:10], y[:10])
    with pytest.raises(StatisticsError, match=f"20 to {MAX_ROWS}"):
        ace(np.zeros((MAX_ROWS + 1, 1, 1)), np.zeros(MAX_ROWS + 1))


def test_names_of_cases_are_distinct() -> None:
    cases = EXAMPLE_CASES + FULL_CASES
    with_tails = len(TAIL_CASES) * SAMPLES
    assert len({case.name for case in cases}) == len(cases) == len(REFERENCE) - with_tails
    assert replace(cases[0], digit=None).name == "example-conv1-all-1"
