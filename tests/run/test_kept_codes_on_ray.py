"""Kept codes, extend and stop once on a real Ray; the other tests hold the same code to the model, with threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcace_dist.executors.choice import ExecutorKind
from pcace_dist.run.codes_run import CodesPreparation
from tests.digits import bytes_of, digits_job, ranked, records, write_digits


@pytest.mark.jobs
def test_forward_once_rank_many_on_a_cluster(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCACE_FLUSH_SECONDS", "0.001")
    monkeypatch.setattr(CodesPreparation, "executor", ExecutorKind.RAY)
    kept = {"keep_codes": True}
    write_digits(tmp_path / "data", 400, files=2)
    base = ranked(digits_job(tmp_path / "data", tmp_path / "base", statistics=kept, group_by="place"))
    answer = ranked(digits_job(base.path, tmp_path / "answer", group_by="place"))
    assert bytes_of(answer) == bytes_of(base)

    write_digits(tmp_path / "data", 200, files=1, start=400)
    more = ranked(digits_job(tmp_path / "data", tmp_path / "more", statistics=kept, group_by="place", extend=base.path))
    given = digits_job(tmp_path / "data", tmp_path / "full", statistics=kept | {"plan": base.path}, group_by="place")
    assert bytes_of(more) == bytes_of(ranked(given))
    assert len(records(Path(more.path), "inherit")) == 1

    stop = {"top": 1, "confidence": 0.9, "tolerance": 0.5}
    brief = ranked(digits_job(tmp_path / "data", tmp_path / "brief", stop=stop))
    assert brief.summary["stop"]["settled"] and brief.summary["stop"]["rows_spared"] > 0
