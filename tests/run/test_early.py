"""When a run asks for workers on Ray before it is prepared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pcace_dist.artifacts.run import Run
from pcace_dist.config.job import Job, parse_job
from pcace_dist.errors import StoreUnavailable
from pcace_dist.run.early import _needs_ray, early_workers
from pcace_dist.storage.files import Storage, StoredFile


def job(output: Path) -> Job:
    return parse_job(
        {
            "dataset": {"path": str(output.parent / "data"), "label": "label"},
            "model": {"factory": "torchvision:resnet18", "weights": "random"},
            "layers": "all",
            "target": {"logit": "label"},
            "output": str(output),
        }
    )


@pytest.mark.parametrize(
    ("address", "executor", "expected"),
    [
        (None, None, False),  # the data decides
        ("local", None, True),
        (None, "ray", True),
        ("local", "threads", False),
        ("local", "inline", False),
    ],
)
def test_it_is_on_ray_in_any_case_where_the_environment_says_so(
    address: str | None, executor: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcace_dist.executors.ray_session._runs_here", lambda: False)
    for name, value in (("RAY_ADDRESS", address), ("PCACE_EXECUTOR", executor)):
        monkeypatch.setenv(name, value or "")
    assert _needs_ray(job(tmp_path / "run")) is expected
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_ended_starts_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr("pcace_dist.run.early.ray_session", lambda: pytest.fail("Ray is started"))
    asked = job(tmp_path / "run")
    assert _needs_ray(asked)
    monkeypatch.setattr(Run, "finished_at", 1.0)
    with early_workers(asked) as early:
        assert early is None


def test_storage_that_is_away_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")

    def away(_: Storage, url: str) -> list[StoredFile]:
        raise StoreUnavailable("s3://bucket: gave up after 15 min")

    monkeypatch.setattr(Storage, "list", away)
    with pytest.raises(StoreUnavailable):
        _needs_ray(job(tmp_path / "run"))


def test_asking_imports_neither_torch_nor_ray() -> None:
    program = "import sys, pcace_dist.run.early; print([name for name in ('torch', 'ray') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
