"""Units: a partition of the row groups, named by content."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcace_dist.datasets.listing import DataFile, Listing
from pcace_dist.datasets.units import (
    RowGroupRef,
    Unit,
    check_unchanged,
    data_digest,
    located,
    make_units,
    row_groups_of,
)
from pcace_dist.errors import DatasetError

ROW_GROUPS = st.lists(st.lists(st.integers(0, 40), max_size=6), min_size=1, max_size=8)


def listing_of(row_groups: list[list[int]]) -> Listing:
    files = [
        DataFile(f"/data/{i:03d}.parquet", f"{i:03d}.parquet", 100 + i, f"v{i}", tuple(rows))
        for i, rows in enumerate(row_groups)
    ]
    return Listing(tuple(files), pa.schema([]))


@given(ROW_GROUPS, st.integers(1, 60))
def test_units_are_a_partition_of_the_row_groups_in_order(row_groups: list[list[int]], size: int) -> None:
    listing = listing_of(row_groups)
    refs = [ref for unit in make_units(listing, size) for ref in unit.row_groups]
    expected = []
    for file in listing.files:
        first = 0
        for index, rows in enumerate(file.row_groups):
            if rows:
                expected.append((file.key, index, first, rows))
            first += rows
    assert [(p.key, p.row_group, p.first_row, p.rows) for p in refs] == expected


@given(ROW_GROUPS, st.integers(1, 60))
def test_a_unit_is_no_larger_than_asked_unless_it_is_one_row_group(row_groups: list[list[int]], size: int) -> None:
    for unit in make_units(listing_of(row_groups), size):
        assert unit.rows == sum(ref.rows for ref in unit.row_groups)
        assert unit.rows <= size or len(unit.row_groups) == 1


@given(ROW_GROUPS, st.integers(1, 60))
def test_ids_are_unique_and_json_goes_round(row_groups: list[list[int]], size: int) -> None:
    units = make_units(listing_of(row_groups), size)
    assert len({unit.id for unit in units}) == len(units)
    assert [Unit.from_json(json.loads(json.dumps(unit.to_json()))) for unit in units] == list(units)


def test_small_files_are_joined_and_large_ones_stand_alone() -> None:
    units = make_units(listing_of([[3], [4], [10, 10], [2], [1]]), 10)
    assert [[(p.key, p.row_group) for p in unit.row_groups] for unit in units] == [
        [("000.parquet", 0), ("001.parquet", 0)],
        [("002.parquet", 0)],
        [("002.parquet", 1)],
        [("003.parquet", 0), ("004.parquet", 0)],
    ]


def test_units_of_large_files_stay_when_files_come_before_them() -> None:
    few, more = listing_of([[10, 10], [10]]), listing_of([[10, 10], [10]])
    extra = DataFile("/data/0.parquet", "0.parquet", 5, "v", (7,))
    more = Listing((extra, *more.files), more.schema)
    assert {u.id for u in make_units(few, 10)} < {u.id for u in make_units(more, 10)}


def test_the_id_names_the_content_and_not_the_place() -> None:
    unit = make_units(listing_of([[5]]), 10)[0]
    ref = unit.row_groups[0]
    assert Unit.of([replace(ref, url="s3://elsewhere/x")]).id == unit.id
    for change in ({"key": "k"}, {"size": 1}, {"version": "w"}, {"row_group": 3}, {"rows": 4}):
        assert Unit.of([replace(ref, **change)]).id != unit.id


def test_json_with_another_id_is_refused() -> None:
    data = make_units(listing_of([[5]]), 10)[0].to_json()
    with pytest.raises(ValueError, match="its content gives the id"):
        Unit.from_json({**data, "id": "0" * 32})


def test_units_of_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows_per_unit must be at least 1"):
        make_units(listing_of([[5]]), 0)


def test_later_files_are_ignored_and_missing_or_changed_ones_named() -> None:
    listing = listing_of([[5], [6]])
    units = make_units(listing, 5)
    later = DataFile("/data/new.parquet", "new.parquet", 5, "v", (7,))
    check_unchanged(units, Listing((*listing.files, later), listing.schema))
    with pytest.raises(DatasetError, match=r"001\.parquet is gone since the run began"):
        check_unchanged(units, Listing(listing.files[:1], listing.schema))
    changed = replace(listing.files[0], version="other")
    with pytest.raises(DatasetError, match=r"000\.parquet has changed since the run began"):
        check_unchanged(units, Listing((changed, listing.files[1]), listing.schema))


@given(ROW_GROUPS, st.integers(1, 60))
def test_the_digest_of_the_data_does_not_depend_on_the_units(row_groups: list[list[int]], size: int) -> None:
    listing = listing_of(row_groups)
    whole = data_digest(ref for file in listing.files for ref in row_groups_of(file))
    units = reversed(make_units(listing, size))
    assert data_digest(ref for unit in units for ref in unit.row_groups) == whole
    if listing.rows:
        changed = Listing(tuple(replace(file, version="another") for file in listing.files), listing.schema)
        assert data_digest(ref for file in changed.files for ref in row_groups_of(file)) != whole


def test_units_are_found_where_their_files_are_now() -> None:
    refs = [RowGroupRef(f"/old/{name}.parquet", f"{name}.parquet", 10, "7", 0, 0, 5) for name in "ab"]
    unit = Unit.of(refs)
    file = DataFile("/new/a.parquet", "a.parquet", 10, "7", (5,))
    [relocated] = located([unit], Listing((file,), pa.schema([])))
    assert [ref.url for ref in relocated.row_groups] == ["/new/a.parquet", "/old/b.parquet"]
    assert relocated.id == unit.id == Unit.of(list(relocated.row_groups)).id
