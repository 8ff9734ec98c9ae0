"""One level of a local folder; of a bucket in tests/serving/test_server.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pcace_dist.storage.files import Storage
from pcace_dist.storage.folder import Folder, look_into


def test_what_lies_directly_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b/deeper").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "b/deeper/file").write_text("")
    (tmp_path / "file").write_text("four")
    (tmp_path / ".tmp-1").write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "away").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    looked = look_into(Storage({}), str(tmp_path))
    assert looked.folders == ("a", "b") and looked.links == {"link", "away"} and list(looked.files) == ["file"]
    stored = Storage({}).stat(str(tmp_path / "file"))
    assert stored is not None and looked.files["file"] == stored and stored.size == 4
    for none in ("none", "file"):
        assert look_into(Storage({}), str(tmp_path / none)) == Folder((), {})


def test_a_file_that_vanishes_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those do that a running run replaces: the folder is not taken for an empty one."""
    for name in ("stays", "goes"):
        (tmp_path / name).write_text("")
    scandir = os.scandir

    class Entries:
        def __enter__(self) -> list[os.DirEntry[str]]:
            with scandir(tmp_path) as entries:
                listed = list(entries)
            (tmp_path / "goes").unlink()
            return listed

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Entries())
    assert list(look_into(Storage({}), str(tmp_path)).files) == ["stays"]
