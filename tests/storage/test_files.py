"""Storage: paths, prefixes, errors of one line; servers are in test_s3.py."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from pcace_dist.errors import JobError, StoreUnavailable
from pcace_dist.storage.files import Changed, Storage, joined, normalised, split
from pcace_dist.storage.sections import Endpoint
from tests.datasets.helpers import FailingStorage, patience


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")


def test_the_longest_prefix_wins() -> None:
    storage = Storage(
        {
            "s3://": Endpoint(region="eu-west-1"),
            "s3://bucket/": Endpoint("http://one", anonymous=True),
            "s3://bucket/deep/": Endpoint("http://two"),
        }
    )
    assert storage.settings("s3://other/x") == Endpoint(region="eu-west-1")
    assert storage.settings("s3://bucket/x").endpoint == "http://one"
    assert storage.settings("s3://bucket/deep/x").endpoint == "http://two"
    assert storage.settings("s3://bucket") == Endpoint("http://one", None, True)
    assert Storage().settings("s3://bucket/x") == Endpoint()


def test_prefixes_and_settings_are_checked() -> None:
    with pytest.raises(JobError, match=r"^storage: '/data' is not an s3:// or gs:// prefix$"):
        Storage({"/data": Endpoint()})


def test_storage_travels_as_its_settings_only() -> None:
    storage = Storage({"s3://b/": Endpoint("http://127.0.0.1:1", region="us-east-1")})
    storage.s3_client("s3://b/x")
    again = pickle.loads(pickle.dumps(storage))
    assert again.config == storage.config
    assert b"AWS" not in pickle.dumps(storage)


def test_local_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split("a/b") == ("file", str(tmp_path / "a/b"))
    assert split(f"file://{tmp_path}/x") == ("file", str(tmp_path / "x"))
    assert split("s3://bucket/a/b") == ("s3", "bucket/a/b")
    with pytest.raises(JobError, match="names no bucket"):
        split("s3://")


def test_reading_writing_and_listing_local_files(tmp_path: Path) -> None:
    storage = Storage()
    storage.put_bytes(b"one", f"{tmp_path}/x/a.bin")
    storage.put_bytes(b"two", f"{tmp_path}/x/a.bin")
    assert storage.read_bytes(f"{tmp_path}/x/a.bin") == b"two"
    (tmp_path / "b.bin").write_bytes(b"three")
    storage.put_file(tmp_path / "b.bin", f"{tmp_path}/x/y/b.bin")
    assert [(Path(f.url).name, f.size) for f in storage.list(f"{tmp_path}/x")] == [("a.bin", 3), ("b.bin", 5)]
    assert storage.list(f"{tmp_path}/none") == [] and not (tmp_path / "b.bin").exists()
    assert storage.stat(str(tmp_path)) is None


def test_what_cannot_be_put_in_place_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        Storage().put_bytes(b"x", str(tmp_path / "folder"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_missing_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Storage().read_bytes(f"{tmp_path}/none")
    assert str(caught.value) == f"{tmp_path}/none: no such file"


def unreachable(**changes: Any) -> Storage:
    return Storage({"s3://b/": Endpoint("http://127.0.0.1:9", region="us-east-1")}, patience=patience(**changes))


@pytest.mark.parametrize(("begun", "seconds"), [(False, 30), (True, 900)])
def test_an_s3_that_is_away_is_waited_for_briefly_at_the_start_and_long_in_a_run(
    credentials: None, begun: bool, seconds: int
) -> None:
    with pytest.raises(StoreUnavailable, match=rf"^s3://b/k: Could not connect .* \(for {seconds} s\)") as caught:
        unreachable(begun=begun).stat("s3://b/k")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 5


def test_without_credentials_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PermissionError, match=r"^s3://b/k: no AWS credentials found; set them"):
        unreachable(begun=False).stat("s3://b/k")


@pytest.mark.parametrize(
    ("url", "one"),
    [
        ("s3://bucket//data///x/", "s3://bucket/data/x"),
        ("s3://bucket/./x", "s3://bucket/x"),
        ("S3://bucket", "s3://bucket"),
        ("gs://bucket//x", "gs://bucket/x"),
        ("file:///data//x/", "/data/x"),
        ("runs//x/", "runs/x"),
        ("/", "/"),
    ],
)
def test_a_url_has_one_spelling(url: str, one: str) -> None:
    assert normalised(url) == one == normalised(one)


@pytest.mark.parametrize(
    "url",
    ["s3://AKID:HUNTER@bucket/x", "s3://AKID:HUN/TER@bucket/x", "https://me:HUNTER@host/x", "gs://HUNTER@bucket"],
)
def test_credentials_in_a_url_are_refused_and_not_printed(url: str) -> None:
    with pytest.raises(JobError) as caught:
        normalised(url)
    assert "HUN" not in str(caught.value) and "TER" not in str(caught.value)


def test_credentials_in_an_endpoint_are_refused_and_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError, match=r"endpoint of s3://b/ \(\.\.\.@host:9000\) holds credentials") as caught:
        Storage({"s3://b/": Endpoint("http://user:HUNTER@host:9000")})
    assert "HUNTER" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:HUNTER@host:9000")
    with pytest.raises(JobError, match="the endpoint of S3") as caught:
        Storage().s3_client("s3://b/x")
    assert "HUNTER" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ESTALE])
def test_a_disk_that_fails_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    storage, left, opened = Storage(patience=patience()), [25], os.open

    def failing(*args: Any, **more: Any) -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, os.strerror(number))
        return opened(*args, **more)

    file = storage.stat(f"{tmp_path}/a")
    assert file is not None
    monkeypatch.setattr("pcace_dist.storage.files.os.open", failing)
    assert storage.fetch(file, 1, 2) == b"bc" and left[0] < 0


def test_a_file_that_was_replaced_or_cut_is_not_read(tmp_path: Path) -> None:
    path, storage = tmp_path / "a", Storage()
    path.write_bytes(b"0123456789")
    file = storage.stat(str(path))
    assert file is not None and storage.fetch(file, 2, 3) == b"234"
    path.write_bytes(b"01234")
    with pytest.raises(Changed):
        storage.fetch(file, 0, 2)


def test_near_ranges_are_read_together() -> None:
    assert joined([(100, 10), (0, 50), (40, 20), (10**6, 5)]) == [(0, 110), (10**6, 5)]
    assert joined([(0, 20 << 20), (20 << 20, 20 << 20)]) == [(0, 20 << 20), (20 << 20, 20 << 20)]


def test_a_file_is_read_in_any_order_and_in_blocks_where_it_is_read_in_small_pieces(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(content)
    storage = FailingStorage(0)
    with storage.open(f"{tmp_path}/a") as file:
        assert b"".join(iter(lambda: file.read(10240), b"")) == content
        assert storage.reads <= 4
        file.seek(-5, os.SEEK_END)
        assert file.read() == content[-5:] and file.size() == len(content)


def test_the_endpoint_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:7001")
    assert Storage().s3_client("s3://b/k").meta.endpoint_url == "http://127.0.0.1:7001"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:7002")
    assert Storage().s3_client("s3://b/k").meta.endpoint_url == "http://127.0.0.1:7002"
    storage = Storage({"s3://b/": Endpoint("http://127.0.0.1:7003")})
    assert storage.s3_client("s3://b/k").meta.endpoint_url == "http://127.0.0.1:7003"
    assert storage.s3_client("s3://other/k").meta.endpoint_url == "http://127.0.0.1:7002"
