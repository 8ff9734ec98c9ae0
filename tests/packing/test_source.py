"""One image of a pack: storage that is away leaves none out; an image that is refused alone is left out by name."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pcace_dist.datasets.paths import Skipped
from pcace_dist.errors import StoreUnavailable
from pcace_dist.packing.pack import pack
from pcace_dist.packing.source import Row, read_image
from pcace_dist.storage.files import Storage
from tests.datasets.helpers import patience, picture


class Bucket:
    """Answers get_object; `refused`: keys and for how many more requests."""

    def __init__(self, refused: dict[str, int]) -> None:
        self.refused = refused

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        left = self.refused.get(Key, 0)
        if left > 0:
            self.refused[Key] = left - 1
            answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise ClientError(answer, "GetObject")  # type: ignore[arg-type]
        return {"Body": io.BytesIO(Key.encode()), "ContentLength": len(Key)}


class Faked(Storage):
    def __init__(self, refused: dict[str, int], seconds: float = 900.0) -> None:
        super().__init__(patience=patience(seconds))
        self.patience.refusals_are_answers = True
        self.bucket = Bucket(refused)

    def s3_client(self, url: str) -> Any:
        return self.bucket

    def _hasty(self) -> Storage:
        return self


def images(storage: Storage, *keys: str) -> list[Row | Skipped]:
    return [read_image(storage, f"s3://b/{key}", key, {}) for key in keys]


def test_an_image_that_alone_is_refused_is_left_out_by_name() -> None:
    _, other, last = images(Faked({"private": 10**9}), "a", "private", "b")
    assert isinstance(other, Skipped) and "access denied" in other.reason and isinstance(last, Row)


def test_rights_that_are_revoked_for_a_while_leave_no_image_out() -> None:
    read = images(Faked({"a": 0, "b": 20}), "a")
    storage = Faked({})
    assert all(isinstance(row, Row) for row in [*read, *images(storage, "a")])
    storage.bucket.refused = {"a": 20, "b": 1}
    assert [type(row) for row in images(storage, "b", "c")] == [Row, Row]


def test_rights_that_stay_revoked_end_the_pack() -> None:
    storage = Faked({}, seconds=60)
    images(storage, "a")
    storage.bucket.refused = {"a": 10**9, "b": 10**9}
    with pytest.raises(StoreUnavailable, match="access denied"):
        images(storage, "b")


def test_rights_that_never_were_are_a_mistake() -> None:
    with pytest.raises(PermissionError, match=r"^s3://b/a: access denied \(AccessDenied\)"):
        images(Faked({"a": 10**9}), "a")


def test_a_disk_that_fails_for_a_while_leaves_no_image_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for i in range(6):
        picture(i).save(tmp_path / f"in/{i}.png")
    left, read = [40], Path.read_bytes

    def failing(path: Path) -> bytes:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    report = pack(str(tmp_path / "in"), str(tmp_path / "out"), storage=Storage(patience=patience()))
    assert (report.rows, report.bad) == (6, ()) and left[0] < 0
