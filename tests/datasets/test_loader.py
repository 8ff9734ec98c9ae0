"""Batches: order, sizes, what is set aside, threads that end, and the pilot."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcace_dist.datasets import decoded_rows as decoded_rows_module
from pcace_dist.datasets import loader as loader_module
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.decoded_rows import BatchBuffer
from pcace_dist.datasets.images import ImageSpec, Pixels, decode, pixels
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import Batch, LoaderOptions, pilot_rows, spread
from pcace_dist.datasets.row_groups import RowGroup, read_row_groups
from pcace_dist.datasets.rows import BadRow
from pcace_dist.datasets.units import Unit, make_units
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Storage
from tests.datasets.helpers import (
    GarblingStorage,
    dataset,
    encoded,
    ids,
    listed,
    our_threads,
    picture,
    png,
    reader_of,
    shard,
)


def units_of(path: Path, rows: int = 10**6, **changes: Any) -> tuple[DatasetSpec, tuple[Unit, ...]]:
    spec, listing = listed(path, **changes)
    return spec, make_units(listing, rows)


def pilot(listing: Listing, spec: DatasetSpec, rows: int, **changes: Any) -> list[Batch]:
    limits = {name: changes.pop(name) for name in ("max_row_groups", "max_bytes") if name in changes}
    settings: dict[str, Any] = {
        "dataset": spec,
        "images": changes.pop("image_spec", ImageSpec()),
        "storage": Storage(),
        "batch_size": 8,
        "fold_bytes": lambda data: len(data) % 16,
        "fold_value": int,
        **changes,
    }
    return list(pilot_rows(listing, rows, LoaderOptions(**settings), **limits))


OTHERS: set[int | None] = set()  # threads that were there before this module's tests


@pytest.fixture(scope="module", autouse=True)
def threads_of_others() -> None:
    OTHERS.update(thread.ident for thread in threading.enumerate())


def wait_for_no_threads() -> None:
    deadline = time.monotonic() + 10
    while our_threads(OTHERS) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert our_threads(OTHERS) == []


def test_batches_are_full_but_the_last_and_in_row_order(tmp_path: Path) -> None:
    spec, (unit,) = units_of(dataset(tmp_path), label="label", columns=("no2",), group_by="street", fold_by="street")
    with reader_of(spec, batch_size=7) as reader:
        read = list(reader.batches(unit))
    assert [len(batch) for batch in read] == [7, 7, 7, 7, 2]
    assert ids(read) == [f"part-0000{i // 10}.parquet#{i % 10}" for i in range(30)]
    assert np.concatenate([batch.labels for batch in read if batch.labels is not None]).tolist() == [
        i % 10 for i in range(30)
    ]
    assert np.concatenate([batch.columns["no2"] for batch in read]).tolist() == [i / 2 for i in range(30)]
    assert [group for batch in read for group in batch.groups or ()] == [i // 3 for i in range(30)]
    assert np.concatenate([batch.fold_keys for batch in read]).tolist() == [i // 3 for i in range(30)]
    first = read[0]
    assert first.images.dtype == torch.uint8 and first.images.shape == (7, 3, 10, 12)
    assert first.images.is_contiguous()
    assert first.labels is not None and first.labels.dtype == np.int64
    assert first.columns["no2"].dtype == np.float64 and first.fold_keys.dtype == np.uint64
    expected = torch.from_numpy(np.asarray(picture(3)).copy()).permute(2, 0, 1)
    assert torch.equal(first.images[3], expected)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("read_ahead", [1, 3])
def test_the_result_does_not_depend_on_threads(tmp_path: Path, threads: int, read_ahead: int) -> None:
    images: list[bytes | None] = [png(i) for i in range(40)]
    images[5], images[17], images[18] = None, b"junk", png(1)[:40]
    shard(tmp_path / "a.parquet", images, row_group=9)
    spec, (unit,) = units_of(tmp_path)
    with reader_of(spec, threads=threads, read_ahead=read_ahead) as reader:
        stream = reader.submit(unit)
        read = list(stream.batches())
    assert ids(read) == [f"a.parquet#{i}" for i in range(40) if i not in (5, 17, 18)]
    assert [(bad.row_group, bad.row, bad.id, bad.stage, bad.reason) for bad in stream.bad] == [
        (0, 5, "a.parquet#5", "decode", "image is null"),
        (1, 17, "a.parquet#17", "decode", "not an image"),
        (2, 18, "a.parquet#18", "decode", "truncated PNG"),
    ]
    with reader_of(spec, threads=2) as reader:
        again = list(reader.batches(unit))
    assert all(torch.equal(batch.images, other_batch.images) for batch, other_batch in zip(read, again, strict=True))


def test_without_options_there_are_no_labels_groups_or_columns(tmp_path: Path) -> None:
    spec, (unit,) = units_of(dataset(tmp_path, files=1))
    with reader_of(spec) as reader:
        batch = next(reader.batches(unit))
    assert batch.labels is None and batch.groups is None and batch.columns == {}


def test_channels_last_changes_the_strides_and_no_pixel(tmp_path: Path) -> None:
    spec, (unit,) = units_of(dataset(tmp_path, files=1))
    with reader_of(spec) as one, reader_of(spec, channels_last=True) as two:
        for plain, last in zip(one.batches(unit), two.batches(unit), strict=True):
            assert torch.equal(plain.images, last.images)
            assert plain.images.is_contiguous()
            assert last.images.is_contiguous(memory_format=torch.channels_last)


def test_folds_are_of_the_images_bytes_unless_fold_by_says_otherwise(tmp_path: Path) -> None:
    spec, (unit,) = units_of(dataset(tmp_path, files=1))
    with reader_of(spec, batch_size=10, fold_bytes=lambda data: data[60] % 16) as reader:
        (batch,) = reader.batches(unit)
    assert batch.fold_keys.tolist() == [png(i)[60] % 16 for i in range(10)]


def test_nulls_become_minus_one_nan_none_and_their_own_fold(tmp_path: Path) -> None:
    shard(
        tmp_path / "a.parquet",
        [png(i) for i in range(4)],
        label=pa.array([1, None, 3, 4], pa.int32()),
        no2=[0.5, None, float("nan"), 2.0],
        place=["x", None, "y", "x"],
        depth=[1.0, float("nan"), None, 2.0],
        street=pa.array([1, None, 2, 3]),
        flag=[True, None, False, True],
    )
    spec, (unit,) = units_of(tmp_path, label="label", columns=("no2", "flag"), group_by="depth", fold_by="street")
    with reader_of(spec, fold_value=lambda value: 9 if value is None else value) as reader:
        (batch,) = reader.batches(unit)
    assert batch.labels is not None and batch.labels.tolist() == [1, -1, 3, 4]
    assert np.array_equal(batch.columns["no2"], [0.5, np.nan, np.nan, 2.0], equal_nan=True)
    assert np.array_equal(batch.columns["flag"], [1.0, np.nan, 0.0, 1.0], equal_nan=True)
    assert batch.groups == (1.0, None, None, 2.0)
    assert batch.fold_keys.tolist() == [1, 9, 2, 3]


def test_the_id_column_names_rows(tmp_path: Path) -> None:
    spec, (unit,) = units_of(dataset(tmp_path, files=1), id="name", filter={"label": [2, 3]})
    with reader_of(spec) as reader:
        stream = reader.submit(unit)
        assert ids(list(stream.batches())) == ["n2", "n3"]
    assert stream.filtered == 8


def test_accounting_of_a_unit_adds_up(tmp_path: Path) -> None:
    images: list[bytes | None] = [png(i) for i in range(30)]
    images[4] = b"junk"
    shard(tmp_path / "a.parquet", images, label=[i % 3 for i in range(30)], row_group=10)
    spec, (unit,) = units_of(tmp_path, filter={"label": [0, 1]})
    with reader_of(spec) as reader:
        stream = reader.submit(unit)
        used = sum(len(batch) for batch in stream.batches())
    assert (used, stream.bad_rows, stream.filtered, unit.rows) == (19, 1, 10, 30)
    assert stream.bytes_read > 0 and set(stream.seconds) == {"read", "decode", "wait"}
    assert all(value >= 0 for value in stream.seconds.values())


def test_a_lost_row_group_counts_all_its_rows_as_bad(tmp_path: Path) -> None:
    spec, (unit,) = units_of(dataset(tmp_path, files=2))
    with reader_of(spec, GarblingStorage(99, "part-00000.parquet")) as reader:
        stream = reader.submit(unit)
        assert sum(len(batch) for batch in stream.batches()) == 10
    assert stream.bad_rows == 10 and len(stream.bad) == 3
    assert all(isinstance(bad, BadRow) and bad.row is None for bad in stream.bad)


def test_a_unit_without_a_kept_row_has_no_batch(tmp_path: Path) -> None:
    spec, (unit,) = units_of(dataset(tmp_path, files=1), filter={"name": "nobody"})
    with reader_of(spec) as reader:
        stream = reader.submit(unit)
        assert list(stream.batches()) == []
    assert stream.filtered == 10


def test_images_of_another_size_than_the_plans_are_set_aside(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0), png(1, 20, 10), png(2)])
    spec, (unit,) = units_of(tmp_path)
    with reader_of(spec, image_shape=(10, 12)) as reader:
        stream = reader.submit(unit)
        assert ids(list(stream.batches())) == ["a.parquet#0", "a.parquet#2"]
    assert [(bad.id, bad.reason) for bad in stream.bad] == [
        ("a.parquet#1", "size 20x10 is not the plan's 12x10; set model.input.resize or model.input.crop")
    ]


def test_units_may_be_read_ahead_and_in_any_order(tmp_path: Path) -> None:
    spec, units = units_of(dataset(tmp_path, files=3), rows=10)
    assert len(units) == 3
    with reader_of(spec, threads=2) as reader:
        for unit in units:
            reader.submit(unit)
        for unit, number in ((units[2], 2), (units[0], 0), (units[1], 1)):
            assert ids(list(reader.batches(unit))) == [f"part-0000{number}.parquet#{i}" for i in range(10)]
        assert ids(list(reader.batches(units[0])))[0] == "part-00000.parquet#0"  # read anew
    wait_for_no_threads()


def test_no_more_is_decoded_ahead_than_was_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(data: bytes | None, spec: ImageSpec) -> Pixels:
        seen.append(1)
        return pixels(data, spec)

    monkeypatch.setattr(decoded_rows_module, "pixels", counted)
    shard(tmp_path / "a.parquet", [png(i) for i in range(200)], row_group=50)
    spec, (unit,) = units_of(tmp_path)
    with reader_of(spec, batch_size=4, read_ahead=2, threads=4) as reader:
        stream = reader.submit(unit)
        time.sleep(0.5)
        # two batches ready, one in the hand of the thread that forms them, two batches of rows in the pool
        assert len(seen) <= 4 * (2 + 1 + 2 + 1)
        assert sum(len(batch) for batch in stream.batches()) == 200


def test_batches_are_the_memory_that_was_decoded_into_until_a_row_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers: list[BatchBuffer] = []

    def counted(*arguments: Any, **options: Any) -> BatchBuffer:
        buffers.append(BatchBuffer(*arguments, **options))
        return buffers[-1]

    monkeypatch.setattr(loader_module, "BatchBuffer", counted)
    images: list[bytes | None] = [png(i) for i in range(20)]
    shard(tmp_path / "whole/a.parquet", images, row_group=7)
    images[9] = b"junk"
    shard(tmp_path / "torn/a.parquet", images, row_group=7)
    for name, copied in (("whole", []), ("torn", [2, 3, 4])):
        buffers.clear()
        spec, (unit,) = units_of(tmp_path / name)
        with reader_of(spec, image_shape=(10, 12)) as reader:
            read = list(reader.batches(unit))
        decoded = {buffer.images.data_ptr() for buffer in buffers[:5]} if name == "whole" else set()
        assert len(buffers) == 5 + len(copied)
        assert name == "torn" or {batch.images.data_ptr() for batch in read} == decoded
        rows = [i for i in range(20) if name == "whole" or i != 9]
        assert torch.equal(
            torch.cat([b.images for b in read]), torch.stack([decode(png(i), ImageSpec()) for i in rows])
        )


def test_a_row_group_is_read_while_the_one_before_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, enough_read = threading.Event(), threading.Event()
    read: list[int] = []

    def held(data: bytes | None, spec: ImageSpec) -> Pixels:
        go.wait(5)
        return pixels(data, spec)

    def counted(*arguments: Any) -> Iterator[RowGroup | BadRow]:
        for part in read_row_groups(*arguments):
            read.append(1)
            if len(read) == 2:
                enough_read.set()
            yield part

    monkeypatch.setattr(decoded_rows_module, "pixels", held)
    monkeypatch.setattr(loader_module, "read_row_groups", counted)
    shard(tmp_path / "a.parquet", [png(i) for i in range(80)], row_group=10)
    spec, (unit,) = units_of(tmp_path)
    with reader_of(spec, batch_size=10, read_ahead=1, image_shape=(10, 12)) as reader:
        stream = reader.submit(unit)
        enough = enough_read.wait(4)
        time.sleep(0.1)
        ahead = len(read)
        go.set()
        assert enough and ahead == 4  # being decoded, waiting for the decoder, being cut, ahead; no more
        assert sum(len(batch) for batch in stream.batches()) == 80
    assert len(read) == 8


@pytest.mark.parametrize("threads", [1, 4])
def test_leaving_early_discarding_and_closing_end_all_threads(tmp_path: Path, threads: int) -> None:
    spec, units = units_of(dataset(tmp_path, files=3, rows=40), rows=40)
    with reader_of(spec, threads=threads, read_ahead=1) as reader:
        for unit in units:
            reader.submit(unit)
        for _ in reader.batches(units[0]):
            break
        reader.discard(units[1])
        reader.discard(units[1])
    wait_for_no_threads()
    reader.close()


def test_a_discarded_stream_that_is_being_waited_for_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def held(data: bytes | None, spec: ImageSpec) -> Pixels:
        go.wait(20)
        return pixels(data, spec)

    monkeypatch.setattr(decoded_rows_module, "pixels", held)
    spec, (unit,) = units_of(dataset(tmp_path, files=1))
    read: list[Batch] = []
    with reader_of(spec) as reader:
        stream = reader.submit(unit)
        waiting = threading.Thread(target=lambda: read.extend(stream.batches()))
        waiting.start()
        reader.discard(unit)
        waiting.join(10)
        assert not waiting.is_alive() and read == []
        go.set()
    wait_for_no_threads()


def test_errors_in_threads_reach_who_iterates(tmp_path: Path) -> None:
    def broken(data: bytes) -> int:
        raise ZeroDivisionError("fold")

    spec, (unit,) = units_of(dataset(tmp_path, files=1))
    with reader_of(spec, fold_bytes=broken) as reader, pytest.raises(ZeroDivisionError, match="fold"):
        list(reader.batches(unit))
    (tmp_path / "part-00000.parquet").unlink()
    with reader_of(spec) as reader, pytest.raises(DatasetError, match="is gone since the run began"):
        list(reader.batches(unit))
    wait_for_no_threads()


# -- the pilot


def test_the_pilot_is_spread_evenly_over_all_files(tmp_path: Path) -> None:
    spec, listing = listed(dataset(tmp_path, files=4, rows=10))
    read = pilot(listing, spec, 8)
    assert ids(read) == [f"part-0000{f}.parquet#{row}" for f in range(4) for row in (2, 7)]
    assert ids(pilot(listing, spec, 8, threads=4)) == ids(read)


def test_a_pilot_of_more_rows_than_there_are_takes_all(tmp_path: Path) -> None:
    spec, listing = listed(dataset(tmp_path, files=2))
    assert ids(pilot(listing, spec, 2048)) == [f"part-0000{i // 10}.parquet#{i % 10}" for i in range(20)]


def test_the_pilot_goes_by_what_the_filter_keeps(tmp_path: Path) -> None:
    spec, listing = listed(dataset(tmp_path, files=3, rows=10), filter={"label": [8, 9]})
    assert ids(pilot(listing, spec, 3)) == [
        "part-00000.parquet#9",
        "part-00001.parquet#9",
        "part-00002.parquet#9",
    ]


def test_bad_rows_are_left_out_of_the_pilot(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0), None, b"junk", png(3)])
    spec, listing = listed(tmp_path)
    assert ids(pilot(listing, spec, 4)) == ["a.parquet#0", "a.parquet#3"]


def test_a_filter_that_keeps_nothing_is_an_error(tmp_path: Path) -> None:
    spec, listing = listed(dataset(tmp_path), filter={"label": 77})
    with pytest.raises(DatasetError, match=r"^dataset\.filter: \{'label': 77\} keeps no rows$"):
        pilot(listing, spec, 4)


def test_a_pilot_without_one_good_image_names_the_first(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [b"text", b"more text"])
    spec, listing = listed(tmp_path)
    with pytest.raises(DatasetError, match=r"the first: a\.parquet row 0: not an image$"):
        pilot(listing, spec, 4)


def test_images_of_several_sizes_are_an_error_in_the_pilot_unless_resized(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0), encoded(picture(1, 30, 20), "JPEG")])
    spec, listing = listed(tmp_path)
    with pytest.raises(DatasetError) as caught:
        pilot(listing, spec, 4)
    assert str(caught.value) == (
        "model.input: images differ in size (30x20 in a.parquet#1, 12x10 before);"
        " set model.input.resize or model.input.crop"
    )
    (batch,) = pilot(listing, spec, 4, image_spec=ImageSpec(resize=(8, 8)))
    assert batch.images.shape == (2, 3, 8, 8)
    wait_for_no_threads()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(sum), st.integers(1, 300), st.integers(1, 20))
def test_spread_chooses_distinct_rows_of_few_groups(counts: list[int], rows: int, groups: int) -> None:
    chosen = spread(counts, rows, groups)
    assert len(chosen) <= groups
    for index, at in chosen.items():
        assert len(set(at.tolist())) == len(at)
        assert at.min() >= 0 and at.max() < counts[index]
    rows_there = sum(counts[index] for index in chosen)
    assert sum(len(at) for at in chosen.values()) <= rows
    if len(chosen) < groups:
        assert sum(len(at) for at in chosen.values()) == min(rows, sum(counts))
    assert sum(len(at) for at in chosen.values()) <= rows_there
