"""Reading row groups: needed columns, the filter, retries, and files that are not what was listed."""

from __future__ import annotations

import os
from errno import EACCES, EIO, EMFILE, ENFILE, ENOMEM, ESTALE, ETIMEDOUT
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.row_groups import RowGroup, count_kept, kept_counts, read_row_groups
from pcace_dist.datasets.rows import BadRow
from pcace_dist.datasets.units import RowGroupRef, make_units
from pcace_dist.errors import DatasetError, StoreUnavailable
from pcace_dist.packing.pack import pack
from pcace_dist.storage.files import Storage
from pcace_dist.storage.retry import ShortRead
from tests.datasets.helpers import FailingStorage, GarblingStorage, dataset, listed, png, shard


def row_groups_of(path: Path, **changes: Any) -> tuple[DatasetSpec, list[RowGroupRef]]:
    spec, listing = listed(path, **changes)
    return spec, [ref for unit in make_units(listing, 10**6) for ref in unit.row_groups]


def read(refs: list[RowGroupRef], spec: DatasetSpec, storage: Storage | None = None) -> list[RowGroup]:
    parts = list(read_row_groups(refs, spec, storage or Storage()))
    assert all(isinstance(part, RowGroup) for part in parts)
    return [part for part in parts if isinstance(part, RowGroup)]


def test_row_groups_come_in_order_with_their_rows_in_the_file(tmp_path: Path) -> None:
    spec, refs = row_groups_of(dataset(tmp_path, files=2), label="label")
    groups = read(refs, spec)
    assert [group.rows.tolist() for group in groups[:3]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [group.ref.key[:10] for group in groups] == ["part-00000"] * 3 + ["part-00001"] * 3
    assert groups[4].table.column("image").to_pylist() == [png(i) for i in range(14, 18)]


def test_only_needed_columns_are_read(tmp_path: Path) -> None:
    spec, refs = row_groups_of(dataset(tmp_path), label="label", columns=("no2",))
    few = read(refs, spec)[0]
    assert few.table.column_names == ["image", "label", "no2"]
    spec, refs = row_groups_of(tmp_path)
    assert 0 < read(refs, spec)[0].bytes_read < few.bytes_read


def test_the_filter_keeps_equal_values(tmp_path: Path) -> None:
    spec, refs = row_groups_of(dataset(tmp_path), label="label", filter={"label": [3, 7], "name": "n13"})
    groups = read(refs, spec)
    assert sum(len(group.rows) for group in groups) == 1
    assert sum(group.filtered for group in groups) == 29
    group_kept = next(group for group in groups if len(group.rows))
    assert (group_kept.ref.key, group_kept.rows.tolist()) == ("part-00001.parquet", [3])


def test_a_null_is_not_equal_to_anything(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(i) for i in range(3)], street=[1, None, 1])
    spec, refs = row_groups_of(tmp_path, filter={"street": 1})
    assert read(refs, spec)[0].rows.tolist() == [0, 2]


def test_filters_on_dictionary_columns_floats_and_booleans(tmp_path: Path) -> None:
    name = pa.array(["a", "b", "a"]).dictionary_encode()
    shard(
        tmp_path / "a.parquet",
        [png(i) for i in range(3)],
        name=name,
        x=[0.5, 1.0, 2.0],
        on=[True, True, False],
    )
    for wanted, rows in (({"name": "a"}, [0, 2]), ({"x": 1}, [1]), ({"on": True}, [0, 1])):
        spec, refs = row_groups_of(tmp_path, filter=wanted)
        assert read(refs, spec)[0].rows.tolist() == rows


def test_row_groups_that_statistics_exclude_are_not_read(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(i) for i in range(12)], place=list(range(12)))
    spec, refs = row_groups_of(tmp_path, filter={"place": 5})
    groups = read(refs, spec)
    assert [group.bytes_read > 0 for group in groups] == [False, True, False]
    assert [group.filtered for group in groups] == [4, 3, 4]
    assert count_kept(refs, spec, Storage()) == [0, 1, 0]


