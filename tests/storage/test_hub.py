"""`hf://`: a stand-in of the Hub is read through huggingface_hub, as s3:// is through boto3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pcace_dist.errors import JobError, StoreUnavailable
from pcace_dist.storage.files import Changed, Storage, StoredFile, normalised, split
from tests.datasets.helpers import patience
from tests.hub import Hub, blob, serving_hub

DATA = "hf://datasets/people/images"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "data" / "b").mkdir()
    (tmp_path / "data" / "b" / "c ä.bin").write_bytes(b"c")
    (tmp_path / "README.md").write_text("of images")
    with serving_hub(tmp_path) as served:
        yield served


def test_files_with_sizes_and_the_ids_of_their_content(hub: Hub) -> None:
    files = Storage().list(f"{DATA}/data")
    assert [(file.url, file.size) for file in files] == [(f"{DATA}/data/a.bin", 256), (f"{DATA}/data/b/c ä.bin", 1)]
    assert files[0].version == blob(hub.folder / "data" / "a.bin")
    assert Storage().stat(f"{DATA}/data/a.bin") == files[0]
    assert Storage().stat(f"{DATA}/data") is None
    assert Storage().stat(f"{DATA}/none.bin") is None
    assert Storage().list(f"{DATA}/nowhere") == []
    assert len(Storage().list(DATA)) == 3


def test_ranges_and_whole_files(hub: Hub) -> None:
    storage = Storage()
    (file, other) = storage.list(f"{DATA}/data")
    assert storage.fetch_many(file, [(3, 4), (250, 6)]) == [bytes([3, 4, 5, 6]), bytes(range(250, 256))]
    assert storage.fetch(other, 0, 1) == storage.read_bytes(other.url) == b"c"
    before = len(hub.asked)
    assert storage.fetch(file, 7, 1) == b"\7"
    assert [path.split("/")[3] for path in hub.asked[before:]] == ["resolve"], "the file is known by now"


def test_a_branch_is_one_commit_for_a_process(hub: Hub) -> None:
    from pcace_dist.storage import hub as module

    storage = Storage()
    file = storage.list(f"{DATA}/data")[0]
    module._commit.cache_clear()  # another process
    (hub.folder / "data" / "a.bin").write_bytes(bytes(256))
    with pytest.raises(Changed, match="changed while it was read"):
        Storage().fetch(file, 0, 4)
    gone = StoredFile(f"{DATA}/gone.bin", 1, "")
    with pytest.raises(FileNotFoundError):
        Storage().fetch(gone, 0, 1)


@pytest.mark.parametrize(
    ("written", "repository"),
    [
        ("datasets/people/images@main/data", "datasets/people/images@main"),
        ("datasets/people/images@refs/convert/parquet/x/y", "datasets/people/images@refs/convert/parquet"),
        ("datasets/people/images@refs%2Fpr%2F3/x", "datasets/people/images@refs%2Fpr%2F3"),
        ("people/model/weights.safetensors", "people/model"),
    ],
)
def test_paths_keep_the_revision_that_is_written(written: str, repository: str) -> None:
    from pcace_dist.storage.hub import _place

    assert _place(written).written == repository
    assert split(f"hf://{written}") == ("hf", written)
    assert normalised(f"HF://{written}/") == f"hf://{written}"


@pytest.mark.parametrize("url", ["hf://", "hf://datasets", "hf://datasets/people", "hf://people"])
def test_a_path_without_a_repository_is_refused(url: str) -> None:
    with pytest.raises(JobError, match="names no repository; write hf://datasets/USER/NAME/PATH"):
        split(url)


def test_what_is_wrong_is_one_line(hub: Hub) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Storage().read_bytes("hf://datasets/people/nothing/a.bin")
    assert str(caught.value) == (
        "hf://datasets/people/nothing/a.bin: no such repository, or one that takes a token (HF_TOKEN)"
    )
    with pytest.raises(FileNotFoundError, match="no such file"):
        Storage().read_bytes(f"{DATA}/none.bin")
    with pytest.raises(JobError, match="hf:// is read only"):
        Storage().put_bytes(b"", f"{DATA}/a.bin")


def test_a_token_is_sent_and_a_hub_that_is_away_is_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Storage().list(f"{DATA}/data")[0]
    hub.token = "secret"
    with pytest.raises(PermissionError, match="check HF_TOKEN"):
        Storage().fetch(file, 0, 1)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert Storage().fetch(file, 0, 1) == b"\0"
    hub.away = True
    with pytest.raises(StoreUnavailable):
        Storage(patience=patience(1.0)).fetch(file, 0, 1)
