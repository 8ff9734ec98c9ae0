"""The compiled solver against LAPACK, numpy and scipy, on good and bad problems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import basis, lanes
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.lanes import FEWEST_VALUES, LANES, LAPACK, check_solver, solver_for
from pcace_dist.statistics.loops import lane_loops
from pcace_dist.statistics.loops.compiled import machine_code
from pcace_dist.statistics.loops.lane_loops import WIDTH
from pcace_dist.statistics.score import CONSTANT, OK, TOO_FEW_IMAGES, ChannelScores, score_channels
from tests.statistics.helpers import Array, gram_of, identity_plan, random_rows, times

NUMBERS = ("score_squared", "pseudo", "score_low", "score_in_sample", "score_first_component", "support")


def run(loop: Any, *arguments: Any) -> None:
    lanes._solve()  # compiled loops may call one another then
    machine_code(loop, fused=False)(*arguments)


def both(gram: Gram, plan: Any, **options: Any) -> list[tuple[ChannelScores, ChannelScores]]:
    """For each target the scores in lanes and by LAPACK."""
    options = {"penalty": 0.3} | options
    in_lanes, by_lapack = (
        score_channels(gram, plan.layers[0], plan.targets, solver=solver, **options) for solver in (LANES, LAPACK)
    )
    return list(zip(in_lanes, by_lapack, strict=True))


def assert_close(one: ChannelScores, other: ChannelScores) -> None:
    assert one.status.tolist() == other.status.tolist()
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-7, atol=1e-9, err_msg=name)
    ok = one.status == OK
    sign = np.sign((one.theta[ok] * other.theta[ok]).sum(axis=1))
    scale = np.abs(other.phi[ok]).max(initial=0.0)
    np.testing.assert_allclose(one.phi[ok] * sign[:, None, None], other.phi[ok], atol=1e-4 * scale)
    np.testing.assert_allclose(one.theta[ok] * sign[:, None], other.theta[ok], atol=1e-4 * scale)


def sample(channels: int, components: int, rows: int = 900) -> tuple[Array, dict[str, Array]]:
    rng = np.random.default_rng(components)
    x = rng.normal(size=(rows, channels, components))
    y = np.sin(x[:, 0].sum(axis=1)) + x[:, channels // 2, 0] ** 2 + rng.normal(size=rows)
    return x, {"y": y, "event": (y > 1).astype(float), "still": np.zeros(rows)}


@pytest.mark.parametrize(
    ("channels", "components", "knots"), [(1, 1, 3), (70, 2, 4), (9, 5, 9), (3, 3, 17), (2, 4, 24)]
)
def test_lanes_agree_with_lapack(channels: int, components: int, knots: int) -> None:
    x, targets = sample(channels, components)
    plan = identity_plan(x, targets, knots=knots)
    folds = np.random.default_rng(0).integers(0, 13, len(x))  # three folds are empty
    by_target = both(gram_of(plan, x, targets, folds), plan)
    for one, other in by_target:
        assert_close(one, other)
    assert [(one.status == OK).all() for one, _ in by_target] == [True, True, False]
    assert (by_target[2][0].status == CONSTANT).all(), "a target that does not move"


def test_channels_that_are_copies_still_or_hardly_move() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1500, 6, 3))
    x[:, 1, 1] = x[:, 1, 0]  # a component twice
    x[:, 2] = 0.25  # a constant
    x[:, 3] = np.round(x[:, 3])  # few codes
    x[:, 4] = np.where(rng.random((1500, 1)) < 0.01, 3.0, 0.0)  # one row in a hundred
    x[:, 5, 1:] = 0.0
    y = x[:, 1, 0] + x[:, 3, 0] + rng.normal(size=1500)
    plan = identity_plan(x, {"y": y})
    [(one, other)] = both(gram_of(plan, x, {"y": y}, np.arange(1500) % 16), plan)
    assert one.status.tolist() == [OK, OK, CONSTANT, OK, OK, OK]
    assert_close(one, other)
    [(one, other)] = both(gram_of(plan, x, {"y": y}, np.arange(1500) % 16), plan, penalty=0.0)
    np.testing.assert_allclose(one.score_squared, other.score_squared, atol=1e-6)  # without a penalty: singular


def test_a_target_that_is_a_component_is_told_whole() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 2, 2))
    plan = identity_plan(x, {"y": x[:, 0, 0]})
    [(one, _)] = both(gram_of(plan, x, {"y": x[:, 0, 0]}, np.arange(2000) % 16), plan)
    assert one.score_in_sample[0] == pytest.approx(1.0, abs=1e-4) and one.score[1] < 0.3


def test_no_rows_few_rows_and_sums_beyond_int32() -> None:
    x, targets = sample(4, 2)
    plan = identity_plan(x, targets, folds=4)
    sizes = 4, 2, 3, 9, 4  # channels, components, targets, knots, folds
    for gram in (Gram(*sizes), Gram(*sizes).update(**random_rows(40, *sizes, seed=0))):
        assert all((one.status == TOO_FEW_IMAGES).all() for one, _ in both(gram, plan))
    gram = Gram(*sizes).update(**random_rows(400, *sizes, seed=0))
    large = times(gram, 1_000_000)
    assert large.xx.dtype == torch.int64
    for (one, _), (many, _) in zip(both(gram, plan), both(large, plan, penalty=0.3e6), strict=True):
        np.testing.assert_allclose(many.score_squared, one.score_squared, rtol=1e-9)


def test_the_bits_of_a_channel_do_not_depend_on_the_others() -> None:
    x, targets = sample(40, 3, rows=400)
    plan = identity_plan(x, targets)
    gram, layer = gram_of(plan, x, targets, np.arange(400) % 16), plan.layers[0]
    whole = score_channels(gram, layer, plan.targets, penalty=0.3, solver=LANES)
    for block in (slice(0, 1), slice(7, 39), slice(38, 40)):
        part = score_channels(gram.select(block), layer.block(block), plan.targets, penalty=0.3, solver=LANES)
        for one, every in zip(part, whole, strict=True):
            for name in (*NUMBERS[:-1], "phi", "theta"):  # support comes from a product of matrices
                assert np.array_equal(getattr(one, name), getattr(every, name)[block], equal_nan=True), name
    only = score_channels(gram.select_targets(slice(1, 2)), layer, plan.targets[1:2], penalty=0.3, solver=LANES)
    assert np.array_equal(only[0].pseudo, whole[1].pseudo)


@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_the_largest_eigenvalue_is_scipys(size: int) -> None:
    rng = np.random.default_rng(size)
    half = rng.normal(size=(20, size, WIDTH))
    half[:, :, 1] = 0.0
    half[:, 1:, 2] = 0.0  # one column
    half[:, :, 3] = np.eye(20, size)  # all eigenvalues are equal
    half[:, :, 4] = 1e-150 * half[:, :, 5]
    half[:, :, 6] = rng.normal(size=(20, 1))  # rank one
    half[:, :, 7] = np.eye(20, size) * (1 + 1e-14 * np.arange(size))
    best, top, inner = np.empty((size, WIDTH)), np.empty(WIDTH), np.empty((size, size, WIDTH))
    run(lane_loops.squares, half, inner)
    run(lane_loops.largest, inner, top, best)
    for lane in range(WIDTH):
        matrix = half[:, :, lane].T @ half[:, :, lane]
        values = scipy.linalg.eigh(matrix, eigvals_only=True)
        assert top[lane] == pytest.approx(values[-1], rel=1e-12, abs=1e-300)
        vector = best[:, lane]
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(matrix @ vector, top[lane] * vector, atol=1e-13 * max(values[-1], 1e-300))


def test_factors_are_scipys_and_a_pivot_that_is_not_positive_is_left_out() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(WIDTH, 30, 13))
    matrices = rows.transpose(0, 2, 1) @ rows
    matrices[5, 4] = matrices[5, :, 4] = 0.0
    packed, inverse = np.ascontiguousarray(matrices.transpose(1, 2, 0)), np.empty((13, WIDTH))
    run(lane_loops.factorise, packed, inverse)
    sides = rng.normal(size=(13, 4, WIDTH))
    solved, best, back = sides.copy(), rng.normal(size=(4, WIDTH)), np.empty((13, WIDTH))
    run(lane_loops.forward, packed, inverse, solved)
    run(lane_loops.backward, packed, inverse, solved, best, back)
    for lane in range(WIDTH):
        keep = np.arange(13) != 4 if lane == 5 else np.ones(13, bool)
        matrix = matrices[lane][np.ix_(keep, keep)]
        factor = scipy.linalg.cholesky(matrix)
        own = np.triu(packed[:, :, lane])
        np.testing.assert_allclose(own[np.ix_(keep, keep)], factor, atol=1e-12)
        whole = scipy.linalg.solve(matrix, sides[keep, :, lane] @ best[:, lane])
        np.testing.assert_allclose(back[keep, lane], whole, atol=1e-10)
    assert inverse[4, 5] == 0.0 == back[4, 5] and np.isfinite(packed[:, :, 5]).all()


def test_moments_are_those_of_centred_hats() -> None:
    """Of every entry, in every replicate, from the rows themselves."""
    x, targets = sample(3, 2, rows=200)
    plan = identity_plan(x, targets, knots=5)
    folds = np.arange(200) % 4
    gram = gram_of(plan, x, targets, folds)
    codes = basis.encode(torch.from_numpy(x).float(), plan.layers[0].knots)
    hats = np.stack(
        [
            np.maximum(0.0, basis.unit_scale(5) - abs(codes.numpy().astype(float) - k * basis.unit_scale(5)))
            for k in range(5)
        ],
        -1,
    )
    for first in range(0, 15, WIDTH):  # every channel without every fold, and of all rows
        assert_centred(gram, hats, folds, np.arange(first, first + WIDTH) % 15)


def assert_centred(gram: Gram, hats: Array, folds: Array, numbers: Array) -> None:
    """In lanes of channels and replicates, numbered one after the other."""
    channel, fold = numbers // 5, numbers % 5 - 1
    sums, total = gram.xx.numpy(), np.empty((3, gram.xx.shape[2]))
    entries, own = np.empty((total.shape[1], WIDTH)), np.empty((3, 10, WIDTH))
    moments = np.zeros((10, 10, WIDTH))
    run(lane_loops.totals, sums, total)
    run(lane_loops.spread, sums, total, channel, fold, entries)
    rows = np.array([(folds != f).sum() for f in fold], dtype=float)
    run(lane_loops.hats, entries, rows, 5, basis.unit_scale(5), 1e-12, own)
    run(lane_loops.centre, entries, lanes.places_of(2, 5), own, moments)
    for lane in range(WIDTH):
        table = hats[folds != fold[lane], channel[lane]].reshape(int(rows[lane]), -1)
        table = table - table.mean(axis=0)
        np.testing.assert_allclose(moments[:, :, lane], np.triu(table.T @ table), atol=1e-6)


def test_a_new_plan_takes_lanes_where_the_work_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert solver_for(300, 512, 45) == solver_for(60_000, 56, 45) == LAPACK
    assert solver_for(1_280_000, 512, 45) == solver_for(FEWEST_VALUES // 64, 64, 45) == LANES
    assert solver_for(1_280_000, 512, 20 * 17) == LAPACK
    monkeypatch.setattr(lanes, "has_numba", lambda: False)
    assert solver_for(1_280_000, 512, 45) == LAPACK
    with pytest.raises(StatisticsError, match="lanes, which needs numba; install numba"):
        check_solver(LANES)
    with pytest.raises(StatisticsError, match="solver is gpu, which is not known here"):
        check_solver("gpu")
