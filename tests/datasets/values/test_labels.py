"""Labels of every type that people have, as class indices."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pcace_dist.datasets.values.labels import Labelling


def column(values: list[object], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    array = pa.array(values, kind)
    return pa.chunked_array([array[:2], array[2:]])


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float16(), pa.float32(), pa.float64()], ids=str
)
def test_whole_numbers_of_any_type_are_indices_and_null_and_minus_one_are_none(kind: pa.DataType) -> None:
    indices, reasons = Labelling().indices(column([3, 0, None, -1, 7], kind))
    assert indices.tolist() == [3, 0, -1, -1, 7]
    assert indices.dtype == np.int64
    assert reasons == {}


@pytest.mark.parametrize("kind", [pa.uint8(), pa.uint32(), pa.uint64()], ids=str)
def test_unsigned_numbers_are_indices(kind: pa.DataType) -> None:
    assert Labelling().indices(column([3, 0, None], kind))[0].tolist() == [3, 0, -1]


def test_truth_values_are_the_indices_0_and_1() -> None:
    assert Labelling().indices(column([True, False, None]))[0].tolist() == [1, 0, -1]


def test_no_digit_is_lost_where_a_float_would_not_hold_the_number() -> None:
    indices, reasons = Labelling().indices(column([2**62 + 1, 0, 2**63 - 1], pa.int64()))
    assert indices.tolist() == [2**62 + 1, 0, 2**63 - 1]
    assert reasons == {}


def test_what_is_no_index_has_a_reason() -> None:
    indices, reasons = Labelling().indices(column([-2, 0, -(2**63)]))
    assert indices.tolist() == [-1, 0, -1]
    assert reasons == {0: "label -2 is negative", 2: f"label {-(2**63)} is negative"}
    _, reasons = Labelling().indices(column([2.5, float("nan"), float("inf"), 1e30, -3.0]))
    assert reasons == {
        0: "label 2.5 is not a whole number",
        2: "label inf is not a whole number",
        3: "label 1e+30 is too large",
        4: "label -3 is negative",
    }
    assert Labelling().indices(column([2**64 - 1, 1], pa.uint64()))[1] == {0: f"label {2**64 - 1} is too large"}


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.float32()], ids=str)
def test_labels_that_count_from_1(kind: pa.DataType) -> None:
    indices, reasons = Labelling(base=1).indices(column([1, 10, None, 0], kind))
    assert indices.tolist() == [0, 9, -1, -1]
    assert reasons == {3: "label 0 is below dataset.label_base 1"}


def test_texts_are_found_among_the_names() -> None:
    labelling = Labelling({"cat": 0, "dog": 5})
    indices, reasons = labelling.indices(column(["dog", "cat", None, "", "x" * 50]))
    assert indices.tolist() == [5, 0, -1, -1, -1]
    assert reasons == {3: "label '' is no name of a class", 4: f"label '{'x' * 40}...' is no name of a class"}


def test_texts_without_names_are_no_labels() -> None:
    indices, reasons = Labelling().indices(column(["dog", "cat"]))
    assert (indices.tolist(), reasons) == ([-1, -1], {})


@pytest.mark.parametrize(
    ("values", "kind", "missing"),
    [
        ([0, None, -1, -2], pa.int32(), [False, True, True, False]),
        ([0.0, None, -1.0, float("nan")], pa.float32(), [False, True, True, True]),
        ([0, None, 255, 1], pa.uint8(), [False, True, False, False]),
        (["a", None, "-1", ""], pa.string(), [False, True, False, False]),
        ([True, None, False, True], pa.bool_(), [False, True, False, False]),
    ],
)
def test_which_rows_are_unlabelled(values: list[object], kind: pa.DataType, missing: list[bool]) -> None:
    assert Labelling().unlabelled(column(values, kind)).tolist() == missing


def test_a_column_of_nulls_and_an_empty_one() -> None:
    assert Labelling().indices(column([None, None]))[0].tolist() == [-1, -1]
    assert Labelling().indices(pa.chunked_array([], pa.int64()))[0].tolist() == []
