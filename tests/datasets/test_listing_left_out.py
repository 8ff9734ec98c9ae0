"""What of a folder is data and what is not: nothing that lies there goes unmentioned."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcace_dist.datasets.listing import Listing, find_files, list_dataset, would_list
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Storage, StoredFile
from tests.datasets.helpers import encoded, listed, picture, png, shard, spec_of


def listing(path: Path | str, **changes: Any) -> Listing:
    return list_dataset(spec_of(path, **changes), Storage())


def keys(path: Path | str) -> list[str]:
    return [file.key for file in listing(path).files]


def left_out(path: Path | str) -> dict[str, tuple[str, ...]]:
    return {entry.reason: entry.names for entry in listing(path).left_out}


def refusal(path: Path | str, **changes: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        listing(path, **changes)
    return str(caught.value)


# -- what is Parquet


@pytest.mark.parametrize("name", ["a.parquet", "a.PARQUET", "a.parq", "a.pq", "a.Pq", "part-00000", "part-00000-c000"])
def test_parquet_by_its_suffix_in_any_case_and_without_one_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    shard(tmp_path / name, [png(0)])
    assert keys(tmp_path) == [name]
    assert left_out(tmp_path) == {}


def test_other_files_are_counted_by_reason_and_named(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0)])
    for name in ("notes.txt", "deep/labels.json", "LICENSE", "_SUCCESS", ".a.parquet.crc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert left_out(tmp_path) == {
        "not a Parquet file": ("LICENSE", "deep/labels.json", "notes.txt"),
        "hidden": (".a.parquet.crc", "_SUCCESS"),
    }
    assert [entry.usual for entry in listing(tmp_path).left_out] == [False, True]


def test_parquet_that_is_hidden_is_no_usual_thing(tmp_path: Path) -> None:
    for name in ("a.parquet", "_b.parquet", "_old/c.parquet", ".d.parquet"):
        shard(tmp_path / name, [png(0)])
    assert keys(tmp_path) == ["a.parquet"]
    (entry,) = listing(tmp_path).left_out
    assert (entry.reason, entry.files, entry.usual) == ("hidden", 3, False)
    assert str(entry) == "3 hidden (.d.parquet, _b.parquet, _old/c.parquet)"


def test_many_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0)])
    for number in range(12):
        (tmp_path / f"{number:02d}.txt").touch()
    (entry,) = listing(tmp_path).left_out
    assert str(entry) == "12 not a Parquet file (00.txt, 01.txt, 02.txt, 03.txt, 04.txt and 7 more)"


def test_a_folder_of_images_says_how_to_pack_them(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(picture(number), "JPEG"))
    assert refusal(tmp_path) == (
        f"dataset.path: {tmp_path} holds no Parquet file (.parquet, .parq or .pq): 3 not a Parquet file; "
        f"`pcace pack {tmp_path} DEST` makes Parquet files of what is there"
    )


class Refusing(Storage):
    """May not read the first bytes of one file."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def open(self, url: str) -> pa.NativeFile:
        if url.endswith(self.name):
            raise PermissionError(f"{url}: permission denied")
        return super().open(url)


def test_a_file_without_a_suffix_that_may_not_be_read_is_refused_unless_it_would_be_left_out(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0)])
    shard(tmp_path / "part-00001", [png(1)])
    with pytest.raises(DatasetError, match=rf"^dataset.path: {tmp_path}/part-00001: permission denied$"):
        list_dataset(spec_of(tmp_path), Refusing("part-00001"))
    shard(tmp_path / "_metadata", [png(2)])
    listed = list_dataset(spec_of(tmp_path), Refusing("_metadata"))
    assert [file.key for file in listed.files] == ["a.parquet", "part-00001"]
    named = list_dataset(spec_of(tmp_path / "part-*"), Refusing("part-00001"))
    assert [file.key for file in named.files] == ["part-00001"], "a file that the job names is Parquet anyway"


# -- links


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    shard(tmp_path / "elsewhere" / "b.parquet", [png(0)])
    shard(tmp_path / "data" / "a.parquet", [png(1)])
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    assert keys(tmp_path / "data") == ["a.parquet", "linked/b.parquet"]


