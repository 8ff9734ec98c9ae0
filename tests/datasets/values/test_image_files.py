"""Images that are named, not held: their bytes are those of the files that were listed, or the run ends."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from pcace_dist.datasets.values.image_files import IMAGE_FILE, file_url, is_image_file, read_image_files
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Storage


def column(folder: Path, *names: str | None) -> pa.ChunkedArray:
    storage = Storage()
    files = [None if name is None else storage.stat(str(folder / name)) for name in names]
    rows = [
        None if file is None else {"path": name, "size": file.size, "version": file.version}
        for name, file in zip(names, files, strict=True)
    ]
    return pa.chunked_array([pa.array(rows, IMAGE_FILE)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(100):
        (tmp_path / f"{number}.jpg").write_bytes(str(number).encode() * number)
    return tmp_path


def test_the_bytes_of_the_files_in_order(folder: Path) -> None:
    names = [f"{number}.jpg" for number in range(100)]
    found = read_image_files(column(folder, *names, None), str(folder), Storage())
    assert found.type == pa.binary()
    assert found.to_pylist() == [*((folder / name).read_bytes() for name in names), None]


def test_a_file_that_is_gone_ends_the_run(folder: Path) -> None:
    named = column(folder, "1.jpg", "2.jpg")
    (folder / "2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"^dataset.path: 2.jpg is gone since the run began"):
        read_image_files(named, str(folder), Storage())


def test_a_file_that_is_another_by_now_ends_the_run(folder: Path) -> None:
    named = column(folder, "1.jpg", "2.jpg")
    (folder / "2.jpg").write_bytes(b"23")  # as long as before
    os.utime(folder / "2.jpg", (1, 1))
    with pytest.raises(DatasetError, match=r"^dataset.path: 2.jpg has changed since the run began"):
        read_image_files(named, str(folder), Storage())


def test_where_files_lie() -> None:
    assert file_url("a/b.jpg", "s3://bucket/photos/") == "s3://bucket/photos/a/b.jpg"
    assert file_url("/other/b.jpg", "/photos") == "/other/b.jpg"
    assert file_url("s3://other/b.jpg", "/photos") == "s3://other/b.jpg"


def test_which_columns_name_files() -> None:
    assert is_image_file(IMAGE_FILE)
    assert not is_image_file(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    assert not is_image_file(pa.string())
