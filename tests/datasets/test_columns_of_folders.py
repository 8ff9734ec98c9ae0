"""`label=0/city=bonn/a.parquet`: what folders name is a column in every role, and costs no reading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import Batch
from pcace_dist.datasets.row_groups import RowGroup, count_kept, kept_counts, read_row_groups
from pcace_dist.datasets.units import make_units, row_groups_of
from pcace_dist.datasets.values.labels import LabelRange
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Range, Storage, StoredFile
from tests.datasets.helpers import listed, png, reader_of, shard


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for label, city in ((0, "bonn"), (1, "bonn"), (1, "köln")):
        shard(tmp_path / f"label={label}" / f"city={city}" / "a.parquet", [png(label), png(label + 1)], x=[1, 2])
    return tmp_path


class Counting(Storage):
    """Counts fetches that are no footers."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def fetch_many(self, file: StoredFile, ranges: Sequence[Range]) -> list[bytes]:
        if any(start + length < file.size for start, length in ranges):
            self.fetched.append(file.url)
        return super().fetch_many(file, ranges)


def read(spec: DatasetSpec, listing: Listing, storage: Storage | None = None) -> list[dict[str, Any]]:
    refs = [ref for file in listing.files for ref in row_groups_of(file)]
    groups = list(read_row_groups(refs, resolved(spec, listing), storage or Storage()))
    assert all(isinstance(group, RowGroup) for group in groups)
    return [row for group in groups for row in group.table.drop_columns(["image"]).to_pylist()]  # type: ignore[union-attr]


def resolved(spec: DatasetSpec, listing: Listing) -> DatasetSpec:
    return replace(spec, partitions=listing.partitions)


def test_folders_are_labels_groups_folds_and_targets(folders: Path) -> None:
    spec, listing = listed(folders, label="label", group_by="city", fold_by="city", columns=("label", "x"))
    assert listing.partitions == {"label": pa.int64(), "city": pa.string()}
    assert listing.schema.field("city").type == pa.string()
    assert listing.labels == LabelRange(0, 1, True)
    assert read(spec, listing) == [
        {"label": label, "city": city, "x": x}
        for label, city in ((0, "bonn"), (1, "bonn"), (1, "köln"))
        for x in (1, 2)
    ]


def test_batches_have_them(folders: Path) -> None:
    spec, listing = listed(folders, label="label", group_by="city")
    with reader_of(resolved(spec, listing)) as reader:
        batches: list[Batch] = [b for unit in make_units(listing, 100) for b in reader.batches(unit)]
    assert [label for batch in batches for label in (batch.labels if batch.labels is not None else [])] == [
        0,
        0,
        1,
        1,
        1,
        1,
    ]
    assert [group for batch in batches for group in batch.groups or ()] == ["bonn"] * 4 + ["köln"] * 2


def test_a_filter_on_folders_reads_no_other_file(folders: Path) -> None:
    spec, listing = listed(folders, filter={"city": "bonn", "label": [1, 7], "x": 2}, label="label")
    storage = Counting()
    assert read(spec, listing, storage) == [{"label": 1, "city": "bonn", "x": 2}]
    assert {re.sub(".*/label", "label", url) for url in storage.fetched} == {"label=1/city=bonn/a.parquet"}
    refs = [ref for file in listing.files for ref in row_groups_of(file)]
    assert count_kept(refs, resolved(spec, listing), Storage()) == [0, 1, 0]
    assert set(kept_counts("city", refs, resolved(spec, listing), Storage())) == {"bonn"}


def test_a_filter_of_another_type_than_the_folders(folders: Path) -> None:
    with pytest.raises(DatasetError, match=r"^dataset.filter.label: '1' cannot be compared with .* int64$"):
        listed(folders, filter={"label": "1"})


def test_ids_of_folders_must_be_unique_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shard(tmp_path / f"place={name}" / "x.parquet", [png(0)])
    assert listed(tmp_path, id="place")[1].rows == 2
    shard(tmp_path / "place=a" / "y.parquet", [png(0)])
    with pytest.raises(DatasetError, match=r"^dataset.id: place 'a' is there twice"):
        listed(tmp_path, id="place")


def test_a_column_of_the_file_comes_before_the_folder(tmp_path: Path) -> None:
    shard(tmp_path / "label=7" / "a.parquet", [png(0), png(1)], label=[0, 1])
    spec, listing = listed(tmp_path, label="label")
    assert read(spec, listing) == [{"label": 0}, {"label": 1}]
    assert listing.labels == LabelRange(0, 1, True)


def test_a_file_beside_the_folders_lacks_the_column(folders: Path) -> None:
    shard(folders / "z.parquet", [png(0)], x=[1])
    with pytest.raises(DatasetError, match=r"^dataset.label: no column 'label' in z.parquet; it has 'image', 'x'$"):
        listed(folders, label="label")


def test_kept_columns_are_those_of_folders_too(folders: Path) -> None:
    spec, listing = listed(folders, keep=True)
    assert listing.schema.names == ["image", "x", "label", "city"]
    assert read(spec, listing)[0] == {"x": 1, "label": 0, "city": "bonn"}


def test_a_run_that_knows_no_such_columns_has_none(folders: Path) -> None:
    """Runs of version 0.1.0, whose kept columns are those of the files."""
    assert listed(folders, keep=True, partitions={})[1].schema.names == ["image", "x"]