def test_values_are_those_of_the_rows_that_the_filter_keeps(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(i) for i in range(6)], place=[*"aabbc", None], half=[0, 1, 0, 0, 1, 1])
    spec, refs = row_groups_of(tmp_path, filter={"half": 1})
    assert kept_counts("place", refs, spec, Storage()) == {"a": 1, "c": 1, None: 1}


def test_transient_faults_are_retried(tmp_path: Path) -> None:
    spec, refs = row_groups_of(dataset(tmp_path, files=1))
    storage = FailingStorage(times=2)
    assert sum(len(group.rows) for group in read(refs, spec, storage)) == 10
    assert storage.reads == 2 + 1 + 3, "the footer and three row groups"


@pytest.mark.parametrize(
    "error",
    [OSError(number, os.strerror(number)) for number in (EIO, EMFILE, ENFILE, ENOMEM, ESTALE, ETIMEDOUT, EACCES)]
    + [OSError("connection reset by peer"), MemoryError(), pa.ArrowMemoryError("malloc"), ShortRead("5 bytes of 7")],
    ids=repr,
)
def test_an_outage_is_waited_for_and_costs_no_row(tmp_path: Path, error: Exception) -> None:
    spec, refs = row_groups_of(dataset(tmp_path, files=2))
    storage = FailingStorage(times=60, error=error)
    assert sum(len(group.rows) for group in read(refs, spec, storage)) == 20


def test_an_outage_that_lasts_is_no_bad_row_and_no_empty_filter(tmp_path: Path) -> None:
    spec, refs = row_groups_of(dataset(tmp_path, files=2), filter={"label": [1, 2]})
    for ask in (
        lambda s: list(read_row_groups(refs, spec, s)),
        lambda s: count_kept(refs, spec, s),
        lambda s: kept_counts("label", refs, spec, s),
    ):
        storage = FailingStorage(10**9, "part-00001.parquet", seconds=60)
        with pytest.raises(StoreUnavailable, match=r"part-00001\.parquet: connection reset by peer \(for 60 s\)"):
            ask(storage)


def test_wrong_bytes_are_read_twice_before_a_row_group_is_set_aside(tmp_path: Path) -> None:
    spec, refs = row_groups_of(dataset(tmp_path, files=1))
    assert sum(len(group.rows) for group in read(refs, spec, GarblingStorage(1))) == 10, "garbled on the way, once"
    parts = list(read_row_groups(refs, spec, GarblingStorage(2)))
    assert [isinstance(part, BadRow) for part in parts] == [True, False, False]
    assert isinstance(parts[0], BadRow) and parts[0].reason.startswith("row group unreadable: ")


def test_a_flipped_byte_in_a_packed_shard_costs_its_row_group_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(10):
        (tmp_path / f"in/{i}.png").write_bytes(png(i))
    pack(str(tmp_path / "in"), str(tmp_path / "out"), row_group_rows=4)
    file = tmp_path / "out/part-00000.parquet"
    stamp, data = file.stat(), bytearray(file.read_bytes())
    data[data.find(png(5)) + 60] ^= 1  # pack leaves images as they are, with a checksum per page
    file.write_bytes(bytes(data))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    spec, refs = row_groups_of(tmp_path / "out")
    parts = list(read_row_groups(refs, spec, Storage()))
    assert [isinstance(part, BadRow) for part in parts] == [False, True, False]
    bad = parts[1]
    assert isinstance(bad, BadRow) and (bad.row_group, bad.row, bad.rows, bad.stage) == (1, None, 4, "read")
    assert bad.reason.startswith("row group unreadable: ") and "\n" not in bad.reason


def test_a_file_that_changed_or_went_ends_the_run(tmp_path: Path) -> None:
    spec, refs = row_groups_of(dataset(tmp_path, files=1))
    file = tmp_path / "part-00000.parquet"
    shard(file, [png(99)] * 10)
    with pytest.raises(DatasetError, match=r"^dataset\.path: part-00000\.parquet has changed since the run began$"):
        read(refs, spec)
    file.unlink()
    with pytest.raises(DatasetError, match=r"^dataset\.path: part-00000\.parquet is gone since the run began$"):
        read(refs, spec)
