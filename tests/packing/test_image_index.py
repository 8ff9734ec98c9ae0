"""A folder of images, or a CSV with their paths, as one small Parquet file that names them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pcace_dist.datasets.values.class_label import class_label_names
from pcace_dist.errors import DatasetError
from pcace_dist.packing import image_index
from pcace_dist.packing.image_index import ImageIndex, index_images
from pcace_dist.storage.files import Storage
from tests.datasets.helpers import png


def folder(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(seed))
    return root


def rows(index: ImageIndex) -> list[dict[str, object]]:
    table = pq.read_table(io.BytesIO(index.data))
    return [{name: value for name, value in row.items() if name != "image"} for row in table.to_pylist()]


def test_class_folders_give_labels_and_names(tmp_path: Path) -> None:
    index = index_images(str(folder(tmp_path, "dog/b.png", "cat/a.png", "dog/old/c.png")), Storage())
    assert rows(index) == [
        {"path": "cat/a.png", "label": 0, "class": "cat"},
        {"path": "dog/b.png", "label": 1, "class": "dog"},
        {"path": "dog/old/c.png", "label": 1, "class": "dog"},
    ]
    assert (index.id, index.left_out) == ("path", ())
    assert class_label_names(pq.read_schema(io.BytesIO(index.data)), "label") == ("cat", "dog")


def test_each_row_names_its_file_with_size_and_version(tmp_path: Path) -> None:
    folder(tmp_path, "a.png", "b.png")
    images = pq.read_table(io.BytesIO(index_images(str(tmp_path), Storage()).data))["image"].to_pylist()
    found = [Storage().stat(str(tmp_path / name)) for name in ("a.png", "b.png")]
    assert images == [
        {"path": name, "size": file.size, "version": file.version}
        for name, file in zip(("a.png", "b.png"), found, strict=True)
        if file is not None
    ]


def test_the_name_of_the_list_is_its_content(tmp_path: Path) -> None:
    folder(tmp_path, "a.png", "b.png")
    first = index_images(str(tmp_path), Storage())
    assert index_images(f"{tmp_path}/", Storage()) == first
    folder(tmp_path / "c", "c.png")
    assert index_images(str(tmp_path), Storage()).name != first.name


def test_what_is_no_image_and_what_may_not_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, "cat/a.png", "cat/b.png", "stray.png")
    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).endswith("b.png"))
    index = index_images(str(tmp_path), Storage())
    assert rows(index) == [
        {"path": "cat/a.png", "label": 0, "class": "cat"},
        {"path": "stray.png", "label": None, "class": None},
    ]
    assert [str(fault) for fault in index.left_out] == ["notes.txt: not an image (.txt)", "cat/b.png: may not be read"]


def test_row_groups_hold_a_bounded_number_of_bytes_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, *(f"{number}.png" for number in range(5)))
    monkeypatch.setattr(image_index, "GROUP_ROWS", 2)
    groups = pq.ParquetFile(io.BytesIO(index_images(str(tmp_path), Storage()).data)).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [2, 2, 1]
    monkeypatch.setattr(image_index, "GROUP_BYTES", 1)
    groups = pq.ParquetFile(io.BytesIO(index_images(str(tmp_path), Storage()).data)).metadata
    assert groups.num_row_groups == 5


def test_a_csv_names_images_and_has_their_columns(tmp_path: Path) -> None:
    folder(tmp_path, "photos/a.png", "photos/b.png")
    (tmp_path / "list.csv").write_text("file,no2\nphotos/b.png,1.5\nphotos/gone.png,2\n,3\nphotos/a.png,4\n")
    index = index_images(str(tmp_path / "list.csv"), Storage(), "file")
    assert rows(index) == [{"file": "photos/b.png", "no2": 1.5}, {"file": "photos/a.png", "no2": 4.0}]
    assert index.id == "file"
    assert [str(fault) for fault in index.left_out] == ["photos/gone.png: no such file", "row 2: names no image"]


def test_an_image_that_is_named_twice_has_no_name_of_its_own(tmp_path: Path) -> None:
    folder(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text("image,no2\na.png,1\na.png,2\n")
    index = index_images(str(tmp_path / "list.csv"), Storage())
    assert rows(index) == [{"path": "a.png", "no2": 1}, {"path": "a.png", "no2": 2}]
    assert index.id is None


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1/a.png", "2/a.png", "10/a.png"], r"--labels number .*\(an option of `pcace pack .* DEST`\)$"),
        ([], "no such file, or an empty folder"),
    ],
)
def test_what_cannot_be_listed_is_one_line_that_names_the_key(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(DatasetError, match=f"^dataset.path: .*{said}"):
        index_images(str(folder(tmp_path, *names)), Storage())


def test_a_folder_of_unreadable_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DatasetError, match=r"names no image that can be read; the first: a.png: may not be read"):
        index_images(str(folder(tmp_path, "a.png")), Storage())
