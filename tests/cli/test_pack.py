"""`pcace pack` from the command line: what it says, what it leaves out, and that ranking can read what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pcace_dist.cli import main
from tests.planted import png


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for i in range(3):
            (folder / f"{i}.png").write_bytes(png(np.full((9, 9), 40 * i, np.uint8)))
    return tmp_path / "photos"


def test_a_folder_becomes_shards_with_the_folder_as_class(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(photos), str(tmp_path / "shards"), "--shard-rows", "4"]) == 0
    assert capsys.readouterr().out == f"6 images in 2 shards: {tmp_path / 'shards'}\n"
    table = pq.read_table(tmp_path / "shards")
    assert table["label"].to_pylist() == [0, 0, 0, 1, 1, 1]


def test_verify_leaves_out_what_is_no_image_and_says_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "dog" / "letter.jpg").write_text("not an image")
    assert main(["pack", str(photos), str(tmp_path / "shards"), "--verify"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("6 images in 1 shard")
    assert "letter.jpg" in captured.err


def test_a_source_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(tmp_path / "nowhere"), str(tmp_path / "shards")]) == 2
    assert "nowhere" in capsys.readouterr().err
