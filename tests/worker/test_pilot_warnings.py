"""What a run says of its pilot's rows: in the log, in the ledger, in summary.json; and again when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pcace_dist.config.job import parse_job
from pcace_dist.run.rank import run_job
from tests.digits import digits_job, ranked, write_digits
from tests.whole_jobs import in_process

__all__ = ["in_process"]
pytestmark = pytest.mark.usefixtures("in_process")


def warnings_of(folder: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[list[dict[str, Any]], str]:
    write_digits(folder / "data", 300)
    job = digits_job(folder / "data", folder / "run")
    job["model"]["input"] |= changes
    summary = ranked(job).summary
    return summary.get("warnings", []), capsys.readouterr().err


def test_a_good_job_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warnings, said = warnings_of(tmp_path, capsys)
    assert warnings == [] and "warning" not in said


def test_a_wrong_normalisation_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warnings, said = warnings_of(tmp_path, capsys, mean=[33.0], std=[78.0])
    assert [warning["what"] for warning in warnings] == ["model.input", "accuracy"]
    assert warnings[1]["figures"]["rows"] == 256, "the pilot's rows"
    assert said.count("pcace: warning: model.input: ") == 1 == said.count("pcace: warning: accuracy: ")


def test_a_run_that_is_resumed_keeps_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warnings, _ = warnings_of(tmp_path, capsys, mean=[33.0], std=[78.0])
    (tmp_path / "run" / "summary.json").unlink()
    job = digits_job(tmp_path / "data", tmp_path / "run")
    job["model"]["input"] |= {"mean": [33.0], "std": [78.0]}
    assert run_job(parse_job(job)) == 0
    assert ranked(job).summary["warnings"] == warnings
