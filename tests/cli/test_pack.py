"""`pcace pack` from the command line: what it says, what it leaves out, and that ranking can read what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pcace_dist.cli.main import build_parser, main
from pcace_dist.packing.open_source import OPENERS
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


def test_classes_and_what_was_left_out_are_told_by_reason(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bird").mkdir()
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", ".DS_Store"):
        (photos / "cat" / name).write_text("notes")
    (photos / "cat" / "e.png").symlink_to("nowhere")
    assert main(["pack", str(photos), str(tmp_path / "shards")]) == 0
    lines = [line.removeprefix("pcace pack: ") for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "the class 'bird' has no image; it keeps its label 0",
        "label 0: bird (0 images)",
        "label 1: cat (3 images)",
        "label 2: dog (3 images)",
        "left out 4, not an image: cat/a.txt, cat/b.txt, cat/c.txt and 1 more",
        "left out 1, hidden: cat/.DS_Store",
        "left out 1, link to nothing: cat/e.png",
        f"6 left out in all: {tmp_path}/shards/_bad_files.json",
    ]


def test_a_long_table_of_classes_is_shortened_in_its_middle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(30):
        (tmp_path / f"in/c{i:02d}").mkdir(parents=True)
        (tmp_path / f"in/c{i:02d}/0.png").write_bytes(png(np.full((9, 9), i, np.uint8)))
    assert main(["pack", str(tmp_path / "in"), str(tmp_path / "shards")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[5:8] == [
        "pcace pack: " + line for line in ("label 5: c05 (1 images)", "... 18 more ...", lines[7][12:])
    ]
    assert lines[7].endswith("label 24: c24 (1 images)") and len(lines) == 13


def test_a_class_without_an_image_is_exit_2_unless_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bird").symlink_to("../unmounted")
    assert main(["pack", str(photos), str(tmp_path / "shards")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'bird' (label 0)" in line and line.endswith("--allow-empty-classes")
    assert main(["pack", str(photos), str(tmp_path / "shards"), "--allow-empty-classes"]) == 0


def test_a_csvs_columns_and_files_are_taken_as_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    csv = tmp_path / "in/list.csv"
    csv.write_bytes("path,city,station\n../photos/cat/0.png,Zürich,0007\n".encode("latin-1"))
    command = ["pack", str(csv), str(tmp_path / "shards"), "--image-column", "path"]
    assert main(command) == 2 and "--encoding latin-1" in capsys.readouterr().err
    command += ["--encoding", "latin-1"]
    assert main(command) == 2 and "--allow-outside" in capsys.readouterr().err
    assert main([*command, "--allow-outside", "--type", "station=number"]) == 0
    row = pq.read_table(tmp_path / "shards").to_pylist()[0]
    assert (row["city"], row["station"]) == ("Zürich", 7)


def test_a_source_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(tmp_path / "nowhere"), str(tmp_path / "shards")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_every_kind_of_source_can_be_named() -> None:
    for kind in OPENERS:
        assert build_parser().parse_args(["pack", "photos", "out", "--kind", kind]).kind == kind
