"""Data that must not be shown: no image, crop or place in the page, and none in what a later report could read."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.config.job import parse_job
from pcace_dist.run.rank import run_job
from tests.reporting.conftest import Reported, quietly, square_job
from tests.reporting.opened import OpenedReport, pixels
from tests.whole_jobs import jobs_without_ray

LAYER = "look"


def assert_hidden(page: OpenedReport) -> None:
    """No picture but the axes, which are weights; no place, and no row by its name."""
    assert not [name for name in page.scripts if name.startswith("image-")]
    assert page.data["rows"] == {} and page.data["places"] is None and page.data["cam"] is None
    held = [page.channel(layer, channel) for layer, channel in page.data["pages"]]
    assert {len(one["axes"]) for one in held} == {2}
    assert len(re.findall("data:image/(?:png|webp);base64", page.text)) == sum(len(one["axes"]) for one in held)
    assert all(one["curves"] and not one["exemplars"] and one["synthetic"] is None for one in held)
    assert not any(one["ofGroup"] or one["spread"] or one["extremes"] for one in held)
    assert ".parquet" not in str(page.data["places"]) + str(held)


def test_without_images_the_page_has_numbers_axes_and_transforms(squares: Reported, tmp_path: Path) -> None:
    result = quietly(squares.run, images=False, output=str(tmp_path / "page.html"))
    page = OpenedReport(tmp_path / "page.html")
    assert_hidden(page)
    assert result.images == 0 and result.notes == ("no pictures: asked for with --no-images",)
    assert "loading the model" not in result.seconds
    assert page.data["ranking"] == OpenedReport(squares.page).data["ranking"]


def test_blurred_photographs_hold_few_pixels(squares: Reported, tmp_path: Path) -> None:
    quietly(squares.run, blur=True, synthesis=False, top=1, output=str(tmp_path / "page.html"))
    page = OpenedReport(tmp_path / "page.html")
    shown = [name for name in page.scripts if name.startswith("image-")]
    assert shown and {pixels(page.scripts[name]).shape for name in shown} == {(8, 8)}


@pytest.mark.jobs
def test_a_job_that_shows_nothing_keeps_nothing_to_show(
    squares: Reported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    job = square_job(squares.data, run, shown="none")
    with jobs_without_ray():
        assert run_job(parse_job(job)) == 0
    for name in ("exemplars.parquet", "sample.parquet"):
        hidden, open_ = pq.read_table(run / name), pq.read_table(squares.run / name)
        for column in ("file", "row_group", "row"):
            assert hidden[column].null_count == len(hidden) == len(open_) and hidden[column].type == open_[column].type
        places = ["file", "row_group", "row"]
        assert hidden.drop_columns(places).equals(open_.drop_columns(places))
    assert (run / "rankings.parquet").read_bytes() == (squares.run / "rankings.parquet").read_bytes()
    assert open_run(str(run))._repr_html_().count("<img") == 0
    assert main(["report", str(run), "--top", "1"]) == 0
    assert "no pictures: " in capsys.readouterr().out
    assert_hidden(OpenedReport(run / "report.html"))
    text = yaml.safe_load((run / "job.yaml").read_text()) | {"shown": "images"}  # somebody edits the job: too late
    (run / "job.yaml").write_text(yaml.safe_dump(text))
    assert quietly(run, top=1).images == 0
    assert_hidden(OpenedReport(run / "report.html"))
    job["shown"] = "images"  # another job: the files of this one do not say which images they are about
    with jobs_without_ray(), pytest.raises(Exception, match=r"another job|other job|different"):
        run_job(parse_job(job))
