"""Nothing is left out without a word: what is packed and what is left out by reason are all files of the source."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcace_dist.datasets.images import image_size
from pcace_dist.datasets.paths import by_reason, utf8_name
from pcace_dist.errors import DatasetError, RowError
from pcace_dist.packing.pack import PackReport, pack
from pcace_dist.packing.source import Reading
from tests.datasets.helpers import encoded, picture, png
from tests.packing.test_pack import table, tar

ALLOW = Reading(allow_empty_classes=True)
CONTENTS = {
    "png": png(1),
    "jpeg": encoded(picture(2), "JPEG"),
    "gif": encoded(picture(3), "GIF"),
    "webp": encoded(picture(4), "WEBP"),
    "bmp": encoded(picture(5), "BMP"),
    "pgm": encoded(picture(6, mode="L"), "PPM"),
    "text": b"no image at all",
    "zeros": bytes(600),
    "empty": b"",
}
IMAGES = ("png", "jpeg", "gif", "webp", "bmp", "pgm")


def paths(dest: Path) -> list[str]:
    return [row["path"] for row in table(dest)["image"].to_pylist()]


def labels(dest: Path) -> dict[str, int]:
    classes: dict[str, int] = json.loads((dest / "_pack.json").read_text())["classes"]
    return classes


def images(folder: Path, count: int = 2, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}{suffix}").write_bytes(png(i))


# -- random sources against a plain walk


@dataclass(frozen=True)
class Entry:
    """A file of a random tree, or a link in its place."""

    folders: tuple[str, ...]
    name: str
    content: str
    link: str | None = None  # dangling, inside, outside


NAMES = st.sampled_from(
    ["a", "B", "_DSC1", ".x", "a.b", "x y", "img[1]", "*", "caf\udce9", "n\\xe9", "ü", "Thumbs", "0", "10", "2"]
)
SUFFIXES = st.sampled_from(
    ["", ".jpg", ".JPG", ".jfif", ".PnG", ".txt", ".tiff", ".webp", ".cr2", ".avif", ".json", "."]
)
FOLDERS = st.sampled_from(["cat", "dog", "_background_", ".git", "Ente", "10", "a.b", "caf\udce9"])
ENTRIES = st.builds(
    lambda folders, name, suffix, content, link: Entry(tuple(folders), name + suffix, content, link),
    st.lists(FOLDERS, max_size=3),
    NAMES,
    SUFFIXES,
    st.sampled_from(list(CONTENTS)),
    st.sampled_from([None] * 6 + ["dangling", "inside", "outside"]),
)


def grow(root: Path, entries: list[Entry], empty: list[str], linked: bool) -> None:
    """The tree below root/photos; root/elsewhere is beside it."""
    images(root / "elsewhere", 1)
    source = root / "photos"
    source.mkdir()
    for entry in entries:
        folder = source.joinpath(*entry.folders)
        path = folder / entry.name
        if path.is_symlink() or path.exists() or any(p.is_file() or p.is_symlink() for p in (folder, *folder.parents)):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if entry.link is None:
            path.write_bytes(CONTENTS[entry.content])
        elif entry.link == "inside":
            (folder / "real.png").write_bytes(png(3))
            path.symlink_to("real.png")
        else:
            path.symlink_to("nowhere" if entry.link == "dangling" else root / "elsewhere/0.png")
    for name in empty:
        if not (source / name).is_symlink() and not (source / name).exists():
            (source / name).mkdir()
    if linked and not (source / "linked").exists():
        (source / "linked").symlink_to("../elsewhere")


def walked(source: Path) -> list[str]:
    """Every file, link to a file or link to nothing, by the plainest walk."""
    return [
        utf8_name(os.path.relpath(os.path.join(folder, name), source))
        for folder, _, names in os.walk(source, followlinks=True)
        for name in names
    ]


def class_folders(source: Path) -> list[str]:
    """As ImageFolder finds them, without hidden ones, and links that may have been one."""
    folders = [entry.name for entry in os.scandir(source) if entry.is_dir()]
    away = [e.name for e in os.scandir(source) if "." not in e.name and not os.path.exists(e.path)]
    return sorted(name for name in folders + away if not name.startswith("."))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(ENTRIES, max_size=12),
    st.lists(st.sampled_from(["eel", "_none", "zebra"]), max_size=2, unique=True),
    st.booleans(),
)
def test_a_folders_files_are_packed_or_left_out_by_reason(entries: list[Entry], empty: list[str], linked: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        grow(root, entries, empty, linked)
        source, dest = root / "photos", root / "out"
        try:
            report = pack(
                str(source), str(dest), kind="folder", reading=Reading(labels="order", allow_empty_classes=True)
            )
        except DatasetError as error:
            assert any(words in str(error) for words in ("holds no image", "nothing could be packed", "no such file"))
            return
        packed = paths(dest)
        assert sorted(packed + [bad.name for bad in report.bad]) == sorted(walked(source))
        assert report.rows == len(packed)
        left_out = json.loads((dest / "_pack.json").read_text())["left_out"]
        assert left_out == by_reason(report.bad) and sum(map(len, left_out.values())) == len(report.bad)
        if labels(dest):
            assert list(labels(dest)) == [utf8_name(name) for name in class_folders(source)]
            assert sorted(labels(dest).values()) == list(range(len(labels(dest))))
        for row in table(dest).to_pylist():
            assert row["image"]["bytes"] in [CONTENTS[kind] for kind in IMAGES] + [png(0), png(3)]
            if labels(dest):
                assert row["label"] == labels(dest)[row["image"]["path"].partition("/")[0]]


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c/a", "./d", "_e", ".f", "g\udce9"]),
        st.sampled_from([".jpg", ".png", ".cls", ".txt", ".json", ".depth.png", ".npy", "", ".JPG"]),
        st.sampled_from(["png", "jpeg", "text", "empty"]),
        st.sampled_from([tarfile.REGTYPE] * 5 + [tarfile.SYMTYPE, tarfile.DIRTYPE]),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=40, deadline=None)
@given(MEMBERS, st.booleans())
def test_a_tars_members_are_packed_or_left_out_by_reason(
    members: list[tuple[str, str, str, bytes]], in_order: bool
) -> None:
    members = sorted(members, key=lambda member: member[0]) if in_order else members
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with tarfile.open(root / "t.tar", "w", format=tarfile.GNU_FORMAT) as file:
            for stem, suffix, content, kind in members:
                info = tarfile.TarInfo(stem + suffix)
                data = {".cls": b"1", ".json": b"{}", ".txt": b"x"}.get(suffix, CONTENTS[content])
                info.type, info.size = kind, len(data) if kind == tarfile.REGTYPE else 0
                file.addfile(info, io.BytesIO(data))
        try:
            report = pack(str(root / "t.tar"), str(root / "out"))
        except DatasetError as error:
            assert any(
                words in str(error)
                for words in (
                    "several images",
                    "follow one another",
                    "no sample with an image",
                    "nothing could be packed",
                )
            )
            assert "follow one another" not in str(error) or not in_order
            return
        left_out = Counter(bad.name for bad in report.bad)
        packed = paths(root / "out")
        assert report.rows == len(packed)
        for stem, suffix, _, kind in members:
            if kind == tarfile.DIRTYPE:
                continue
            sample = f"t.tar/{utf8_name(stem)}"
            texts = suffix in (".cls", ".txt", ".json") and any(
                p == sample or p.startswith(f"{sample}.") for p in (*packed, *left_out)
            )
            image = sample + suffix.lower() in packed
            named = {sample, sample + suffix, sample + suffix.lower()} & set(left_out)
            assert texts or image or named, (stem, suffix)


# -- names


@pytest.mark.parametrize(
    "name", ["_DSC0001.JPG", "_MG_1.jpg", "x.jfif", "x.jpe", "X.PNG", "x.unknown", "nothing", "._.jpg"]
)
def test_an_image_is_packed_whatever_its_name_unless_that_is_hidden(tmp_path: Path, name: str) -> None:
    images(tmp_path / "in/cat", 1)
    (tmp_path / "in/cat" / name).write_bytes(encoded(picture(2), "JPEG"))
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    hidden = name.startswith(".")
    assert (f"cat/{name}" in paths(tmp_path / "out")) is not hidden
    assert [bad.name for bad in report.bad] == ([f"cat/{name}"] if hidden else [])


@pytest.mark.parametrize(
    ("kind", "suffix"), [("AVIF", ".avif"), ("JPEG2000", ".jp2"), ("ICO", ".ico"), ("PPM", ".bin")]
)
def test_a_format_is_packed_where_a_run_can_decode_it_and_else_named(tmp_path: Path, kind: str, suffix: str) -> None:
    images(tmp_path / "in", 1)
    data = encoded(picture(1, 32, 32), kind)
    (tmp_path / f"in/x{suffix}").write_bytes(data)
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    try:
        image_size(data)
    except RowError:
        (bad,) = report.bad
        assert bad.name == f"x{suffix}" and bad.reason.replace(" ", "").startswith(f"{kind},whichthisversion")
    else:
        assert paths(tmp_path / "out") == ["0.png", f"x{suffix}"]


def test_images_that_only_their_bytes_show_are_named(tmp_path: Path) -> None:
    images(tmp_path / "in", 1)
    (tmp_path / "in/a.jpg_original").write_bytes(encoded(picture(2), "JPEG"))
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    assert report.notes == ("images that only their first bytes show: a.jpg_original",)


def test_a_cameras_raw_file_beside_its_jpeg_is_no_second_image(tmp_path: Path) -> None:
    images(tmp_path / "in", 1)
    (tmp_path / "in/0.CR2").write_bytes(encoded(picture(2), "TIFF"))
    assert [str(bad) for bad in pack(str(tmp_path / "in"), str(tmp_path / "out")).bad] == ["0.CR2: a camera's raw file"]


def test_names_of_other_bytes_than_utf8_are_written_so_that_none_is_like_another(tmp_path: Path) -> None:
    folder = tmp_path / "in/gr\udcfcn"
    images(folder, 1)
    for name in ("caf\udce9.png", "caf\\xe9.png", "caf\\\udce9.png"):
        (folder / name).write_bytes(png(1))
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    names = [path.partition("/")[2] for path in paths(tmp_path / "out")]
    assert names == ["0.png", "caf\\\\xe9.png", "caf\\\\\\xe9.png", "caf\\xe9.png"]
    assert labels(tmp_path / "out") == {"gr\\xfcn": 0}
    assert report.notes[0].startswith("names that are not UTF-8 are written so: gr\\xfcn/")


def test_a_folder_with_brackets_in_its_name_is_a_folder(tmp_path: Path) -> None:
    images(tmp_path / "set[12]", 1)
    images(tmp_path / "set1", 2)
    assert pack(str(tmp_path / "set[12]"), str(tmp_path / "out")).rows == 1
    assert pack(str(tmp_path / "set[12]*"), str(tmp_path / "glob")).rows == 2


@pytest.mark.parametrize("name", ["A.PARQUET", "a.pq", "a.parq", "part-00000", "a.parquet.tmp"])
def test_parquet_is_known_by_its_name_or_its_first_bytes(tmp_path: Path, name: str) -> None:
    images(tmp_path / "photos", 3)
    pack(str(tmp_path / "photos"), str(tmp_path / "one"))
    (tmp_path / "in").mkdir()
    (tmp_path / "one/part-00000.parquet").rename(tmp_path / "in" / name)
    (tmp_path / "in/_SUCCESS").touch()
    shutil.copy(tmp_path / "in" / name, tmp_path / "in/_metadata")
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    assert (report.kind, report.rows) == ("parquet", 3)
    assert [bad.name for bad in report.bad] == ["_SUCCESS", "_metadata"]


def test_a_file_that_is_named_is_packed_whatever_its_name(tmp_path: Path) -> None:
    images(tmp_path / "photos", 3)
    pack(str(tmp_path / "photos"), str(tmp_path / "one"))
    named = tmp_path / "_part\udce9.parquet"
    (tmp_path / "one/part-00000.parquet").rename(named)
    report = pack(str(named), str(tmp_path / "out"))
    assert (report.rows, report.bad) == (3, ())


@pytest.mark.parametrize(
    ("reading", "option"),
    [
        (Reading(image_key="jpg"), "--image-key is for webdataset"),
        (Reading(encoding="latin-1"), "--encoding is for csv"),
        (Reading(types={"x": "text"}), "--type is for csv"),
        (Reading(allow_outside=True), "--allow-outside is for csv"),
    ],
)
def test_what_is_told_of_another_kind_of_source_is_refused(tmp_path: Path, reading: Reading, option: str) -> None:
    images(tmp_path / "in/cat")
    with pytest.raises(DatasetError, match=rf"^{option}; .*in is packed as folder$"):
        pack(str(tmp_path / "in"), str(tmp_path / "out"), reading=reading)


# -- links


def test_links_to_folders_and_files_are_followed_and_those_that_lead_out_are_named(tmp_path: Path) -> None:
    images(tmp_path / "in/ant")
    images(tmp_path / "elsewhere/bee")
    (tmp_path / "in/bee").symlink_to("../elsewhere/bee")
    (tmp_path / "in/ant/inner.png").symlink_to("0.png")
    (tmp_path / "in/ant/outer.png").symlink_to("../../elsewhere/bee/0.png")
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    assert report.rows == 6 and report.bad == () and labels(tmp_path / "out") == {"ant": 0, "bee": 1}
    assert report.notes == (
        "linked folders that are followed: bee -> ../elsewhere/bee",
        f"linked files from outside {tmp_path / 'in'}: ant/outer.png",
    )


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    images(tmp_path / "in/ant")
    images(tmp_path / "in/bee")
    (tmp_path / "in/ant/up").symlink_to("..")
    (tmp_path / "in/ant/over").symlink_to("../bee")
    (tmp_path / "in/bee/back").symlink_to("../ant")
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    assert Counter(bad.reason for bad in report.bad) == {"link back to a folder above it": 4}
    assert {"ant/0.png", "ant/over/1.png", "bee/back/0.png"} <= set(paths(tmp_path / "out"))


def test_a_link_to_what_is_no_image_is_never_packed(tmp_path: Path) -> None:
    images(tmp_path / "in/ant")
    (tmp_path / "in/ant/passwd.jpg").symlink_to("/etc/passwd")
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    assert [str(bad) for bad in report.bad] == ["ant/passwd.jpg: not an image"]


def test_pipes_and_sockets_are_left_out_and_not_opened(tmp_path: Path) -> None:
    images(tmp_path / "in")
    os.mkfifo(tmp_path / "in/pipe.png")
    assert [str(bad) for bad in pack(str(tmp_path / "in"), str(tmp_path / "out")).bad] == [
        "pipe.png: not a regular file"
    ]


# -- classes


def test_an_empty_class_folder_keeps_its_index_and_that_is_said(tmp_path: Path) -> None:
    images(tmp_path / "in/ant")
    images(tmp_path / "in/cat")
    (tmp_path / "in/bee").mkdir()
    (tmp_path / "in/bee/.gitkeep").touch()
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
    assert labels(tmp_path / "out") == {"ant": 0, "bee": 1, "cat": 2}
    assert table(tmp_path / "out")["label"].to_pylist() == [0, 0, 2, 2]
    assert report.notes == ("the class 'bee' has no image; it keeps its label 1",)


def lost(tmp_path: Path, how: str) -> Path:
    """ant, bee and cat; nothing of bee can be packed."""
    source = tmp_path / "in"
    images(source / "ant")
    images(source / "cat")
    if how == "linked":
        (source / "bee").symlink_to("../unmounted/bee")
        return source
    (source / "bee").mkdir()
    if how == "dangling":
        (source / "bee/0.jpg").symlink_to("../../annex/0")
    elif how == "text":
        (source / "bee/notes.txt").write_text("bees")
    elif how == "broken":
        (source / "bee/0.jpg").write_text("not an image")
    return source


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("linked", "1 link to nothing"),
        ("dangling", "1 link to nothing"),
        ("text", "1 not an image"),
        ("broken", "1 not an image"),
    ],
)
def test_a_class_is_lost_only_where_that_is_asked_for(tmp_path: Path, how: str, why: str) -> None:
    source, dest = lost(tmp_path, how), tmp_path / "out"
    message = rf"^{source}: no file of the class 'bee' \(label 1\) can be packed: {why}; .* with --allow-empty-classes$"
    with pytest.raises(DatasetError, match=message):
        pack(str(source), str(dest))
    assert not (dest / "_pack.json").exists() or not json.loads((dest / "_pack.json").read_text())["complete"]
    report = pack(str(source), str(dest), reading=ALLOW)
    assert report.rows == 4 and labels(dest) == {"ant": 0, "bee": 1, "cat": 2}
    assert table(dest)["label"].to_pylist() == [0, 0, 2, 2]
    assert json.loads((dest / "_pack.json").read_text())["complete"]


@pytest.mark.parametrize("numbering", [None, "number", "order"])
def test_folders_called_0_to_11_are_their_own_numbers_unless_told(tmp_path: Path, numbering: str | None) -> None:
    for number in range(12):
        images(tmp_path / f"in/{number}", 1)
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"), reading=Reading(labels=numbering))
    classes = labels(tmp_path / "out")
    assert classes == ({"0": 0, "1": 1, "10": 2} | classes if numbering == "order" else {str(i): i for i in range(12)})
    told = "'10' is 2; with --labels number it is 10" if numbering == "order" else "ImageFolder sorts them as text"
    assert told in report.notes[0]
    rows = table(tmp_path / "out").to_pylist()
    assert all(row["label"] == classes[row["class"]] for row in rows)


@pytest.mark.parametrize(
    ("folders", "by_default", "by_number"),
    [
        (["1", "2", "3"], [0, 1, 2], [1, 2, 3]),
        (["2019", "2020"], [0, 1], [2019, 2020]),
        (["00", "01", "02"], [0, 1, 2], [0, 1, 2]),
        (["1", "2", "10"], None, [1, 2, 10]),
        (["0", "5", "17"], None, [0, 5, 17]),
    ],
)
def test_other_numbers_are_sorted_or_a_question(
    tmp_path: Path, folders: list[str], by_default: list[int] | None, by_number: list[int]
) -> None:
    for name in folders:
        images(tmp_path / "in" / name, 1)
    if by_default is None:
        with pytest.raises(
            DatasetError, match=r"class folders are numbers .* say --labels number .* or --labels order"
        ):
            pack(str(tmp_path / "in"), str(tmp_path / "out"))
    else:
        report = pack(str(tmp_path / "in"), str(tmp_path / "out"))
        assert [labels(tmp_path / "out")[name] for name in folders] == by_default
        assert report.notes
    pack(str(tmp_path / "in"), str(tmp_path / "two"), reading=Reading(labels="number"))
    assert [labels(tmp_path / "two")[name] for name in folders] == by_number
    names = table(tmp_path / "two").to_pylist()
    assert {row["class"]: row["label"] for row in names} == dict(zip(folders, by_number, strict=True))


def test_a_name_that_is_no_number_has_none(tmp_path: Path) -> None:
    for name in ("0", "1", "x"):
        images(tmp_path / "in" / name, 1)
    with pytest.raises(DatasetError, match=r"^--labels number: the folder 'x' of .* is no number of its own$"):
        pack(str(tmp_path / "in"), str(tmp_path / "out"), reading=Reading(labels="number"))
    assert pack(str(tmp_path / "in"), str(tmp_path / "out")).notes == ()


def test_numbered_folders_take_the_names_of_a_list_by_index(tmp_path: Path) -> None:
    for name in ("0", "2", "10"):
        images(tmp_path / "in" / name, 1)
    (tmp_path / "list.txt").write_text("\n".join(f"n{i:08d} name {i}" for i in range(12)))
    pack(str(tmp_path / "in"), str(tmp_path / "out"), classes=str(tmp_path / "list.txt"))
    rows = table(tmp_path / "out").to_pylist()
    assert {(row["label"], row["class"]) for row in rows} == {(0, "name 0"), (2, "name 2"), (10, "name 10")}


# -- what the source is


def test_tars_beside_images_are_a_question(tmp_path: Path) -> None:
    images(tmp_path / "in/cat")
    tar(tmp_path / "in/backup.tar", {"1.png": png(1)})
    with pytest.raises(DatasetError, match=r"holds 2 images and 1 tar files; say which to pack with --kind folder or"):
        pack(str(tmp_path / "in"), str(tmp_path / "out"))
    report: PackReport = pack(str(tmp_path / "in"), str(tmp_path / "out"), kind="folder")
    assert report.rows == 2 and [str(bad) for bad in report.bad] == ["backup.tar: not an image (.tar)"]


def test_the_shards_may_not_lie_among_the_classes(tmp_path: Path) -> None:
    images(tmp_path / "in/cat")
    with pytest.raises(Exception, match=r"lies inside .*; name another folder for the shards$"):
        pack(str(tmp_path / "in"), str(tmp_path / "in/shards"))


# -- tars


def depth(order: tuple[str, ...] = (".cls", ".depth.png", ".jpg")) -> dict[str, bytes]:
    found = {".cls": b"3", ".depth.png": png(9), ".jpg": encoded(picture(1), "JPEG"), ".png": png(2)}
    return {f"{i}{suffix}": found[suffix] for i in range(3) for suffix in order}


def test_the_image_of_a_sample_is_the_member_without_a_further_dot(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", depth())
    report = pack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert paths(tmp_path / "out") == [f"a.tar/{i}.jpg" for i in range(3)]
    reasons = by_reason(report.bad)
    assert reasons == {"a member that is not the image, cls, txt or json": [f"a.tar/{i}.depth.png" for i in range(3)]}


def test_two_images_in_a_sample_are_a_question_with_an_answer(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", depth((".cls", ".jpg", ".png")))
    with pytest.raises(
        DatasetError, match=r"^a\.tar/0: several images in the sample \(jpg, png\); choose it with --image"
    ):
        pack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    for key, suffix in (("jpg", "jpg"), ("png", "png"), ("webp;png", "png")):
        dest = tmp_path / f"out-{suffix}-{len(key)}"
        pack(str(tmp_path / "a.tar"), str(dest), reading=Reading(image_key=key))
        assert paths(dest) == [f"a.tar/{i}.{suffix}" for i in range(3)]
    tar(tmp_path / "b.tar", depth())
    pack(str(tmp_path / "b.tar"), str(tmp_path / "depth"), reading=Reading(image_key="depth.png"))
    assert paths(tmp_path / "depth") == [f"b.tar/{i}.depth.png" for i in range(3)]


def test_labels_after_all_images_are_refused(tmp_path: Path) -> None:
    members = {f"{i}.jpg": png(i) for i in range(3)} | {f"{i}.cls": b"1" for i in range(3)}
    tar(tmp_path / "a.tar", members)
    with pytest.raises(
        DatasetError, match=r"^a\.tar: the members of sample '0' do not follow one another; sort the tar"
    ):
        pack(str(tmp_path / "a.tar"), str(tmp_path / "out"))


def test_a_sample_name_ends_at_its_first_dot_and_that_is_said(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"img.2019.jpg": png(0), "img.2019.cls": b"1", "other.2019.jpg": png(1)})
    report = pack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert report.notes == ("a sample's name ends at its first dot: 'img' has the image '.2019.jpg'",)
    assert [bad.name for bad in report.bad] == ["a.tar/img.2019.cls"]
    tar(tmp_path / "b.tar", {"img.1.jpg": png(0), "img.2.jpg": png(1)})
    with pytest.raises(DatasetError, match=r"b\.tar/img: several images in the sample \(1\.jpg, 2\.jpg\)"):
        pack(str(tmp_path / "b.tar"), str(tmp_path / "two"))


def test_values_of_a_samples_json_that_are_not_packed_are_named(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.jpg": png(0), "1.json": b'{"no2": 1.5, "boxes": [1], "by": {"who": 1}}'})
    report = pack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert report.notes == ("lists and objects of .json are not packed: boxes, by",)
    assert table(tmp_path / "out").column_names == ["image", "no2"]


def test_member_names_of_other_bytes_and_images_without_a_suffix(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"caf\udce9.png": png(0), "caf\udce9.cls": b"1", "x.img": png(1), "x.cls": b"2"})
    pack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert paths(tmp_path / "out") == ["a.tar/caf\\xe9.png", "a.tar/x.img"]
    assert table(tmp_path / "out")["label"].to_pylist() == [1, 2]


# -- what a CSV may name


@pytest.mark.parametrize("path", ["/etc/passwd", "../../x.png", "s3://bucket/x.png", "cat/../../x.png"])
def test_a_csv_names_no_file_outside_its_folder_unless_allowed(tmp_path: Path, path: str) -> None:
    images(tmp_path / "in", 1)
    (tmp_path / "in/list.csv").write_text(f"image\n0.png\n{path}\n")
    with pytest.raises(
        DatasetError, match=r"1 of 2 rows name files outside .*, the first is row 1: .*; --allow-outside"
    ):
        pack(str(tmp_path / "in/list.csv"), str(tmp_path / "out"))


def test_paths_that_look_like_numbers_are_paths(tmp_path: Path) -> None:
    images(tmp_path / "in", 2, "")
    (tmp_path / "in/list.csv").write_text("image,y\n0,1\n1,2\n\0,3\n")
    report = pack(str(tmp_path / "in/list.csv"), str(tmp_path / "out"))
    assert paths(tmp_path / "out") == ["0", "1"] and table(tmp_path / "out")["y"].to_pylist() == [1, 2]
    assert [bad.reason for bad in report.bad] == ["names no image"]


@pytest.mark.parametrize("text", [b"[" * 5000, b"[1]", b"\xff", b"", b"null"])
def test_a_json_that_is_no_object_leaves_its_sample_out(tmp_path: Path, text: bytes) -> None:
    tar(tmp_path / "a.tar", {"1.jpg": png(0), "2.jpg": png(1), "2.json": text})
    report = pack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert report.rows == 1 and list(by_reason(report.bad).items()) == [("unreadable cls, txt or json", ["a.tar/2"])]


def test_a_number_that_no_column_holds_stays_text(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.jpg": png(0), "1.json": b'{"n": %d}' % 2**70})
    pack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert table(tmp_path / "out")["n"].to_pylist() == [str(2**70)]


def test_what_is_allowed_outside_must_still_be_an_image(tmp_path: Path) -> None:
    images(tmp_path / "elsewhere", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/list.csv").write_text("image\n../elsewhere/0.png\n/etc/passwd\n")
    report = pack(str(tmp_path / "in/list.csv"), str(tmp_path / "out"), reading=Reading(allow_outside=True))
    assert paths(tmp_path / "out") == ["../elsewhere/0.png"]
    assert [str(bad) for bad in report.bad] == ["/etc/passwd: not an image"]
