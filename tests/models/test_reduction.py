"""Outputs with positions become one number a class: closed forms, gradients, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcace_dist.config.targets import Reduction, parse_name
from pcace_dist.errors import ModelError
from pcace_dist.models.outputs import as_matrix
from pcace_dist.models.reduction import ReduceMaps, reduce_maps
from pcace_dist.models.targets import target_tensor

MAPS = torch.tensor([[[[1.0, 5.0], [0.0, 2.0]], [[3.0, 4.0], [0.0, 9.0]]]])  # one image, two classes, 2 x 2
MATRIX = torch.rand(3, 5)


def reduced(outputs: object, how: str, axis: str | None = None, *, required: bool = True) -> Any:
    return ReduceMaps(Reduction(how, axis, required))(nn.Identity(), (), outputs)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", [2.0, 4.0]), ("max", [5.0, 9.0]), ("area", [0.5, 0.5])],  # of a tie the first class has the position
)
def test_each_reduction_is_the_one_by_hand(how: str, expected: list[float]) -> None:
    assert reduced(MAPS, how).tolist() == [expected]
    assert reduced({"out": MAPS, "aux": -MAPS}, how).tolist() == [expected]
    assert reduced(MAPS.movedim(1, -1), how, "last").tolist() == [expected]
    assert reduced(MAPS.flatten(2), how, "first").tolist() == [expected]
    assert reduced(MAPS.contiguous(memory_format=torch.channels_last), how).tolist() == [expected]
    assert reduced(MAPS[:, :, None], how).tolist() == [expected]  # five axes


def test_areas_add_up_to_one_and_count_the_positions_where_a_class_wins() -> None:
    maps = torch.randn(6, 7, 31, 17, generator=torch.Generator().manual_seed(0))
    areas = reduced(maps, "area")
    torch.testing.assert_close(areas.sum(1), torch.ones(6))
    winners = maps.argmax(1)
    for row in range(6):
        assert areas[row].tolist() == [float((winners[row] == k).float().mean()) for k in range(7)]


def test_the_area_of_a_single_class_is_where_its_output_is_above_0() -> None:
    assert reduced(MAPS[:, :1] - 1.5, "area").tolist() == [[0.5]]


def test_means_of_half_precision_are_taken_in_float32() -> None:
    maps = torch.ones(1, 1, 300, 300, dtype=torch.bfloat16)  # in bfloat16 a sum stops at 256
    assert reduced(maps, "mean").dtype == torch.float32
    assert reduced(maps, "mean").item() == 1


@pytest.mark.parametrize("how", ["mean", "max", "area"])
def test_a_row_has_the_same_bits_whatever_batch_it_is_in(how: str) -> None:
    maps = torch.randn(9, 5, 65, 33, generator=torch.Generator().manual_seed(0))
    whole = reduced(maps, how)
    for size in (1, 2, 4):
        parts = [reduced(maps[start : start + size], how) for start in range(0, 9, size)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(reduced(maps.contiguous(memory_format=torch.channels_last), how), whole)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("output:1:mean", [[0.0] * 4, [0.25] * 4]),
        ("output:0:max", [[0, 1, 0, 0], [0.0] * 4]),
        ("logit:0-1:mean", [[0.25] * 4, [-0.25] * 4]),
    ],
)
def test_targets_of_reduced_outputs_have_their_gradient(name: str, expected: list[list[float]]) -> None:
    spec = parse_name(name)
    assert spec.differentiable and spec.reduction is not None
    leaf = MAPS.clone().requires_grad_()
    values = target_tensor(spec, reduced(leaf, spec.reduction.how))
    gradient = torch.autograd.grad(values.sum(), leaf)[0]
    assert gradient.flatten(2)[0].tolist() == expected


def test_areas_have_none() -> None:
    assert not parse_name("output:1:area").differentiable


class Segments(nn.Module):
    def forward(self, x: Tensor) -> object:
        return {"out": torch.cat([x, -x], 1)}


def test_copies_of_the_model_reduce_too() -> None:
    model = reduce_maps(Segments(), Reduction("mean"))
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert as_matrix(each(torch.ones(3, 1, 4, 4))).tolist() == [[1, -1]] * 3


def test_where_no_target_is_of_the_outputs_maps_are_averaged_and_the_rest_stays() -> None:
    assert reduced(MAPS, "mean", required=False).tolist() == [[2.0, 4.0]]
    assert reduced(MAPS.flatten(2), "mean", required=False).tolist() == [[2.0, 4.0]]
    assert reduced(MATRIX, "mean", required=False) is MATRIX
    assert reduced((MATRIX, None), "mean", required=False) == (MATRIX, None)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (MATRIX, "reduce max: the model's outputs have no positions, .* leave reduce out"),
        ((MATRIX, None), "leave reduce out"),
        ([{"boxes": MAPS[0, 0].long()}], r"a list with an entry for each image \(boxes\); wrap it: class Wrapped"),
        (
            {"seg": MAPS, "depth": -MAPS},
            "which are its outputs, for example model.output: depth, and write how a class's map becomes one number",
        ),
        (
            MAPS.flatten(2),
            r"returns \(1, 2, 4\), which does not say where the classes are; write \{..., reduce: max, classes: last\} "
            r"for \(images, positions, classes\), or classes: first$",
        ),
    ],
)
def test_what_cannot_be_reduced_says_what_to_write(outputs: object, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        reduced(outputs, "max")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "outputs", [MAPS, {"out": MAPS}, (MAPS,), {"seg": MAPS, "steps": torch.ones(1, dtype=torch.int64)}]
)
def test_maps_that_nothing_reduces_say_what_to_write(outputs: object) -> None:
    with pytest.raises(
        ModelError, match=r"\(1, 2, 2, 2\).*for example target: \{output: 0, reduce: mean\} \(or max, area\)"
    ):
        as_matrix(outputs)
