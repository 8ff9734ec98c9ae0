"""Runs that version 0.1.0 wrote, moved together with their data: read, gone on with, extended and asked again."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.analysis.compare import compare_runs
from pcace_dist.artifacts.codes.stored import open_codes
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.statistics.folds import BLAKE2B, XXH3, fold_hash
from pcace_dist.storage.files import Storage

RUNS = Path(__file__).with_name("runs-0.1.0.tgz")


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which data and runs lie now, as the working directory; runs are gone on with by threads."""
    with tarfile.open(RUNS) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(RUNS.parents[2]))  # the example's model, for workers on Ray
    return tmp_path


def near(one: pa.Table, other: pa.Table) -> None:
    """The same ranking, up to what another processor does to codes; runs of 0.1.0 have no effects, and get none. Their
    plans do not say what another pilot would change: all intervals are given the plan."""
    assert set(one["effect_status"].to_pylist()) == {"off"} and one["effect"].null_count == len(one)
    given = [name for name in one.schema.names if name.endswith("_given_plan")]
    assert all(one[name].equals(one[name.removesuffix("_given_plan")]) for name in given) and len(given) == 4
    newer = {"support", *given}
    one = one.select([name for name in one.schema.names if not name.startswith("effect") and name not in newer])
    assert one.schema.names == other.schema.names
    assert one.select(["target", "group", "layer", "channel"]).equals(
        other.select(["target", "group", "layer", "channel"])
    )
    mine, theirs = (np.array(table["score"].to_pylist(), float) for table in (one, other))
    np.testing.assert_allclose(mine, theirs, atol=0.02)


def assert_folds_are_by(hash_name: str, run: str) -> None:
    """Every image has the fold key of this hash, and the summary names it."""
    images = [image["bytes"] for image in pq.read_table("data", columns=["image"])["image"].to_pylist()]
    codes = open_codes(run, Storage({}))
    assert codes is not None
    keys = codes.read_rows(["fold_key"])["fold_key"].to_pylist()
    assert sorted(keys) == sorted(map(fold_hash(hash_name), images))
    assert open_run(run).summary["fold_hash"] == hash_name


def rank(job: str, *overrides: str) -> int:
    return main(["rank", job, *(part for override in overrides for part in ("--set", override))])


def test_an_image_is_explained_and_tables_are_exported(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "runs/finished", "part-00000.parquet#3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"][0].startswith("what each channel adds is not known: the run has no effects")
    best = told["channels"][0]
    assert best["adds"] is None and abs(best["tells"]) >= abs(told["channels"][-1]["tells"]) > 0
    assert main(["explain", "runs/pooled", "part-00000.parquet#3", "--json"]) == 2
    assert "runs/extended, which is gone or elsewhere; its images" in capsys.readouterr().err
    assert main(["export", "runs/pooled", "--to", "csv", "--out", "tables"]) == 0
    assert (moved / "tables" / "rankings.csv").read_text().count("\n") == 1 + open_run("runs/pooled").ranking().num_rows


def test_they_are_shown(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, images in (("finished", 120), ("extended", 240), ("pooled", 240)):
        assert main(["show", f"runs/{name}", "--top", "2"]) == 0
        assert main(["status", f"runs/{name}"]) == 0
        run = open_run(f"runs/{name}")
        assert run.summary["images"] == images
        assert run.jackknife().num_rows == run.ranking().num_rows
        assert ("<img" if name != "pooled" else "no channel is ranked") in run._repr_html_()
    printed = capsys.readouterr().out
    assert "done (exit code 0)" in printed and "conv1" in printed
    assert main(["status", "runs/killed"]) == 0
    assert main(["compare", "runs/finished", "runs/extended", "--across-data", "--output", "."]) == 0


def test_a_finished_one_is_finished(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (moved / "runs/finished/rankings.parquet").read_bytes()
    assert rank("runs/finished/job.yaml") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (moved / "runs/finished/rankings.parquet").read_bytes() == before


def test_they_are_extended(moved: Path) -> None:
    assert rank("runs/extended/job.yaml", "output=again", "compute.exact=off") == 0
    near(open_run("again").ranking(), pq.read_table("runs/extended/rankings.parquet"))
    assert_folds_are_by(BLAKE2B, "again")


def test_their_codes_answer(moved: Path) -> None:
    assert rank("runs/pooled/job.yaml", "output=again") == 4, "too few images of each digit for any rank"
    near(open_run("again").ranking(), pq.read_table("runs/pooled/rankings.parquet"))


def test_their_plan_is_taken(moved: Path) -> None:
    assert (
        rank(
            "runs/extended/job.yaml",
            "output=again",
            "extend=null",
            "statistics.plan=runs/finished",
            "compute.exact=off",
        )
        == 0
    )
    near(open_run("again").ranking(), pq.read_table("runs/extended/rankings.parquet"))
    assert_folds_are_by(BLAKE2B, "again")


def test_a_new_plan_has_the_new_folds_and_scores_about_the_same(moved: Path) -> None:
    assert rank("runs/extended/job.yaml", "output=again", "extend=null") == 0
    assert_folds_are_by(XXH3, "again")
    mine, theirs = open_run("again").ranking(), pq.read_table("runs/extended/rankings.parquet")
    assert mine["images"].to_pylist() == theirs["images"].to_pylist()
    comparison = compare_runs(open_run("again"), open_run("runs/extended"))
    assert not comparison.noise.paired and comparison.verdict == "same"


def test_sets_are_selected_by_score_with_one_more_pass(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", "runs/extended"]) == 2
    assert "effect_status off; --by score needs no effects" in capsys.readouterr().err
    assert main(["select", "runs/extended", "--by", "score", "--output", "again"]) == 0
    assert pq.read_table("again/select.parquet")["images"].to_pylist() == [240] * 8


@pytest.mark.jobs
def test_one_that_was_killed_goes_on_where_the_data_are_now(moved: Path) -> None:
    assert rank("runs/killed/job.yaml", "compute.exact=off") == 0
    near(open_run("runs/killed").ranking(), pq.read_table("killed-would-be.parquet"))


@pytest.mark.jobs
def test_they_are_reported_and_evaluated(moved: Path) -> None:
    assert main(["report", "runs/extended", "--no-synthesis", "--top", "1"]) == 0
    assert main(["evaluate", "runs/extended", "--draws", "2", "--images", "100"]) in (0, 2)
