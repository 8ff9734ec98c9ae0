"""Parquet as a source: other shards, all columns, and what does not fit."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.errors import DatasetError, OutputError
from pcace_dist.packing.pack import pack
from tests.datasets.helpers import png, shard
from tests.packing.test_pack import contents, shapes, table

NAMES = {"info": {"features": {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}


def hugging_face(path: Path, first: int, count: int, row_group: int = 2, **more: Any) -> Path:
    """A file as `datasets` writes it, its images in the column `img`."""
    cells = [{"bytes": png(i), "path": None if i % 2 else f"{i}.png"} for i in range(first, first + count)]
    columns: dict[str, Any] = {
        "img": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": pa.array([i % 2 for i in range(first, first + count)], pa.int64()),
        "taken": pa.array([datetime.datetime(2024, 1, 1, 0, 0, 0, i) for i in range(count)], pa.timestamp("ns")),
        "objects": pa.array([[{"box": [i, 1.5]}] * (i % 3) for i in range(count)]),
        "kind": pa.array(["a" if i % 2 else "b" for i in range(count)]).dictionary_encode(),
    }
    content = pa.table(columns | more).replace_schema_metadata({b"huggingface": json.dumps(NAMES).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, row_group_size=row_group)
    return path


def test_parquet_is_cut_anew_with_every_column_and_value(tmp_path: Path) -> None:
    one = hugging_face(tmp_path / "in/train-00000-of-00002.parquet", 0, 5)
    two = hugging_face(tmp_path / "in/train-00001-of-00002.parquet", 5, 6, row_group=10)
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"), shard_rows=4, row_group_rows=3)
    assert (report.kind, report.rows, report.bad, report.notes) == ("parquet", 11, (), ())
    assert shapes(tmp_path / "out") == [[3, 1], [3, 1], [3]]
    before, after = pa.concat_tables([pq.read_table(one), pq.read_table(two)]), table(tmp_path / "out")
    assert after.column_names == ["image", "label", "taken", "objects", "kind"]
    for name in ("label", "taken", "objects", "kind"):
        assert after[name].to_pylist() == before[name].to_pylist() and after[name].type == before[name].type
    images = after["image"].to_pylist()
    assert [image["bytes"] for image in images] == [png(i) for i in range(11)]
    assert [image["path"] for image in images[4:7]] == ["4.png", "train-00001-of-00002.parquet#0", "6.png"]
    features = json.loads(after.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"} and features["label"]["names"] == ["cat", "dog"]


def test_nested_columns_are_compressed_and_raw_bytes_stay_out_of_the_footer(tmp_path: Path) -> None:
    hugging_face(tmp_path / "in/a.parquet", 0, 4, mask=pa.array([b"m" * 9] * 4))
    pack(str(tmp_path / "in"), str(tmp_path / "out"), image_column="img")
    meta = pq.ParquetFile(tmp_path / "out/part-00000.parquet").metadata.row_group(0)
    column_of = {meta.column(i).path_in_schema: meta.column(i) for i in range(meta.num_columns)}
    compressed = {name: column.compression for name, column in column_of.items()}
    assert compressed.pop("image.bytes") == "UNCOMPRESSED" and set(compressed.values()) == {"ZSTD"}
    assert not column_of["mask"].is_stats_set and column_of["label"].is_stats_set


def test_plain_bytes_nulls_and_damaged_images(tmp_path: Path) -> None:
    shard(tmp_path / "in/a.parquet", [png(0), None, b"", b"text"], struct=False, label=[0, 1, 2, 3])
    report = pack(str(tmp_path / "in/a.parquet"), str(tmp_path / "out"), verify=True)
    assert table(tmp_path / "out").to_pylist() == [{"image": {"bytes": png(0), "path": "a.parquet#0"}, "label": 0}]
    assert [str(bad) for bad in report.bad] == [
        "a.parquet#1: image is null",
        "a.parquet#2: image is empty",
        "a.parquet#3: not an image",
    ]


def test_a_row_group_that_cannot_be_read_is_left_out_whole_and_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "in/a.parquet", [png(i) for i in range(8)], row_group=4)
    data = bytearray(path.read_bytes())
    with io.BytesIO(bytes(data)) as file:
        second = pq.ParquetFile(file).metadata.row_group(1).column(0)
    at = second.data_page_offset
    data[at : at + 12] = b"\xff" * 12
    path.write_bytes(bytes(data))
    report = pack(str(path), str(tmp_path / "out"))
    assert report.rows == 4 and len(report.bad) == 1
    assert str(report.bad[0]).startswith("a.parquet row group 1 from row 0: cannot be read (")


def test_splits_packed_together_are_said_and_a_glob_names_one(tmp_path: Path) -> None:
    hugging_face(tmp_path / "in/data/train-00000-of-00001.parquet", 0, 4)
    hugging_face(tmp_path / "in/data/test-00000-of-00001.parquet", 4, 2)
    report = pack(str(tmp_path / "in"), str(tmp_path / "both"))
    assert report.rows == 6 and report.notes == (
        f"packs test, train together; for one alone name it: '{tmp_path}/in/**/test-*.parquet'",
    )
    alone = pack(f"{tmp_path}/in/**/train-*.parquet", str(tmp_path / "train"))
    assert (alone.rows, alone.notes) == (4, ())
    with pytest.raises(DatasetError, match=r"in/none-\*\.parquet matches no file$"):
        pack(f"{tmp_path}/in/none-*.parquet", str(tmp_path / "none"))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    hugging_face(tmp_path / "in/a.parquet", 0, 2)
    with pytest.raises(DatasetError, match=r"column 'label' is int64; images are binary, or a struct with bytes$"):
        pack(str(tmp_path / "in"), str(tmp_path / "out"), image_column="label")
    with pytest.raises(OutputError, match=r"packed: lies inside .*in; name another folder for the shards$"):
        pack(str(tmp_path / "in"), str(tmp_path / "in/packed"))
    hugging_face(tmp_path / "in/b.parquet", 0, 2, label=pa.array([1.0, 2.0]))
    with pytest.raises(DatasetError, match=r"^b\.parquet: column 'label' is double, but int64 in a\.parquet; pack"):
        pack(str(tmp_path / "in"), str(tmp_path / "out"))
    shard(tmp_path / "two/a.parquet", [png(0)], mask=[b"x"])
    assert pack(str(tmp_path / "two"), str(tmp_path / "masked")).rows == 1
    pq.write_table(pa.table({"left": [b"x"], "right": [b"y"]}), tmp_path / "two/a.parquet")
    with pytest.raises(DatasetError, match=r"more than one column may be the images \(it has 'left', 'right'\)"):
        pack(str(tmp_path / "two"), str(tmp_path / "out"))
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(DatasetError, match=r"text\.parquet is not a readable Parquet file"):
        pack(str(tmp_path / "text.parquet"), str(tmp_path / "out"))


def test_an_interrupted_pack_of_parquet_goes_on(tmp_path: Path) -> None:
    hugging_face(tmp_path / "in/a.parquet", 0, 9, row_group=5)

    class Stop(BaseException):
        pass

    def stop(done: int, total: int | None) -> None:
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        pack(str(tmp_path / "in"), str(tmp_path / "out"), shard_rows=2, on_progress=stop)
    assert len(contents(tmp_path / "out")) == 2
    pack(str(tmp_path / "in"), str(tmp_path / "out"), shard_rows=2)
    pack(str(tmp_path / "in"), str(tmp_path / "other"), shard_rows=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")
