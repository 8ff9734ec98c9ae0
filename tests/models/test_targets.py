"""Targets as the job writes them, and their values with a reason for every row that has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.config.targets import TargetSpec, parse_target
from pcace_dist.errors import JobError, ModelError
from pcace_dist.models.targets import target_values

LOGITS = torch.tensor([[0.5, 2.0, -1.0], [4.0, -2.0, 3.0], [0.0, 1.0, 8.0]])


@pytest.mark.parametrize(
    "mapping, kind, value, name",
    [
        ({"logit": "label"}, "logit", "label", "logit:label"),
        ({"logit": 3}, "logit", 3, "logit:3"),
        ({"logit": "predicted"}, "logit", "predicted", "logit:predicted"),
        ({"output": 0}, "output", 0, "output:0"),
        ({"column": "no2"}, "column", "no2", "column:no2"),
    ],
)
def test_targets_are_parsed_and_named_canonically(
    mapping: dict[str, Any], kind: str, value: str | int, name: str
) -> None:
    spec = parse_target(mapping)
    assert spec == TargetSpec(kind, value)
    assert spec.name == name
    assert spec.needs_label == (name == "logit:label")


@pytest.mark.parametrize(
    "mapping, words",
    [
        ({"logit": "lable"}, r"target \{logit: lable\}: needs label, predicted or the index .*did you mean label\?"),
        ({"logit": "3"}, "needs label, predicted or the index of an output"),
        ({"logit": -1}, "a whole number from 0"),
        ({"logit": True}, "a whole number from 0"),
        ({"output": "label"}, "a whole number from 0"),
        ({"column": 3}, "needs the name of a numeric column"),
        ({"column": ""}, "needs the name of a numeric column"),
        ({"logits": "label"}, r"unknown kind 'logits' \(did you mean logit\?\)"),
        ({}, r"write one of \{logit: label\}"),
        ({"logit": 1, "output": 0}, r"write one of \{logit: label\}"),
    ],
)
def test_a_target_that_is_none_says_what_would_do(mapping: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words) as error:
        parse_target(mapping)
    assert "\n" not in str(error.value)


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
        (TargetSpec("logit", "label"), "target logit:label: needs dataset.label"),
        (TargetSpec("column", "no2"), "target column:no2: no such column was read; there are o3"),
    ],
)
def test_a_target_that_no_row_can_have_is_an_error_of_the_job(spec: TargetSpec, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        target_values([spec], LOGITS, None, {"o3": np.zeros(3)})
