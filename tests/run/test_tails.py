"""statistics.tails in whole runs: more codes at the ends of the knots, and the same answers from kept codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcace_dist.artifacts.plan_store import plan_of_run
from pcace_dist.config.job import parse_job
from tests.digits import bytes_of, digits_job, ranked, write_digits

pytestmark = pytest.mark.usefixtures("in_process")


def test_knots_leave_the_ends_out_and_codes_keep_them(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", 400)
    kept = {"tails": 0.05, "keep_codes": True}
    robust = ranked(digits_job(tmp_path / "data", tmp_path / "robust", statistics=kept))
    plain = ranked(digits_job(tmp_path / "data", tmp_path / "plain"))
    plans = [plan_of_run(run.path, run.storage) for run in (robust, plain)]
    assert [plan.tails for plan in plans] == [0.05, 0.0]
    clamped = [sum(run.ranking()["clamped"].to_pylist()) / len(run.ranking()) for run in (robust, plain)]
    assert clamped[0] > clamped[1] + 0.05
    asked = ranked(digits_job(tmp_path / "robust", tmp_path / "asked", statistics={"tails": 0.05}))
    assert asked.summary["from_codes"]
    assert bytes_of(asked) == bytes_of(robust)


def test_no_tails_are_the_job_as_it_was_before_the_key() -> None:
    """Its fingerprint too, so that runs that were begun before go on."""
    plain, said, robust = (
        parse_job(digits_job("data", Path("run"), statistics=own)).dependent()
        for own in ({}, {"tails": 0}, {"tails": 0.01})
    )
    assert plain == said and "tails" not in plain["statistics"]
    assert robust["statistics"]["tails"] == 0.01
