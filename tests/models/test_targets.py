"""Values of targets in closed form, with a reason for every row that has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pcace_dist.config.targets import Prototypes, TargetSpec, parse_name, parse_target
from pcace_dist.errors import ModelError
from pcace_dist.models.targets import target_tensor, target_values

LOGITS = torch.tensor([[0.5, 2.0, -1.0], [4.0, -2.0, 3.0], [0.0, 1.0, 8.0]])


def test_values_of_every_kind_stand_in_the_order_of_the_targets() -> None:
    specs = [
        parse_target(m)
        for m in ({"logit": "label"}, {"logit": 2}, {"logit": "predicted"}, {"output": 0}, {"column": "no2"})
    ]
    values, reasons = target_values(specs, LOGITS, np.array([1, 0, 2]), {"no2": np.array([7.0, 8.0, 9.0])})
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [[2, -1, 2, 0.5, 7], [4, 3, 4, 4, 8], [8, 8, 8, 0, 9]])
    assert reasons == {}


def test_labels_may_be_a_tensor_and_outputs_of_half_precision() -> None:
    values, _ = target_values([TargetSpec("logit", "label")], LOGITS.bfloat16(), torch.tensor([2, 1, 0]), {})
    np.testing.assert_array_equal(values[:, 0], [-1, -2, 0])


def test_rows_without_a_class_are_set_aside_with_the_label() -> None:
    logits = LOGITS[:1].expand(4, 3)
    values, reasons = target_values([TargetSpec("logit", "label")], logits, np.array([3, -1, -4, 0]), {})
    np.testing.assert_array_equal(np.isnan(values[:, 0]), [True, True, True, False])
    assert reasons == {
        0: "label 3 is beyond the model's 3 outputs",
        1: "label is null or -1",
        2: "label -4 is negative",
    }


def test_rows_whose_target_is_not_finite_are_set_aside_and_named_so() -> None:
    logits = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0], [0.0, 1.0]])
    values, reasons = target_values([TargetSpec("logit", 0), TargetSpec("logit", 1)], logits, None, {})
    np.testing.assert_array_equal(np.isnan(values), [[True, False], [True, False], [False, False]])
    assert reasons == {0: "target logit:0 is NaN", 1: "target logit:0 is infinite"}


def test_a_nan_among_the_logits_makes_the_predicted_one_nan() -> None:
    values, reasons = target_values([TargetSpec("logit", "predicted")], torch.tensor([[1.0, float("nan")]]), None, {})
    assert np.isnan(values).all()
    assert reasons == {0: "target logit:predicted is NaN"}


def test_a_null_in_a_column_is_named_by_the_column() -> None:
    column = np.array([np.nan, -np.inf, 3.0])
    values, reasons = target_values([TargetSpec("column", "no2")], LOGITS, None, {"no2": column})
    assert values[2, 0] == 3
    assert reasons == {0: "target column:no2 is null or NaN", 1: "target column:no2 is infinite"}


def test_the_first_reason_of_a_row_is_kept() -> None:
    specs = [TargetSpec("logit", "label"), TargetSpec("column", "no2")]
    _, reasons = target_values(specs, LOGITS[:1], np.array([9]), {"no2": np.array([np.nan])})
    assert reasons == {0: "label 9 is beyond the model's 3 outputs"}


@pytest.mark.parametrize(
    "spec, words",
    [
        (TargetSpec("logit", 3), "target logit:3: the model has 3 outputs; the index must be from 0 to 2"),
        (TargetSpec("output", 9), "target output:9: the model has 3 outputs"),
        (TargetSpec("logit", 0, minus=3), "target logit:0-3: the model has 3 outputs"),
        (TargetSpec("margin", 4), "target margin:4: the model has 3 outputs"),
        (TargetSpec("logit", "label"), "target logit:label: needs dataset.label"),
        (TargetSpec("loss", "label"), "target loss:label: needs dataset.label"),
        (TargetSpec("column", "no2"), "target column:no2: no such column was read; there are o3"),
    ],
)
def test_a_target_that_no_row_can_have_is_an_error_of_the_job(spec: TargetSpec, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        target_values([spec], LOGITS, None, {"o3": np.zeros(3)})


# -- differences, margins, losses: closed forms


def test_a_difference_of_two_outputs() -> None:
    values = target_tensor(parse_name("logit:2-0"), LOGITS)
    assert values.dtype == torch.float64
    assert values.tolist() == [-1.5, -1, 8]


def test_a_margin_is_the_own_logit_less_the_largest_other() -> None:
    labels = np.array([1, 2, 0])
    assert target_tensor(parse_name("margin:label"), LOGITS, labels).tolist() == [1.5, -1, -8]
    assert target_tensor(parse_name("margin:predicted"), LOGITS).tolist() == [1.5, 1, 7]
    assert target_tensor(parse_name("margin:0"), LOGITS).tolist() == [-1.5, 1, -8]


def test_with_two_classes_loss_and_margin_are_one_function_of_the_difference() -> None:
    logits = torch.tensor([[0.0, 3.0], [2.0, -1.0], [1.0, 1.0]])
    labels = torch.tensor([1, 1, 0])
    margin = target_tensor(parse_name("margin:label"), logits, labels)
    assert margin.tolist() == [3, -3, 0]
    loss = target_tensor(parse_name("loss:label"), logits, labels)
    torch.testing.assert_close(loss, torch.log1p(torch.exp(-margin)), rtol=1e-15, atol=0)


def test_a_loss_is_the_cross_entropy() -> None:
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 5
    labels = torch.arange(200) % 7
    own = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    torch.testing.assert_close(target_tensor(parse_name("loss:label"), logits, labels), own, rtol=1e-12, atol=1e-14)


def test_a_loss_is_exact_at_both_ends() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0], [-1e30, 1e30, 0.0], [0.0, 1e4, 0.0]])
    loss = target_tensor(parse_name("loss:0"), logits)
    assert loss[0].item() == pytest.approx(2 * np.exp(-60), rel=1e-12)  # 1 - p is below float64's grain at 1
    assert loss[1:].tolist() == [float(np.float32(1e30)) * 2, 1e4]


def test_rows_without_a_label_have_no_margin_and_no_loss() -> None:
    specs = [parse_name("margin:label"), parse_name("loss:label")]
    values, reasons = target_values(specs, LOGITS, np.array([-1, 3, 1]), {})
    np.testing.assert_array_equal(np.isnan(values), [[True, True], [True, True], [False, False]])
    assert reasons == {0: "label is null or -1", 1: "label 3 is beyond the model's 3 outputs"}


@pytest.mark.parametrize("name", ["margin:label", "loss:0"])
def test_a_single_output_has_no_other(name: str) -> None:
    with pytest.raises(ModelError, match=rf"target {name}: needs two outputs or more, .* use \{{output: 0\}}"):
        target_tensor(parse_name(name), LOGITS[:, :1], torch.zeros(3, dtype=torch.int64))


# -- cosines

UNIT = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 1.0]])  # directions (0.6, 0.8), up, left, diagonal


def prototypes(spec: TargetSpec, *vectors: list[float]) -> TargetSpec:
    return replace(spec, prototypes=Prototypes(np.array(vectors, dtype=np.float64), "digest"))


def vectors(*rows: list[float] | None) -> npt.NDArray[Any]:
    found = np.empty(len(rows), dtype=object)
    found[:] = [None if row is None else np.array(row) for row in rows]
    return found


def test_a_cosine_is_that_of_the_angle_with_each_rows_own_vector() -> None:
    column = vectors([5.0, 0.0], [0.0, -1.0], [-7.0, 0.0], [2.0, 0.0])
    values = target_tensor(parse_name("cosine:text"), UNIT, columns={"text": column})
    assert values.tolist() == pytest.approx([0.6, -1, 1, 0.5**0.5], abs=1e-15)


def test_a_cosine_with_a_prototype_and_with_that_of_the_label() -> None:
    one = prototypes(parse_name("cosine:p.npy:0"), [0.0, 3.0])
    assert target_tensor(one, UNIT).tolist() == pytest.approx([0.8, 1, 0, 0.5**0.5], abs=1e-15)
    of_label = prototypes(parse_name("cosine:p.npy:label"), [0.0, 3.0], [1.0, 0.0])
    values, reasons = target_values([of_label], UNIT, np.array([1, 0, 2, -1]), {})
    np.testing.assert_allclose(values[:, 0], [0.6, 1, np.nan, np.nan], atol=1e-15)
    assert reasons == {2: "label 2 is beyond the 2 vectors of p.npy", 3: "label is null or -1"}


def test_rows_without_a_vector_of_the_right_length_are_named_so() -> None:
    column = vectors(None, [1.0, 2.0, 3.0], [0.0, 0.0], [float("nan"), 1.0])
    values, reasons = target_values([parse_name("cosine:text")], UNIT, None, {"text": column})
    assert np.isnan(values).all()
    assert reasons == {
        0: "column text is null",
        1: "column text has 3 values, the model 2 outputs",
        2: "target cosine:text is NaN",
        3: "target cosine:text is NaN",
    }


def test_the_gradient_of_a_cosine_turns_towards_the_vector_and_changes_no_length() -> None:
    leaf = UNIT.double().requires_grad_()
    column = vectors([5.0, 0.0], None, [-7.0, 0.0], [0.0, 2.0])
    values = target_tensor(parse_name("cosine:text"), leaf, columns={"text": column})
    found = torch.autograd.grad(values[values.isfinite()].sum(), leaf)[0]
    assert found[1].tolist() == [0, 0]
    torch.testing.assert_close((found * UNIT).sum(1), torch.zeros(4, dtype=torch.float64))
    expected = torch.tensor([0.8 * 0.8, -0.8 * 0.6], dtype=torch.float64) / 5  # (e - c u) / |x|
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("size", [2, 512, 769])
def test_a_cosine_has_the_same_bits_whatever_batch_it_is_in(size: int) -> None:
    embedding = torch.randn(65, size, generator=torch.Generator().manual_seed(2))
    spec = prototypes(parse_name("cosine:p.npy:0"), torch.linspace(-1, 2, size).tolist())
    whole = target_tensor(spec, embedding)
    for step in (1, 3, 16):
        parts = [target_tensor(spec, embedding[at : at + step]) for at in range(0, 65, step)]
        assert torch.equal(torch.cat(parts), whole)


def test_vectors_that_do_not_fit_the_model_are_an_error_of_the_job() -> None:
    spec = prototypes(parse_name("cosine:p.npy:0"), [1.0, 2.0, 3.0])
    with pytest.raises(ModelError, match="vectors of 3 values, and the model has 2 outputs; choose the embedding by"):
        target_tensor(spec, UNIT)


# -- gradients


def gradient(name: str, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A target's values (n,), and their gradient with respect to each row of the outputs (n, O)."""
    leaf = logits.clone().requires_grad_()
    values = target_tensor(parse_name(name), leaf, labels)
    return values.detach(), torch.autograd.grad(values[values.isfinite()].sum(), leaf)[0]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("output:2", [0, 0, 1]),
        ("logit:label", [0, 1, 0]),
        ("logit:predicted", [1, 0, 0]),
        ("logit:0-2", [1, 0, -1]),
        ("margin:label", [-1, 1, 0]),
        ("margin:predicted", [1, 0, -1]),
    ],
)
def test_the_gradient_is_the_one_that_the_formula_has(name: str, expected: list[float]) -> None:
    assert gradient(name, torch.tensor([[4.0, -2.0, 3.0]]), torch.tensor([1]))[1].tolist() == [expected]


