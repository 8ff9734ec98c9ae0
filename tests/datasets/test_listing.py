"""Listing: what is found, under which keys, and every mistake that must be found before the first image is read."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.listing import list_dataset
from pcace_dist.errors import DatasetError, UserError
from pcace_dist.storage.files import Storage
from tests.datasets.helpers import dataset, listed, png, shard, spec_of


def keys(*paths: Path | str) -> list[str]:
    spec = DatasetSpec(path=[str(path) for path in paths])
    return [file.key for file in list_dataset(spec, Storage()).files]


def mistake(path: Path | str, **changes: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        listed(path, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_is_listed_at_any_depth_and_sorted(tmp_path: Path) -> None:
    for name in ("b.parquet", "a/x.parq", "a/deep/y.parquet"):
        shard(tmp_path / name, [png(0)])
    assert keys(tmp_path) == ["a/deep/y.parquet", "a/x.parq", "b.parquet"]


def test_hidden_and_other_files_are_skipped(tmp_path: Path) -> None:
    for name in ("a.parquet", "_temporary/b.parquet", ".c.parquet", "d.txt", "x/_d.parquet"):
        shard(tmp_path / name, [png(0)])
    assert keys(tmp_path) == ["a.parquet"]


def test_rows_sizes_and_versions_are_in_the_listing(tmp_path: Path) -> None:
    dataset(tmp_path, files=2, rows=10, row_group=4)
    _, listing = listed(tmp_path, group_by="street")
    assert listing.rows == 20
    assert [file.row_groups for file in listing.files] == [(4, 4, 2), (4, 4, 2)]
    first = tmp_path / "part-00000.parquet"
    assert listing.files[0].size == first.stat().st_size
    assert listing.files[0].version == str(first.stat().st_mtime_ns)
    assert listing.schema.field("street").type == pa.int64()


def test_globs(tmp_path: Path) -> None:
    for name in ("a/1.parquet", "a/2.parquet", "b/1.parquet", "b/c/1.parquet"):
        shard(tmp_path / name, [png(0)])
    assert keys(tmp_path / "*/1.parquet") == ["a/1.parquet", "b/1.parquet"]
    assert keys(tmp_path / "**/1.parquet") == ["a/1.parquet", "b/1.parquet", "b/c/1.parquet"]
    assert keys(tmp_path / "[ab]/2.parquet") == ["a/2.parquet"]
    assert keys(tmp_path / "[!a]/?.parquet") == ["b/1.parquet"]
    assert keys(tmp_path / "a*") == ["a/1.parquet", "a/2.parquet"]


def test_a_single_file_has_its_name_as_key(tmp_path: Path) -> None:
    assert keys(shard(tmp_path / "odd[1].bin", [png(0)])) == ["odd[1].bin"]


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    file = shard(tmp_path / "a" / "x.parquet", [png(0)])
    os.symlink(file, tmp_path / "link.parquet")
    assert keys(tmp_path / "a", file, tmp_path / "link.parquet") == ["x.parquet"]


def test_keys_of_several_roots_stay_unique(tmp_path: Path) -> None:
    for name in ("one/x.parquet", "two/x.parquet", "p/three/x.parquet", "q/three/x.parquet"):
        shard(tmp_path / name, [png(0)])
    assert keys(tmp_path / "one", tmp_path / "two") == ["one/x.parquet", "two/x.parquet"]
    assert keys(tmp_path / "p/three", tmp_path / "q/three") == ["p/three/x.parquet", "q/three/x.parquet"]


def test_relative_paths_are_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path / "data", files=1)
    monkeypatch.chdir(tmp_path)
    _, listing = listed("data")
    assert listing.files[0].key == "part-00000.parquet"
    assert listing.files[0].url == str(tmp_path / "data/part-00000.parquet")
    assert keys("dat*") == ["data/part-00000.parquet"]


def test_progress_is_told(tmp_path: Path) -> None:
    dataset(tmp_path, files=3)
    progress: list[tuple[int, int]] = []
    list_dataset(spec_of(tmp_path), Storage(), on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_images_may_be_binary_or_a_struct(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0)], struct=False)
    shard(tmp_path / "b.parquet", [png(1)], struct=True)
    assert len(listed(tmp_path)[1].files) == 2


def test_no_such_path(tmp_path: Path) -> None:
    assert mistake(tmp_path / "none") == f"dataset.path: {tmp_path / 'none'}: no such file or folder"
    assert mistake(tmp_path / "*.parquet") == f"dataset.path: {tmp_path / '*.parquet'} matches no file"


def test_other_schemes_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^ftp://x/y: ftp:// is not supported; use a local path, s3://, gs:// or hf://$"
    ):
        listed("ftp://x/y")


def test_folder_without_parquet_and_files_without_rows(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert mistake(tmp_path) == (
        f"dataset.path: {tmp_path} holds no Parquet file (.parquet, .parq or .pq) and no image: 1 not a Parquet file"
    )
    shard(tmp_path / "empty.parquet", [])
    assert mistake(tmp_path) == f"dataset.path: {tmp_path} holds no rows"


def test_an_empty_file_beside_others_is_no_mistake(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [])
    shard(tmp_path / "b.parquet", [png(0)])
    assert listed(tmp_path)[1].rows == 1


@pytest.mark.parametrize("damage", ["text", "truncated", "nothing"])
def test_an_unreadable_file_is_named(tmp_path: Path, damage: str) -> None:
    dataset(tmp_path, files=2)
    bad = tmp_path / "part-00001.parquet"
    data = bad.read_bytes()
    bad.write_bytes({"text": b"not parquet at all", "truncated": data[: len(data) // 2], "nothing": b""}[damage])
    assert mistake(tmp_path).startswith(f"dataset.path: {bad} is not a readable Parquet file (")


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    dataset(tmp_path, files=1)
    assert mistake(tmp_path, image="imge") == (
        "dataset.image: no column 'imge' in part-00000.parquet; did you mean 'image'?"
    )
    assert mistake(tmp_path, label="labels").startswith("dataset.label: no column 'labels'")
    assert mistake(tmp_path, group_by="borough").startswith("group_by: no column 'borough'")
    assert mistake(tmp_path, columns=("no",)).startswith("target: no column 'no'")
    assert mistake(tmp_path, filter={"zzz": 1}) == (
        "dataset.filter: no column 'zzz' in part-00000.parquet; it has 'image', 'label', 'name', 'street', 'no2'"
    )


def test_a_column_missing_in_a_later_file_is_found(tmp_path: Path) -> None:
    dataset(tmp_path, files=1)
    shard(tmp_path / "z.parquet", [png(0)])
    assert mistake(tmp_path, label="label").startswith("dataset.label: no column 'label' in z.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image": "label"},
            "dataset.image: column 'label' in part-00000.parquet is int64; it must be binary, or a struct with bytes",
        ),
        (
            {"label": "image"},
            "dataset.label: column 'image' in part-00000.parquet is struct<bytes: binary, path: string>; it must be "
            "the number or the name of a class",
        ),
        (
            {"id": "no2"},
            "dataset.id: column 'no2' in part-00000.parquet is double; it must be string or integer",
        ),
        ({"columns": ("name",)}, "target: column 'name' in part-00000.parquet is string; it must be numeric"),
    ],
)
def test_wrong_types(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    dataset(tmp_path, files=1)
    assert mistake(tmp_path, **changes) == message


def test_groups_must_be_plain_values_of_one_type(tmp_path: Path) -> None:
    dataset(tmp_path, files=1)
    assert "it must be a plain value" in mistake(tmp_path, group_by="image")
    shard(tmp_path / "z.parquet", [png(0)], street=["Main St"])
    assert mistake(tmp_path, group_by="street") == (
        "group_by: column 'street' is int64 in part-00000.parquet but string in z.parquet"
    )


def test_dictionary_encoded_columns_count_as_their_values(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0)], street=pa.array(["x"]).dictionary_encode())
    _, listing = listed(tmp_path, group_by="street", filter={"street": "x"})
    assert listing.schema.field("street").type == pa.string()


@pytest.mark.parametrize("value", ["3", 3.5, True, [3, "4"], 2**70, None, date(2024, 1, 1)], ids=lambda v: repr(v)[:12])
def test_filter_values_must_be_of_the_columns_type(tmp_path: Path, value: object) -> None:
    dataset(tmp_path, files=1)
    assert mistake(tmp_path, filter={"label": value}).startswith("dataset.filter.label: ")


def test_filters_that_fit(tmp_path: Path) -> None:
    day = pa.array([date(2024, 5, 1)])
    shard(tmp_path / "a.parquet", [png(0)], label=[1], name=["x"], on=[True], share=[0.5], day=day)
    listed(tmp_path, filter={"label": [1, 2], "name": "x", "on": True, "share": 1, "day": "2024-05-01"})
    assert mistake(tmp_path, filter={"day": "May"}).startswith("dataset.filter.day: 'May' cannot be compared")


def test_duplicate_ids_are_named_with_both_places(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0), png(1)], key=["p", "q"])
    shard(tmp_path / "b.parquet", [png(2), png(3), png(4)], key=["r", "s", "q"])
    assert mistake(tmp_path, id="key") == ("dataset.id: key 'q' is there twice: a.parquet row 1 and b.parquet row 2")


def test_duplicate_ids_within_a_file_and_of_integers(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0), png(1), png(2)], key=[7, 8, 7], row_group=2)
    assert mistake(tmp_path, id="key") == ("dataset.id: key 7 is there twice: a.parquet row 0 and a.parquet row 2")


def test_a_null_id_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0), png(1)], key=["p", None])
    assert mistake(tmp_path, id="key") == "dataset.id: key is null in a.parquet row 1"


def test_unique_ids_pass(tmp_path: Path) -> None:
    dataset(tmp_path)
    assert listed(tmp_path, id="name")[1].rows == 30
