"""In the copy of the working directory that `ray job submit` makes, nothing is written and no data are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pcace_dist.cli.main import main
from pcace_dist.config.job import parse_job
from pcace_dist.config.lasting import refuse_rays_copy, refuse_temporary
from pcace_dist.errors import JobError
from tests.digits import digits_job


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a copy, as the working directory."""
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("path", ["runs/mnist", ".", "./runs/mnist/"])
def test_a_relative_path_there_says_what_to_write(copy: Path, path: str) -> None:
    for each in (path, str(copy / path)):
        with pytest.raises(
            JobError, match=r"^output .*; write a path from / that all nodes share, or s3://B"
        ) as caught:
            refuse_rays_copy("output", each)
        assert "\n" not in str(caught.value)


def test_paths_elsewhere_and_addresses_are_fine(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_rays_copy("output", str(tmp_path / "run"), "../../../../run", "s3://bucket/run", "gs://bucket/run")
    monkeypatch.chdir(tmp_path)
    refuse_rays_copy("output", "runs/mnist")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "output run"),
        ({"output": "/shared/run", "dataset": {"path": "data"}}, "dataset.path data"),
        ({"output": "/shared/run", "extend": "runs/last"}, "extend runs/last"),
        ({"output": "/shared/run", "statistics": {"plan": "runs/last"}}, "statistics.plan runs/last"),
    ],
)
def test_each_key_of_a_job_that_must_last_is_checked(copy: Path, changes: dict[str, Any], key: str) -> None:
    job = parse_job(digits_job("/shared/data", Path("run")) | changes)
    with pytest.raises(JobError, match=rf"^{key}: lies in the copy"):
        refuse_temporary(job)


@pytest.mark.parametrize(
    "arguments",
    [
        ["pack", "/shared/images", "shards"],
        ["report", "run"],
        ["report", "/shared/run", "--output", "page.html"],
        ["compare", "/shared/one", "/shared/other", "--output", "."],
        ["evaluate", "/shared/run", "--output", "curves"],
    ],
)
def test_verbs_write_nothing_there(copy: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "lies in the copy of the working directory that `ray job submit` makes" in capsys.readouterr().err
    assert not list(copy.iterdir())