def test_a_file_under_two_names_counts_once_under_its_own(tmp_path: Path) -> None:
    shard(tmp_path / "z" / "a.parquet", [png(0)])
    (tmp_path / "b").symlink_to("z")
    (tmp_path / "a.parquet").symlink_to("z/a.parquet")
    assert keys(tmp_path) == ["z/a.parquet"], "as 0.1.0 named it, which followed no linked folder"
    assert left_out(tmp_path) == {"listed under another name too": ("a.parquet", "b/a.parquet")}


def test_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    shard(tmp_path / "a" / "a.parquet", [png(0)])
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert keys(tmp_path) == ["a/a.parquet"]
    assert list(left_out(tmp_path)) == ["link back to a folder above it"]


def test_a_link_of_parquet_that_is_away_is_refused(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [png(0)])
    (tmp_path / "b.parquet").symlink_to("/nowhere/b.parquet")
    assert "b.parquet: link to nothing (/nowhere/b.parquet); repair or remove it" in refusal(tmp_path)


# -- brackets and globs


def test_a_path_that_exists_is_a_path_not_a_pattern(tmp_path: Path) -> None:
    for name in ("set[12]", "set1", "set 2"):
        shard(tmp_path / name / f"of {name}.parquet", [png(0)])
    assert keys(tmp_path / "set[12]") == ["of set[12].parquet"]
    assert keys(tmp_path / "set[12]" / "*.parquet") == ["of set[12].parquet"], "its folder exists"
    shard(tmp_path / "x[2019].parquet", [png(0)])
    assert keys(tmp_path / "x[2019].parquet") == ["x[2019].parquet"]
    assert keys(tmp_path / "se[a-z]1") == ["set1/of set1.parquet"], "a pattern, for it is no path"


