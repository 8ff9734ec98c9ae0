"""A folder with runs in every state, and a client of the page over it, in this process."""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from pcace_dist.ledger.lease import LeaseFile
from pcace_dist.ledger.ledger import Record
from pcace_dist.serving.catalog import Catalog
from pcace_dist.serving.pages import app_of
from pcace_dist.storage.files import Storage
from tests.analysis.runs import job_of, write_run
from tests.golden.test_golden import RUNS

HOSTILE = "</td><script>hacked()</script>'\"\n\x1b[31m"
GONE = {"host": "elsewhere", "boot": "b", "pid": 7, "namespace": "n", "started": "s"}

Serve = Callable[..., TestClient]


@pytest.fixture(scope="package")
def serve() -> Iterator[Serve]:
    """Opens a client of the page over a folder; one folder is read once for all tests."""
    catalogs: dict[str, Catalog] = {}
    with contextlib.ExitStack() as stack:

        def client(root: Path | str, *, host: str = "127.0.0.1", catalog: Catalog | None = None) -> TestClient:
            if str(root) not in catalogs:
                catalogs[str(root)] = stack.enter_context(
                    contextlib.closing(catalog or Catalog(str(root), Storage({})))
                )
                catalogs[str(root)].look(60)
            return TestClient(app_of(catalogs[str(root)], str(root), host), base_url="http://127.0.0.1:8777")

        yield client


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind and state; nothing here is changed by a test."""
    root = tmp_path_factory.mktemp("served")
    first, second = np.linspace(0.1, 0.9, 6), np.linspace(0.9, 0.1, 6)
    write_run(root / "team/monday", {"conv1": first}, model={"factory": "torchvision:resnet18", "weights": "random"})
    write_run(root / "team/sunday", {"conv1": second}, weights="other", targets=("logit:label", "column:no2"))
    write_run(root / "team/tuesday", {"conv1": second}, weights="other")
    write_run(root / "hostile", {HOSTILE: first}, groups=(HOSTILE, "b" * 10_000), group_by="place")
    with tarfile.open(RUNS) as archive:
        archive.extractall(root / "as-0.1.0", filter="data")
    unfinished(root / "stopped", "stopped", released=True)
    unfinished(root / "failed", "running", released=True)
    unfinished(root / "running", "running", released=False)
    half_written(root)
    return root


def unfinished(folder: Path, outcome: str, *, released: bool) -> None:
    """A run that was taken, planned, and did no more; 5 of its 10 rows are said to be in work."""
    folder.joinpath("ledger").mkdir(parents=True)
    pieces = [{"key": "a.parquet", "size": 10, "version": "1", "row_group": 0, "rows": 10}]
    manifest = {"fingerprint": "f", "weights": "w", "plan": "p", "units": [{"id": "u", "pieces": pieces}]}
    bodies: dict[str, dict[str, Any]] = {"open": {"holder": GONE}, "manifest": manifest}
    for n, (kind, body) in enumerate(bodies.items(), start=1):
        record = Record(n, kind, 1, "nonce", 1_700_000_000.0, body)
        (folder / record.key).write_bytes(record.to_bytes())
    summary = {"outcome": outcome, "stage": "main pass", "rows_done": 5, "images_per_second": 2.0, "workers_now": 1}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "lease.json").write_bytes(LeaseFile(1, 3, released).to_bytes())
    (folder / "job.yaml").write_text(json.dumps(job_of(folder)))


def half_written(root: Path) -> None:
    (root / "empty/ledger").mkdir(parents=True)
    write_run(root / "cut", {"conv1": np.linspace(0.1, 0.9, 6)})
    ranking = root / "cut/rankings.parquet"
    ranking.write_bytes(ranking.read_bytes()[:100])
    write_run(root / "changed", {"conv1": np.linspace(0.1, 0.9, 6)})
    (root / "changed/ledger/00000003.json").write_bytes(b"[]")
    write_run(root / "linked", {"conv1": np.linspace(0.1, 0.9, 6)})
    (root / "linked/job.yaml").unlink()
    (root / "linked/job.yaml").symlink_to("/etc/hostname")
    (root / "to-team").symlink_to(root / "team")
    (root / ".hidden/run/ledger").mkdir(parents=True)
    (root / "notes/job.yaml").parent.mkdir()
    (root / "notes/job.yaml").write_text("dataset: {}")  # a job file is no run
