"""Packing: every source, sizes of shards and row groups, and what happens to destinations that hold something."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pcace_dist.datasets.images import ImageSpec
from pcace_dist.datasets.loader import Batch
from pcace_dist.datasets.units import make_units
from pcace_dist.errors import DatasetError, OutputError
from pcace_dist.packing.pack import PackReport, pack
from pcace_dist.packing.shards import remove_left_scratch
from pcace_dist.packing.sources.idx import read_idx
from tests.datasets.helpers import encoded, listed, picture, png, reader_of


def folder(root: Path, per_class: int = 5) -> Path:
    for name in ("dog", "cat"):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            picture(i).save(root / name / f"{i}.png")
    return root


def table(dest: Path) -> pa.Table:
    return pq.read_table([str(file) for file in sorted(dest.glob("*.parquet"))])


def shapes(dest: Path) -> list[list[int]]:
    files = [pq.ParquetFile(file).metadata for file in sorted(dest.glob("*.parquet"))]
    return [[meta.row_group(i).num_rows for i in range(meta.num_row_groups)] for meta in files]


def test_a_folder_gives_classes_labels_and_the_files_bytes(tmp_path: Path) -> None:
    source, dest = folder(tmp_path / "in"), tmp_path / "out"
    report = pack(str(source), str(dest))
    assert (report.kind, report.rows, report.shards, report.bad) == (
        "folder",
        10,
        ("part-00000.parquet",),
        (),
    )
    rows = table(dest).to_pylist()
    assert [(r["label"], r["class"], r["image"]["path"]) for r in rows[:1] + rows[-1:]] == [
        (0, "cat", "cat/0.png"),
        (1, "dog", "dog/4.png"),
    ]
    assert all(r["image"]["bytes"] == (source / r["image"]["path"]).read_bytes() for r in rows)
    names = json.loads(table(dest).schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    assert names == ["cat", "dog"]


def test_a_folder_without_classes_and_stray_files(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    picture(1).save(tmp_path / "flat/a.png")
    pack(str(tmp_path / "flat"), str(tmp_path / "one"))
    assert table(tmp_path / "one").column_names == ["image"]
    source = folder(tmp_path / "in", 1)
    picture(1).save(source / "stray.png")
    (source / "notes.txt").write_text("x")
    report = pack(str(source), str(tmp_path / "two"))
    assert report.rows == 2 and [str(bad) for bad in report.bad] == [
        "notes.txt: not an image (.txt)",
        "stray.png: lies beside the class folders, not in one",
    ]


def test_shards_end_by_rows_and_row_groups_by_theirs(tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    report = pack(str(source), str(tmp_path / "out"), shard_rows=4, row_group_rows=3)
    assert shapes(tmp_path / "out") == [[3, 1], [3, 1], [2]]
    assert report.bytes == sum(file.stat().st_size for file in (tmp_path / "out").glob("*.parquet"))


def test_shards_end_by_bytes(tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    pack(str(source), str(tmp_path / "out"), shard_bytes=3 * len(png(0)))
    assert all(3 <= sum(groups) <= 4 for groups in shapes(tmp_path / "out")[:-1])


def test_images_stay_uncompressed_and_out_of_the_footer(tmp_path: Path) -> None:
    pack(str(folder(tmp_path / "in")), str(tmp_path / "out"))
    meta = pq.ParquetFile(tmp_path / "out/part-00000.parquet").metadata.row_group(0)
    by_name = {meta.column(i).path_in_schema: meta.column(i) for i in range(meta.num_columns)}
    assert by_name["image.bytes"].compression == "UNCOMPRESSED" and not by_name["image.bytes"].is_stats_set
    assert by_name["label"].compression == "ZSTD" and by_name["label"].statistics.max == 1


def test_packed_shards_read_back(tmp_path: Path) -> None:
    pack(str(folder(tmp_path / "in")), str(tmp_path / "out"), shard_rows=4)
    spec, listing = listed(tmp_path / "out", label="label", group_by="class")
    (unit,) = make_units(listing, 100)
    with reader_of(spec, batch_size=10) as reader:
        (batch,) = reader.batches(unit)
    assert isinstance(batch, Batch) and batch.groups == ("cat",) * 5 + ("dog",) * 5


def test_csv_keeps_the_other_columns_with_their_types(tmp_path: Path) -> None:
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    lines = [
        "path,no2,street,day",
        "0.png,1.5,Main,2024-05-01",
        f"{tmp_path}/1.png,,Side,2024-05-02",
        "none.png,3,x,2024-05-03",
        ",4,x,2024-05-03",
        "2.png,5,,2024-05-04",
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    report = pack(str(tmp_path / "list.csv"), str(tmp_path / "out"), image_column="path")
    packed = table(tmp_path / "out")
    assert packed.schema.field("no2").type == pa.float64() and packed.schema.field("day").type == pa.date32()
    assert packed.column("no2").to_pylist() == [1.5, None, 5.0]
    assert packed.column("street").to_pylist() == ["Main", "Side", None]
    assert [row["bytes"] for row in packed.column("image").to_pylist()] == [png(i) for i in range(3)]
    assert [str(bad) for bad in report.bad] == [
        "none.png: no such file",
        f"{tmp_path / 'list.csv'} row 3: names no image",
    ]


def test_csv_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("paht,x\na.png,1\n")
    with pytest.raises(DatasetError, match=r"no column 'path' with the image paths; did you mean 'paht'\?$"):
        pack(str(file), str(tmp_path / "out"), image_column="path")
    file.write_text("path,image\na.png,1\n")
    with pytest.raises(DatasetError, match="the column 'image' is in the way"):
        pack(str(file), str(tmp_path / "out"), image_column="path")
    file.write_text("path\nnone.png\n")
    with pytest.raises(
        DatasetError, match=r"^nothing could be packed; the first of 1 faults: none\.png: no such file$"
    ):
        pack(str(file), str(tmp_path / "out"), image_column="path")


def idx(values: np.ndarray, *, zipped: bool = False) -> bytes:
    data = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    return gzip.compress(data) if zipped else data


def digits(root: Path, name: str, count: int, *, zipped: bool) -> np.ndarray:
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    suffix = ".gz" if zipped else ""
    root.mkdir(exist_ok=True)
    (root / f"{name}-images-idx3-ubyte{suffix}").write_bytes(idx(images, zipped=zipped))
    labels = (np.arange(count) % 10).astype(np.uint8)
    (root / f"{name}-labels-idx1-ubyte{suffix}").write_bytes(idx(labels, zipped=zipped))
    return images


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_give_png_and_labels(tmp_path: Path, zipped: bool) -> None:
    images = digits(tmp_path / "in", "train", 12, zipped=zipped)
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"), row_group_rows=5)
    assert (report.kind, report.rows, shapes(tmp_path / "out")) == ("mnist", 12, [[5, 5, 2]])
    packed = table(tmp_path / "out")
    assert packed.column_names == ["image", "label"]
    assert packed.column("label").to_pylist() == [i % 10 for i in range(12)]
    spec, listing = listed(tmp_path / "out")
    with reader_of(spec, batch_size=12, image_spec=ImageSpec(mode="L")) as reader:
        (batch,) = reader.batches(make_units(listing, 100)[0])
    assert np.array_equal(batch.images.numpy()[:, 0], images)


def test_two_sets_of_idx_files_get_a_split_column_and_one_may_be_named(tmp_path: Path) -> None:
    digits(tmp_path / "in", "train", 4, zipped=True)
    digits(tmp_path / "in", "t10k", 2, zipped=True)
    pack(str(tmp_path / "in"), str(tmp_path / "both"))
    assert table(tmp_path / "both").column("split").to_pylist() == ["t10k"] * 2 + ["train"] * 4
    report = pack(str(tmp_path / "in/t10k-images-idx3-ubyte.gz"), str(tmp_path / "one"))
    assert report.rows == 2 and "split" not in table(tmp_path / "one").column_names


def test_idx_mistakes_are_named(tmp_path: Path) -> None:
    digits(tmp_path / "in", "train", 4, zipped=False)
    (tmp_path / "in/train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, dtype=np.uint8)))
    with pytest.raises(DatasetError, match="4 images but 3 labels in train"):
        pack(str(tmp_path / "in"), str(tmp_path / "out"))
    (tmp_path / "in/train-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="no train-labels-idx1-ubyte beside"):
        pack(str(tmp_path / "in"), str(tmp_path / "out"))


def test_idx_headers_are_checked() -> None:
    assert read_idx(idx(np.ones((2, 3), dtype=np.uint8)), "x").shape == (2, 3)
    for data, message in (
        (b"", "x: not an idx file"),
        (b"\0\0\x77\x01", "x: not an idx file"),
        (idx(np.ones(9, dtype=np.uint8))[:-1], "x: 8 bytes of values where the header says 9"),
        (gzip.compress(idx(np.ones(9, dtype=np.uint8)))[:-9], "x: broken gzip file"),
    ):
        with pytest.raises(DatasetError, match=message):
            read_idx(data, "x")


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def test_webdataset_tars(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    first: dict[str, bytes] = {}
    for i in range(3):
        first |= {
            f"{i}.png": png(i),
            f"{i}.cls": str(i).encode(),
            f"{i}.json": json.dumps({"no2": i / 2, "l": [1]}).encode(),
        }
    tar(tmp_path / "in/a.tar", first)
    tar(
        tmp_path / "in/b.tar.gz",
        {"x.jpg": encoded(picture(9), "JPEG"), "x.cls": b"7", "y.cls": b"8", "z.png": png(1), "z.cls": b"?"},
    )
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    packed = table(tmp_path / "out")
    assert packed.column_names == ["image", "no2", "label"]
    assert packed.column("label").to_pylist() == [0, 1, 2, 7]
    assert packed.column("no2").to_pylist() == [0.0, 0.5, 1.0, None]
    assert [bad.name for bad in report.bad] == ["b.tar.gz/y", "b.tar.gz/z"]


def test_a_value_of_another_type_than_the_first_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcace_dist.packing.sources.webdataset.PEEKED", 1)
    tar(
        tmp_path / "a.tar",
        {"1.png": png(1), "1.json": b'{"x": 1}', "2.png": png(2), "2.json": b'{"x": "one"}'},
    )
    report = pack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert report.rows == 1
    assert str(report.bad[0]) == "a.tar/2.png: x 'one' is not int64 as in the first samples"


def test_empty_and_with_verify_broken_images_are_left_out(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", 1)
    (source / "cat/empty.png").write_bytes(b"")
    (source / "cat/text.jpg").write_bytes(b"no image")
    (source / "cat/cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    none = ["cat/empty.png: image is empty", "cat/text.jpg: not an image"]
    assert [str(bad) for bad in pack(str(source), str(tmp_path / "one")).bad] == none
    assert [str(bad) for bad in pack(str(source), str(tmp_path / "two"), verify=True).bad] == [
        "cat/cut.jpg: truncated JPEG",
        *none,
    ]


def test_progress_is_told_row_by_row(tmp_path: Path) -> None:
    progress: list[tuple[int, int | None]] = []
    source = folder(tmp_path / "in", 2)
    pack(str(source), str(tmp_path / "out"), on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_same_pack_again_does_nothing(tmp_path: Path) -> None:
    source, dest = folder(tmp_path / "in"), tmp_path / "out"
    first = pack(str(source), str(dest))
    stamp = (dest / "part-00000.parquet").stat().st_mtime_ns
    assert pack(str(source), str(dest)) == first
    assert (dest / "part-00000.parquet").stat().st_mtime_ns == stamp


def test_another_pack_or_other_files_in_the_destination_are_refused(tmp_path: Path) -> None:
    source, dest = folder(tmp_path / "in"), tmp_path / "out"
    pack(str(source), str(dest))
    with pytest.raises(OutputError, match=r"holds another pack; name an empty folder$"):
        pack(str(source), str(dest), shard_rows=2)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.txt").write_text("x")
    with pytest.raises(OutputError, match=r"is not empty \(holds thesis\.txt\); name an empty folder$"):
        pack(str(source), str(tmp_path / "used"))
    with pytest.raises(OutputError, match=r"is a file; name a folder for the shards$"):
        pack(str(source), str(tmp_path / "used/thesis.txt"))


def test_an_interrupted_pack_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    source, dest, other = folder(tmp_path / "in"), tmp_path / "out", tmp_path / "other"

    class Stop(BaseException):
        pass

    def stop(done: int, total: int | None) -> None:
        if done == 7:
            raise Stop

    with pytest.raises(Stop):
        pack(str(source), str(dest), shard_rows=3, on_progress=stop)
    assert sorted(p.name for p in dest.iterdir()) == [
        "_pack",
        "_pack.json",
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    (dest / ".pack-notes").mkdir()
    stamps = {file: file.stat().st_mtime_ns for file in dest.glob("*.parquet")}
    progress: list[int] = []
    report: PackReport = pack(
        str(source), str(dest), shard_rows=3, on_progress=lambda done, total: progress.append(done)
    )
    assert progress == [7, 8, 9, 10]
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    assert report.shards == pack(str(source), str(other), shard_rows=3).shards
    assert contents(dest) == contents(other)
    assert [path.name for path in dest.glob(".pack-*")] == [".pack-notes"], "which no pack has made"


def contents(dest: Path) -> dict[str, bytes]:
    """Names and bytes of the shards."""
    return {file.name: file.read_bytes() for file in sorted(dest.glob("*.parquet"))}


def test_a_shard_that_is_gone_cut_short_or_without_its_record_is_written_again(tmp_path: Path) -> None:
    source, dest = folder(tmp_path / "in"), tmp_path / "out"
    first = pack(str(source), str(dest), shard_rows=2)
    whole = contents(dest)
    (dest / "part-00001.parquet").unlink()
    (dest / "part-00002.parquet").write_bytes(whole["part-00002.parquet"][:50])
    (dest / "_pack/part-00003.json").write_text("{")
    stamp = (dest / "part-00000.parquet").stat().st_mtime_ns
    assert pack(str(source), str(dest), shard_rows=2) == first
    assert contents(dest) == whole and (dest / "part-00000.parquet").stat().st_mtime_ns == stamp


def test_scratch_of_a_living_process_stays(tmp_path: Path) -> None:
    host = socket.gethostname()
    alive, elsewhere = tmp_path / f".pack-{host}-{os.getpid()}-x", tmp_path / ".pack-another-host-1-x"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".pack-{host}-{dead.pid}-x"
    for scratch in (alive, elsewhere, left):
        scratch.mkdir()
    (left / "part-00000.parquet").write_bytes(b"PAR1")
    notes = tmp_path / f".pack-{host}-{dead.pid}-z"  # somebody has put something of his own there
    notes.mkdir()
    (notes / "thesis.txt").write_text("precious")
    contained = tmp_path / f".pack-{host}-{dead.pid}-y"  # of a process that another container gave this number
    contained.mkdir()
    lock = os.open(contained, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    remove_left_scratch(str(tmp_path))
    assert contained.is_dir()
    os.close(lock)
    remove_left_scratch(str(tmp_path))
    assert not contained.exists()
    assert alive.exists() and elsewhere.exists() and not left.exists()
    assert (notes / "thesis.txt").exists()


def test_where_folders_cannot_be_locked_packs_go_by_the_processs_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EBADF, "as NFS says of a folder")

    monkeypatch.setattr(fcntl, "flock", refused)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    dest = tmp_path / "out"
    left, alive = (dest / f".pack-{socket.gethostname()}-{pid}-x" for pid in (dead.pid, os.getpid()))
    left.mkdir(parents=True)
    alive.mkdir()
    pack(str(folder(tmp_path / "in", 2)), str(dest))
    assert not left.exists() and alive.exists()
    assert sorted(dest.glob("*.parquet"))


def test_what_was_left_out_is_listed_beside_the_shards_and_hidden_from_ranking(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", 2)
    (source / "cat/empty.png").write_bytes(b"")
    pack(str(source), str(tmp_path / "out"))
    listed_bad = json.loads((tmp_path / "out/_bad_files.json").read_text())
    assert listed_bad == [{"file": "cat/empty.png", "reason": "image is empty"}]
    assert [file.key for file in listed(tmp_path / "out")[1].files] == ["part-00000.parquet"]


def test_verify_decode_finds_what_a_header_does_not_show(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", 1)
    (source / "cat/cut.jpg").write_bytes(encoded(picture(1, 90, 90), "JPEG")[:-400])
    assert pack(str(source), str(tmp_path / "one"), verify="headers").bad == ()
    assert [str(bad) for bad in pack(str(source), str(tmp_path / "two"), verify="decode").bad] == [
        "cat/cut.jpg: truncated JPEG"
    ]
    with pytest.raises(OutputError, match=r"^verify 'all': is not one of headers, decode$"):
        pack(str(source), str(tmp_path / "three"), verify="all")


def test_a_pack_begun_in_vain_does_not_block_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="nothing could be packed"):
        pack(str(tmp_path / "in"), str(tmp_path / "out"))
    picture(1).save(tmp_path / "in/a.png")
    assert pack(str(tmp_path / "in"), str(tmp_path / "out")).rows == 1


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("none", {}, "none: no such file, or an empty folder$"),
        ("notes.txt", {}, "not a folder, CSV, idx, tar or Parquet file; say which kind it is$"),
        ("empty", {}, "holds no image "),
        ("empty", {"kind": "csv"}, "is a folder; name the CSV file$"),
        ("empty", {"kind": "webdataset"}, "holds no tar file "),
        ("empty", {"kind": "zip"}, "kind 'zip' is not one of folder, csv, mnist, webdataset, parquet$"),
    ],
)
def test_sources_that_will_not_do(tmp_path: Path, source: str, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("x")
    with pytest.raises(DatasetError, match=message):
        pack(str(tmp_path / source), str(tmp_path / "out"), **changes)


def test_limits_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^shard_rows 0: must be at least 1$"):
        pack(str(tmp_path), str(tmp_path / "out"), shard_rows=0)


def test_a_picture_survives_the_trip(tmp_path: Path) -> None:
    pack(str(folder(tmp_path / "in", 1)), str(tmp_path / "out"))
    data = table(tmp_path / "out").column("image")[0].as_py()["bytes"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(picture(0)))
