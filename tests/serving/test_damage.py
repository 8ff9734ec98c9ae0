"""A run that is damaged in any one of its files is shown, with the reason, and no page over it ends in a server
error: 503 is said of a file that storage does not give."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pcace_dist.serving.catalog import Catalog
from pcace_dist.serving.pages import app_of
from pcace_dist.storage.files import Storage
from tests.golden.test_golden import RUNS

pytestmark = pytest.mark.faults


def replaced(path: Path) -> Path:
    path.unlink()
    return path


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"\xff\x00{]" * 50),
    "other": lambda path: path.write_bytes(b'{"run": [1], "n": {}, "body": "x", "images": "many", "exit_code": 0}'),
    "a folder": lambda path: replaced(path).mkdir(),
    "unreadable link": lambda path: replaced(path).symlink_to(path),
}
PAGES = ("/", "/run?run=one", "/status.json?run=one", "/ranking.json?run=one", "/bad_rows.csv?run=one")
PAIR = "/compare?run=one&run=two"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with tarfile.open(RUNS) as archive:
        archive.extractall(folder, filter="data")
    return folder / "runs/finished"


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_ends_in_a_server_error(whole: Path, tmp_path: Path, damage: str) -> None:
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*.*")) if path.is_file()]
    names = [name for name in files if name.parts[0] not in ("attempts", "codes", "plan")]
    assert len(names) >= 12
    for name in names:
        root = tmp_path / str(name).replace("/", "-")
        for copy in ("one", "two"):
            shutil.copytree(whole, root / copy, ignore=shutil.ignore_patterns("attempts", "codes", "plan"))
        DAMAGES[damage](root / "one" / name)
        catalog = Catalog(str(root), Storage({}))
        client = TestClient(app_of(catalog, "runs", "127.0.0.1"), base_url="http://127.0.0.1")
        assert catalog.look(60).unread == 0
        rows = {row["name"]: row for row in client.get("/runs.json").json()["runs"]}
        assert rows["two"]["state"] == "finished", name
        if "one" in rows:  # without any sign of a run it is none
            assert rows["one"]["state"] != "unreadable" or rows["one"]["reason"], name
            for page in (*PAGES, PAIR):
                assert client.get(page).status_code in (200, 400, 503), (name, page)
        catalog.close()
