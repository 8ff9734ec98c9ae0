"""`pcace status`: the same facts for people and as JSON, of a run that has ended and of one that has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcace_dist.cli.main import main
from pcace_dist.config.job import parse_job
from pcace_dist.run.rank import run_job
from tests.digits import digits_job, write_digits
from tests.whole_jobs import in_process

__all__ = ["in_process"]
pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("status")
    write_digits(folder / "data", 120)
    assert run_job(parse_job(digits_job(folder / "data", folder / "run"))) == 0
    return folder / "run"


def status(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """As text, and as JSON."""
    assert main(["status", str(run)]) == 0
    text = capsys.readouterr().out
    assert main(["status", str(run), "--json"]) == 0
    return text, json.loads(capsys.readouterr().out)


def test_of_a_finished_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, facts = status(run, capsys)
    assert "state:    done (exit code 0)" in text and "progress: 120 of 120 images (100 %)\n" in text
    known = ("outcome", "exit_code", "rows", "rows_in_all", "workers", "holder", "bad_rows", "unreadable")
    assert [facts[name] for name in known] == ["done", 0, 120, 120, 0, None, 0, False]


def test_of_a_run_that_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = sorted((run / "ledger").iterdir())[-1]
    ended, summary = last.read_bytes(), (run / "summary.json").read_bytes()
    last.unlink()
    now = {"outcome": "running", "stage": "ranking", "rows_done": 60, "images_per_second": 20.0, "workers_now": 2}
    (run / "summary.json").write_text(json.dumps(now))
    text, facts = status(run, capsys)
    assert "state:    running, stage ranking" in text and "20 images/s, " in text and "held by: " in text
    assert (facts["exit_code"], facts["workers"], facts["holder"]["epoch"]) == (None, 2, 1)
    (run / "summary.json").write_text("[")
    text, facts = status(run, capsys)
    assert "the ledger alone" in text and facts["unreadable"] and facts["outcome"] == "starting"
    last.write_bytes(ended)
    (run / "summary.json").write_bytes(summary)
