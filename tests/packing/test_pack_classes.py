"""Classes of ImageNet's kind: synsets, indices, names, from folders, tars and Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcace_dist.errors import DatasetError
from pcace_dist.packing.class_names import read_class_names
from pcace_dist.packing.pack import pack
from pcace_dist.storage.files import Storage
from tests.datasets.helpers import picture, png, shard
from tests.packing.test_pack import table, tar

LIST = "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\nn01484850 great white shark\n"


def synsets(root: Path, names: tuple[str, ...] = ("n01443537", "n01484850")) -> Path:
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        picture(i).save(root / name / f"{name}_{i}.png")
    return root


def columns(dest: Path) -> list[list[Any]]:
    packed = table(dest)
    return [[row[name] for name in packed.column_names if name != "image"] for row in packed.to_pylist()]


def test_synset_folders_without_a_list_are_numbered_and_that_is_said(tmp_path: Path) -> None:
    report = pack(str(synsets(tmp_path / "train")), str(tmp_path / "out"))
    assert table(tmp_path / "out").column_names == ["image", "label", "synset", "class"]
    assert columns(tmp_path / "out") == [[0, "n01443537", "n01443537"], [1, "n01484850", "n01484850"]]
    assert "labels number the 2 folders" in report.notes[0]


@pytest.mark.parametrize("place", ["", "../", "../../../"])
def test_imagenets_own_list_is_found_beside_or_above_and_gives_the_networks_indices(tmp_path: Path, place: str) -> None:
    source = synsets(tmp_path / "ILSVRC/Data/CLS-LOC/train")
    (source / place / "LOC_synset_mapping.txt").resolve().write_text(LIST)
    report = pack(str(source), str(tmp_path / "out"))
    assert columns(tmp_path / "out") == [
        [1, "n01443537", "goldfish, Carassius auratus"],
        [2, "n01484850", "great white shark"],
    ]
    assert report.notes[0].startswith("class names and indices are those of ")
    names = json.loads(table(tmp_path / "out").schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    assert names[0] == "tench, Tinca tinca"


def test_a_list_that_is_given_wins_and_must_have_every_folder(tmp_path: Path) -> None:
    source = synsets(tmp_path / "in")
    (tmp_path / "list.txt").write_text(LIST)
    pack(str(source), str(tmp_path / "out"), classes=str(tmp_path / "list.txt"))
    assert [row[0] for row in columns(tmp_path / "out")] == [1, 2]
    synsets(source, ("n99999999",))
    with pytest.raises(DatasetError, match=r"the folder 'n99999999' is no class of .*list\.txt; name the list"):
        pack(str(source), str(tmp_path / "two"), classes=str(tmp_path / "list.txt"))


def test_a_list_of_names_numbers_folders_of_these_names(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        picture(1).save(tmp_path / "in" / name / "0.png")
    (tmp_path / "list.txt").write_text("dog\nbird\ncat\n")
    pack(str(tmp_path / "in"), str(tmp_path / "out"), classes=str(tmp_path / "list.txt"))
    assert columns(tmp_path / "out") == [[2, "cat"], [0, "dog"]]


def test_tars_and_parquet_get_the_class_columns_by_label(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(LIST)
    tar(tmp_path / "a.tar", {"1.png": png(1), "1.cls": b"2", "2.png": png(2), "2.cls": b"7"})
    pack(str(tmp_path / "a.tar"), str(tmp_path / "one"), classes=str(tmp_path / "list.txt"))
    assert columns(tmp_path / "one") == [[2, "n01484850", "great white shark"], [7, None, None]]
    shard(tmp_path / "in/a.parquet", [png(0), png(1)], label=[0, -1])
    pack(str(tmp_path / "in"), str(tmp_path / "two"), classes=str(tmp_path / "list.txt"))
    assert columns(tmp_path / "two") == [[0, "n01440764", "tench, Tinca tinca"], [-1, None, None]]


def test_imagenets_tars_of_one_class_each_are_labelled_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/LOC_synset_mapping.txt").write_text(LIST)
    for name in ("n01440764", "n01484850"):
        tar(tmp_path / f"in/{name}.tar", {f"{name}_{i}.JPEG": png(i) for i in range(2)})
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    assert [row[0] for row in columns(tmp_path / "out")] == [0, 0, 2, 2]
    assert table(tmp_path / "out")["image"][0].as_py()["path"] == "n01440764.tar/n01440764_0.jpeg"
    assert report.kind == "webdataset"


def test_splits_taken_for_classes_are_said(tmp_path: Path) -> None:
    for name in ("train", "val"):
        synsets(tmp_path / "in" / name)
    (note,) = pack(str(tmp_path / "in"), str(tmp_path / "out")).notes
    assert note == f"the classes are train, val; for one of these alone name {tmp_path}/in/train"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a line for each class is needed"),
        ("n01440764 a\nn01440764 b\n", "n01440764 is listed more than once$"),
        ('{"1": ["n01440764", "tench"]}', "is not a list of classes like "),
        (None, "no such file$"),
    ],
)
def test_lists_that_will_not_do(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "list").write_text(text)
    with pytest.raises(DatasetError, match=f"^--classes {tmp_path}/list: {message}"):
        read_class_names(str(tmp_path / "list"), Storage())


def test_lists_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"1": ["n02", "b"], "0": ["n01", "a"]}')
    (tmp_path / "ids.txt").write_text("n01440764\nn01443537\n")
    names = read_class_names(str(tmp_path / "keras.json"), Storage())
    assert (names.names, names.synsets) == (("a", "b"), ("n01", "n02"))
    assert read_class_names(str(tmp_path / "ids.txt"), Storage()).names == ("n01440764", "n01443537")


def test_a_list_needs_labels_and_free_columns(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(LIST)
    shard(tmp_path / "one/a.parquet", [png(0)])
    with pytest.raises(DatasetError, match=r"--classes needs a column 'label' with class indices; there is none$"):
        pack(str(tmp_path / "one"), str(tmp_path / "out"), classes=str(tmp_path / "list.txt"))
    shard(tmp_path / "two/a.parquet", [png(0)], label=[0], synset=["x"])
    with pytest.raises(DatasetError, match=r"has a column 'synset' already; leave --classes out, or rename it$"):
        pack(str(tmp_path / "two"), str(tmp_path / "out"), classes=str(tmp_path / "list.txt"))
