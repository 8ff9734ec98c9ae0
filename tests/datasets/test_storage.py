"""Storage: paths, prefixes, errors of one line; servers are in test_s3.py."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pcace_dist.datasets.storage import S3Settings, Storage, split
from pcace_dist.errors import JobError


def test_the_longest_prefix_wins() -> None:
    storage = Storage(
        {
            "s3://": {"region": "eu-west-1"},
            "s3://bucket/": {"endpoint": "http://one", "anonymous": True},
            "s3://bucket/deep/": {"endpoint": "http://two"},
        }
    )
    assert storage.settings("s3://other/x") == S3Settings(region="eu-west-1")
    assert storage.settings("s3://bucket/x").endpoint == "http://one"
    assert storage.settings("s3://bucket/deep/x").endpoint == "http://two"
    assert storage.settings("s3://bucket") == S3Settings("http://one", None, True)
    assert Storage().settings("s3://bucket/x") == S3Settings()


def test_prefixes_and_settings_are_checked() -> None:
    with pytest.raises(JobError, match=r"^storage: '/data' is not an s3:// or gs:// prefix$"):
        Storage({"/data": {}})
    with pytest.raises(JobError, match=r"takes endpoint, region and anonymous$"):
        Storage({"s3://b/": {"key": "x"}})


def test_storage_travels_as_its_settings_only() -> None:
    storage = Storage({"s3://b/": {"endpoint": "http://127.0.0.1:1", "region": "us-east-1"}})
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


def test_a_missing_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Storage().read_bytes(f"{tmp_path}/none")
    assert str(caught.value) == f"{tmp_path}/none: no such file"


def test_an_s3_error_names_the_path_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    storage = Storage({"s3://b/": {"endpoint": "http://127.0.0.1:9", "region": "us-east-1"}})
    monkeypatch.setattr("pcace_dist.datasets.storage.ATTEMPTS", 1)
    with pytest.raises(OSError, match=r"^s3://b/k: ") as caught:
        storage.s3_client("s3://b/k", 1)
        storage._cache.clients[storage.settings("s3://b/k"), 5] = storage.s3_client("s3://b/k", 1)
        storage.stat("s3://b/k")
    assert "\n" not in str(caught.value)


def test_the_endpoint_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:7001")
    assert Storage().s3_client("s3://b/k").meta.endpoint_url == "http://127.0.0.1:7001"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:7002")
    assert Storage().s3_client("s3://b/k").meta.endpoint_url == "http://127.0.0.1:7002"
    storage = Storage({"s3://b/": {"endpoint": "http://127.0.0.1:7003"}})
    assert storage.s3_client("s3://b/k").meta.endpoint_url == "http://127.0.0.1:7003"
    assert storage.s3_client("s3://other/k").meta.endpoint_url == "http://127.0.0.1:7002"