class Bucket(Storage):
    """The files of a bucket; remembers which folders it has listed."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.files = [StoredFile(f"s3://b/{key}", 10, "1") for key in keys]
        self.listed: list[str] = []

    def stat(self, url: str) -> StoredFile | None:
        return None

    def list(self, url: str) -> list[StoredFile]:
        self.listed.append(url)
        return [file for file in self.files if file.url.startswith(f"{url}/")]


def test_a_folder_of_a_bucket_with_brackets_in_its_name_is_listed_once() -> None:
    bucket = Bucket("set[12]/a.parquet", "set1/b.parquet")
    assert list(find_files(["s3://b/set[12]"], bucket)[0]) == ["a.parquet"]
    assert bucket.listed == ["s3://b/set[12]"]


def test_the_output_may_lie_beside_a_folder_with_brackets(tmp_path: Path) -> None:
    shard(tmp_path / "set[12]" / "a.parquet", [png(0)])
    assert would_list(str(tmp_path / "set[12]"), str(tmp_path / "set[12]" / "run" / "bad_rows.parquet"))
    assert not would_list(str(tmp_path / "set[12]"), str(tmp_path / "set1" / "bad_rows.parquet"))
    assert would_list(str(tmp_path / "other[12]"), str(tmp_path / "other1" / "bad_rows.parquet"))


# -- types as writers lay them out

TEXTS, BYTES = ["b", "a", None, "b"], [png(i) for i in range(4)]


@pytest.mark.parametrize(
    "text", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary(), pa.binary_view()])
@pytest.mark.parametrize("struct", [False, True])
def test_every_layout_of_texts_and_bytes_is_read(
    tmp_path: Path, text: pa.DataType, binary: pa.DataType, struct: bool
) -> None:
    images = pa.array(BYTES, binary)
    if struct:
        paths = pa.array(["p"] * 4, pa.string_view() if pa.types.is_string_view(text) else pa.string())
        images = pa.StructArray.from_arrays([images, paths], ["bytes", "path"])
    city = pa.array(TEXTS).cast(text) if not pa.types.is_string_view(text) else pa.array(TEXTS, text)
    pq.write_table(pa.table({"image": images, "city": city, "note": city}), tmp_path / "a.parquet")
    from pcace_dist.datasets.row_groups import RowGroup, read_row_groups
    from pcace_dist.datasets.units import row_groups_of

    spec, data_set = listed(tmp_path, group_by="city", filter={"note": ["a", "b"]}, keep=True)
    plain = pa.large_string() if pa.types.is_large_string(text) else pa.string()
    assert data_set.schema.field("city").type == data_set.schema.field("note").type == plain
    (group,) = read_row_groups(tuple(row_groups_of(data_set.files[0])), spec, Storage())
    assert isinstance(group, RowGroup)
    assert group.table["city"].to_pylist() == group.table["note"].to_pylist() == ["b", "a", "b"]
    assert group.table["city"].type == plain
    assert [bytes(data) for data in group.table["image"].to_pylist()] == [BYTES[0], BYTES[1], BYTES[3]]


def test_a_filter_takes_the_column_and_not_a_field_of_that_path(tmp_path: Path) -> None:
    meta = pa.StructArray.from_arrays([pa.array([100] * 8)], ["class"])
    columns: dict[str, Any] = {"meta.class": [0, 3] * 4}
    shard(tmp_path / "a.parquet", [png(i) for i in range(8)], row_group=8, meta=meta, **columns)
    spec, data_set = listed(tmp_path, filter={"meta.class": 3})
    from pcace_dist.datasets.row_groups import count_kept
    from pcace_dist.datasets.units import row_groups_of

    assert count_kept(tuple(row_groups_of(data_set.files[0])), spec, Storage()) == [4]


# -- against a plain walk

NAMES = st.sampled_from(["a", "b.parquet", "C.PARQUET", "d.pq", "_e.parquet", ".f", "g.txt", "h.jpg", "set[1]", "i i"])
KINDS = st.sampled_from(["parquet", "text", "empty", "folder link", "file link", "broken link", "folder"])
TREES = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), KINDS), max_size=8)


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_every_file_of_a_random_tree_is_listed_or_left_out_by_name(tree: list[tuple[list[str], str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "data"
        root.mkdir()
        shard(Path(folder) / "other" / "x.parquet", [png(0)])
        for parts, kind in tree:
            _plant(root.joinpath(*parts), kind, Path(folder) / "other")
        try:
            files, faults = find_files([str(root)], Storage())
        except DatasetError as error:
            assert "\n" not in str(error)
            there = [path for path in _plain_walk(root) if _is_data(root, path)]
            assert not there or "link to nothing" in str(error)
            return
        listed_here, named = set(files), {fault.name for fault in faults}
        assert not listed_here & named
        assert listed_here | named == set(_plain_walk(root))
        assert all(_is_data(root, key) for key in listed_here)
        real = {os.path.realpath(root / key) for key in _plain_walk(root) if _is_data(root, key)}
        assert {os.path.realpath(root / key) for key in listed_here} == real, "every Parquet file, once"


def _plant(path: Path, kind: str, other: Path) -> None:
    """One thing in the tree, unless something is in its way."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink() or path.parent.resolve() != path.parent:
            return
        if kind == "parquet":
            shard(path, [png(0)])
        elif kind in ("text", "empty"):
            path.write_text("x" if kind == "text" else "")
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to({"folder link": other, "file link": other / "x.parquet"}.get(kind, other / "nothing"))
    except (FileExistsError, NotADirectoryError):
        pass


def _plain_walk(root: Path) -> list[str]:
    """Paths of all that is no folder, through linked folders too; a link to a folder whose name begins with a dot, or
    that lies below such a folder, is not gone into."""
    entries = []
    for folder, folders, names in os.walk(root, followlinks=True):
        for name in list(folders):
            path = os.path.join(folder, name)
            concealed = any(part.startswith(".") for part in os.path.relpath(path, root).split(os.sep))
            if concealed and os.path.islink(path):
                folders.remove(name)
                entries.append(path)
        entries += [os.path.join(folder, name) for name in names]
    return [os.path.relpath(path, root) for path in entries]


def _is_data(root: Path, key: str) -> bool:
    """Parquet by name, or by content without a suffix; not hidden."""
    if any(part.startswith(("_", ".")) for part in key.split("/")) or not (root / key).exists():
        return False
    name = key.rpartition("/")[2].lower()
    if "." not in name:
        return (root / key).read_bytes()[:4] == b"PAR1"
    return name.endswith((".parquet", ".parq", ".pq"))
