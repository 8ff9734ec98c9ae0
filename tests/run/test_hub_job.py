"""Whole jobs on `hf://`: a stand-in of the Hugging Face Hub on a loopback port, asked by huggingface_hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcace_dist.config.job import parse_job
from pcace_dist.errors import Stopped
from pcace_dist.run.main_pass import MainPass
from pcace_dist.run.rank import run_job
from pcace_dist.storage import hub
from tests.digits import digits_job as job
from tests.digits import ranked, write_digits
from tests.hub import serving_hub
from tests.run.test_image_folders import refusal, write_images
from tests.whole_jobs import in_process

__all__ = ["in_process"]

pytestmark = pytest.mark.usefixtures("in_process")


def test_a_data_set_on_the_hub(tmp_path: Path) -> None:
    write_digits(tmp_path / "repository" / "data", 300)
    here = ranked(job(tmp_path / "repository" / "data", tmp_path / "here"))
    with serving_hub(tmp_path / "repository"):
        asked = job("hf://datasets/people/images/data", tmp_path / "run")
        assert ranked(asked).ranking() == here.ranking()
        glob = job("hf://datasets/people/images@main/**/*.parquet", tmp_path / "glob")
        assert ranked(glob).ranking() == here.ranking()


def test_data_that_change_on_the_hub_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digits(tmp_path / "repository", 300)
    asked = job("hf://datasets/people/images", tmp_path / "run")
    with serving_hub(tmp_path / "repository"):
        with monkeypatch.context() as patch:
            patch.setattr(MainPass, "run", lambda _: (_ for _ in ()).throw(Stopped("as a test wants it")))
            with pytest.raises(Stopped):
                run_job(parse_job(asked))
        first, *_ = sorted((tmp_path / "repository").glob("*.parquet"))
        write_digits(tmp_path / "repository", 300, row_group=50)
        hub._commit.cache_clear()  # another process
        assert refusal(asked).startswith(f"dataset.path: {first.name} has changed since the run began")


def test_images_as_files_on_the_hub(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 100)
    here = ranked(job(folder, tmp_path / "here"))
    with serving_hub(folder):
        there = ranked(job("hf://datasets/people/images", tmp_path / "there"))
    assert there.ranking() == here.ranking()
    assert dict(there.names.names) == dict(here.names.names)