def test_the_gradient_of_a_loss_is_the_probability_less_the_label() -> None:
    logits = torch.tensor([[4.0, -2.0, 3.0], [800.0, -900.0, 0.0]])
    found = gradient("loss:label", logits, torch.tensor([1, 1]))[1]
    torch.testing.assert_close(found, logits.softmax(1) - torch.tensor([0.0, 1.0, 0.0]))


def test_a_row_without_a_class_leaves_no_nan_in_the_gradient() -> None:
    found = gradient("loss:label", LOGITS, torch.tensor([-1, 0, 5]))[1]
    assert found[[0, 2]].tolist() == [[0, 0, 0]] * 2
    assert found[1].abs().sum() > 0


def test_a_column_has_no_gradient() -> None:
    spec = parse_name("column:no2")
    assert (spec.of_outputs, spec.differentiable, spec.column) == (False, False, "no2")
    with pytest.raises(ModelError, match="target column:no2: is no function of the model's outputs"):
        target_tensor(spec, LOGITS)


# -- bits


@pytest.mark.parametrize("name", ["margin:label", "loss:label", "logit:0-1"])
@pytest.mark.parametrize("outputs", [2, 10, 1000])
def test_a_row_has_the_same_bits_whatever_batch_it_is_in(name: str, outputs: int) -> None:
    logits = torch.randn(257, outputs, generator=torch.Generator().manual_seed(1)) * 9
    labels = torch.arange(257) % outputs
    whole = gradient(name, logits, labels)
    for size in (1, 2, 7, 64):
        at = [slice(start, start + size) for start in range(0, len(logits), size)]
        parts = zip(*(gradient(name, logits[rows], labels[rows]) for rows in at), strict=True)
        for part, expected in zip(parts, whole, strict=True):
            assert torch.equal(torch.cat(part), expected)
    assert torch.equal(gradient(name, logits.T.contiguous().T, labels)[0], whole[0])
