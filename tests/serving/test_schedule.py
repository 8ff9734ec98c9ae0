"""A real schedule of two ticks: both runs are in the list, the current one is named, and they lie side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pcace_dist.analysis.thresholds import MaxMoved, Thresholds
from pcace_dist.commands.rerank import Options, rerank
from pcace_dist.config.job import parse_job
from tests.commands.test_rerank import job_of, write_weights
from tests.planted import write_planted
from tests.serving.conftest import Serve
from tests.whole_jobs import jobs_without_ray

pytestmark = pytest.mark.jobs


def test_two_ticks(tmp_path: Path, serve: Serve) -> None:
    write_planted(tmp_path / "data", 800, shards=2)
    options, published = Options(thresholds=Thresholds(max_moved=MaxMoved.parse("0"))), []
    with jobs_without_ray():
        for without in (None, 1):
            write_weights(tmp_path, without=without)
            outcome = rerank(parse_job(job_of(tmp_path)), options)
            assert outcome.entry is not None
            published.append(f"weekly/{outcome.entry.run}")
    assert outcome.exit_code == 3
    client: TestClient = serve(tmp_path)
    rows = client.get("/runs.json").json()["runs"]
    assert [(row["name"], row["state"]) for row in rows] == [(name, "finished") for name in reversed(published)]
    page = client.get("/schedule?schedule=weekly").text
    assert "drift" in page and "new weights" in page and all(name.rpartition("/")[2] in page for name in published)
    compared = client.get("/compare", params={"run": published}).text
    assert "<strong>moved</strong>" in compared and "other weights" in compared
    assert client.get("/compare", params={"run": published[::-1]}).text == compared, "the earlier one is A"
