"""Rows without a label are left out and counted, where a label is needed; labels that are no classes are set aside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.images import ImageSpec
from pcace_dist.datasets.listing import Listing, list_dataset
from pcace_dist.datasets.loader import LoaderOptions, UnitStream, WholeUnits, pilot_rows
from pcace_dist.datasets.units import make_units
from pcace_dist.datasets.values.labels import Labelling
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Storage
from tests.datasets.helpers import listed, png, reader_of, shard

NEEDED = Labelling(needed=True, leave_out=True)
LABELS = [0, None, 1, -1, 2, -2, None, 1]


def stream(path: Path, labelling: Labelling, **changes: Any) -> tuple[UnitStream, list[int], list[str]]:
    """The stream of a data set of one unit, the labels in its batches, and their ids."""
    spec, listing = listed(path, label="label", **changes)
    (unit,) = make_units(listing, 1000)
    with reader_of(replace(spec, labelling=labelling)) as reader:
        one = reader.submit(unit)
        batches = list(one.batches())
    labels = [int(label) for batch in batches if batch.labels is not None for label in batch.labels]
    return one, labels, [ref.id for batch in batches for ref in batch.refs]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    shard(tmp_path / "a.parquet", [png(i) for i in range(8)], label=pa.array(LABELS, pa.int32()), x=[1] * 4 + [2] * 4)
    return tmp_path


def test_rows_without_a_label_are_left_out_and_counted(data: Path) -> None:
    one, labels, ids = stream(data, NEEDED)
    assert labels == [0, 1, 2, 1]
    assert ids == [f"a.parquet#{row}" for row in (0, 2, 4, 7)]
    assert (one.unlabelled, one.filtered) == (3, 0)
    assert [(bad.row, bad.stage, bad.reason) for bad in one.bad] == [(5, "target", "label -2 is negative")]


def test_rows_that_the_filter_removes_are_not_unlabelled(data: Path) -> None:
    one, labels, _ = stream(data, NEEDED, filter={"x": 1})
    assert (labels, one.unlabelled, one.filtered) == ([0, 1], 2, 4)


def test_where_no_label_is_needed_all_rows_stay(data: Path) -> None:
    one, labels, _ = stream(data, Labelling())
    assert (labels, one.unlabelled, one.bad) == ([0, -1, 1, -1, 2, -1, -1, 1], 0, [])


def test_names_of_classes(tmp_path: Path) -> None:
    shard(
        tmp_path / "a.parquet",
        [png(i) for i in range(4)],
        label=pa.array(["cat", None, "ape", "dog"]).dictionary_encode(),
    )
    one, labels, _ = stream(tmp_path, replace(NEEDED, by_name={"dog": 0, "cat": 3}))
    assert (labels, one.unlabelled) == ([3, 0], 1)
    assert [bad.reason for bad in one.bad] == ["label 'ape' is no name of a class"]


def options(spec: DatasetSpec) -> LoaderOptions:
    return LoaderOptions(spec, ImageSpec(), Storage(), batch_size=4, fold_bytes=len, fold_value=lambda _: 0)


def pilots(path: Path, labelling: Labelling, rows: int = 100) -> list[list[int]]:
    """The labels that both kinds of pilot see."""
    spec = DatasetSpec(path=[str(path)], label="label", labelling=labelling)
    listing: Listing = list_dataset(spec, Storage())
    found = []
    for batches in (
        pilot_rows(listing, rows, options(spec)),
        WholeUnits(make_units(listing, 100), options(spec)).batches(),
    ):
        found.append([int(label) for batch in batches if batch.labels is not None for label in batch.labels])
    return found


def test_pilots_see_labelled_rows_alone(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(i) for i in range(8)], label=pa.array([0, None, 1, None, 2, None, None, 1]))
    assert pilots(tmp_path, NEEDED) == [[0, 1, 2, 1]] * 2
    assert pilots(tmp_path, NEEDED, rows=3)[0] == [0, 2, 1], "spread over the rows that have a label"


def test_a_pilot_refuses_labels_that_are_no_classes(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(i) for i in range(4)], label=["cat", "dog", "ape", "cat"])
    named = replace(NEEDED, by_name={"dog": 0, "cat": 1, "cow": 2, "hen": 3}, origin="the model")
    with pytest.raises(DatasetError) as caught:
        pilots(tmp_path, named)
    assert str(caught.value) == (
        "dataset.label label: label 'ape' is no name of a class (a.parquet#2); the names are the model's: dog, "
        "cat, cow, ... (4 in all); dataset.classes names others"
    )


def test_a_data_set_without_any_label(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(i) for i in range(4)], label=pa.array([None, -1, None, None], pa.int64()))
    with pytest.raises(DatasetError, match=r"^dataset.label label: no row has a label: each is null, NaN or -1$"):
        pilots(tmp_path, NEEDED)


def test_labels_are_numbers_in_all_files_or_names_in_all(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0)], label=[0])
    shard(tmp_path / "b.parquet", [png(0)], label=[0.0])
    assert listed(tmp_path, label="label")[1].rows == 2
    shard(tmp_path / "c.parquet", [png(0)], label=["cat"])
    with pytest.raises(
        DatasetError, match=r"^dataset.label: column 'label' is int64 in a.parquet but string in c.parquet"
    ):
        listed(tmp_path, label="label")


def test_fractions_are_no_labels_whether_one_is_needed_or_not(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(i) for i in range(4)], label=[0.0, 1.0, 0.5, 2.5])
    with pytest.raises(DatasetError) as caught:
        listed(tmp_path, label="label")
    assert str(caught.value) == (
        "dataset.label: column 'label' in a.parquet holds 2.5; it must be the number or the name of a class"
    )
    shard(tmp_path / "a.parquet", [png(i) for i in range(4)], label=[0.0, 1.0, 0.5, 2.0])
    with pytest.raises(DatasetError, match=r"label 0.5 is not a whole number \(a.parquet#2\)"):
        pilots(tmp_path, Labelling())
