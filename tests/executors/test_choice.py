"""PCACE_EXECUTOR chooses who runs the workers; the ranking is the same, whoever does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pcace_dist.cli.main import main
from pcace_dist.config.job import parse_job
from pcace_dist.config.sections import Workers
from pcace_dist.errors import JobError
from pcace_dist.executors.base import WorkerShape
from pcace_dist.executors.choice import ExecutorKind, check_threads, open_executor, wanted_executor
from pcace_dist.executors.inline import InlineExecutor
from pcace_dist.executors.ray_executor import RayExecutor
from pcace_dist.executors.threads import ThreadExecutor
from pcace_dist.models import in_memory
from pcace_dist.run.prepare import prepare
from pcace_dist.worker import shared_model
from tests.digits import bytes_of, digits_job, ranked, write_digits


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_digits(tmp_path / "data", 300, files=2)
    return tmp_path / "data"


@pytest.mark.parametrize("value, kind", [("", None), *((str(kind), kind) for kind in ExecutorKind)])
def test_the_variable_names_an_executor(value: str, kind: ExecutorKind | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCACE_EXECUTOR", value)
    assert wanted_executor() == kind


@pytest.mark.parametrize(
    "value, workers, kind",
    [("", {}, "threads"), ("", {"gpus": 1}, "inline"), ("inline", {}, "inline"), ("threads", {}, "threads")],
)
def test_a_model_in_memory_stays_in_this_process(
    value: str, workers: dict[str, int], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = digits_job("data", tmp_path / "run", workers=workers)
    keys["model"]["factory"] = f"{in_memory.PREFIX}Net-0123456789ab"
    job = parse_job(keys)
    monkeypatch.setenv("PCACE_EXECUTOR", value)
    assert wanted_executor(job) == kind
    monkeypatch.setenv("PCACE_EXECUTOR", "ray")
    with pytest.raises(JobError, match="is in memory and stays in its process"):
        wanted_executor(job)
    monkeypatch.delenv("PCACE_EXECUTOR")
    with pytest.raises(JobError, match=r"^workers: .* the model is in memory, so that threads of this process do the"):
        check_threads(Workers(cpus=10_000))


def test_another_value_is_refused_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PCACE_EXECUTOR", "slurm")
    job = parse_job(digits_job(data, tmp_path / "run"))
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    assert main(["rank", str(tmp_path / "job.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "PCACE_EXECUTOR 'slurm': is not one of ray, threads, inline" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind, made", [("ray", RayExecutor), ("threads", ThreadExecutor), ("inline", InlineExecutor)])
def test_each_kind_has_its_executor(kind: str, made: type) -> None:
    spec: Any = None
    assert type(open_executor(ExecutorKind(kind), spec, WorkerShape(1))) is made


@pytest.mark.parametrize(
    "kind, cpus, expected", [("threads", 1, 4), ("threads", 2, 2), ("threads", 8, 1), ("inline", 1, 1), ("ray", 1, 99)]
)
def test_there_are_no_more_threads_than_the_machine_has_cores_for(
    kind: str, cpus: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_model, "cores", lambda: 4)
    spec: Any = None
    assert open_executor(ExecutorKind(kind), spec, WorkerShape(99, cpus)).shape.maximum == expected


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"gpus": 1}, "threads of one process cannot have workers.gpus of their own"),
        ({"memory": "1GiB"}, "threads of one process cannot have workers.memory of their own"),
        ({"resources": {"unicorn": 1}}, "threads of one process cannot have workers.resources of their own"),
        ({"min": 3, "max": 3}, "workers.min 3 with workers.cpus 1 take more than this machine's 2 cores"),
        ({"cpus": 4}, "workers.min 1 with workers.cpus 4 take more than this machine's 2 cores"),
    ],
)
def test_threads_are_refused_where_the_job_asks_for_more(
    asked: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCACE_EXECUTOR", "threads")
    monkeypatch.setattr(shared_model, "cores", lambda: 2)
    check_threads(Workers(max=5))
    with pytest.raises(JobError) as refused:
        check_threads(Workers(**asked))
    assert str(refused.value) == f"PCACE_EXECUTOR threads: {said}; use ray, or leave the variable out"


def test_threads_are_refused_for_a_model_that_cannot_be_copied(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCACE_EXECUTOR", "threads")
    monkeypatch.setattr("pcace_dist.run.prepare.share_model", lambda *_, **__: None)
    with pytest.raises(JobError, match="PCACE_EXECUTOR threads: the model cannot be copied"):
        prepare(parse_job(digits_job(data, tmp_path / "run")))


def test_threads_can_be_asked_for_where_ray_is_there_and_the_run_is_large(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCACE_EXECUTOR", "threads")
    monkeypatch.setattr("pcace_dist.run.prepare.is_wanted", lambda: True)
    monkeypatch.setattr("pcace_dist.worker.shared_model.ROWS", 10)
    preparation = prepare(parse_job(digits_job(data, tmp_path / "run")))
    assert preparation.executor == ExecutorKind.THREADS and preparation.shared_model is not None


def test_ray_can_be_asked_for_where_the_run_is_small(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcace_dist.run.prepare.is_wanted", lambda: False)
    monkeypatch.setenv("PCACE_EXECUTOR", "ray")
    assert prepare(parse_job(digits_job(data, tmp_path / "run"))).executor == ExecutorKind.RAY
    monkeypatch.delenv("PCACE_EXECUTOR")
    assert prepare(parse_job(digits_job(data, tmp_path / "run"))).executor == ExecutorKind.THREADS


@pytest.mark.parametrize("changes", [{}, {"stop": {"top": 3}, "statistics": {"keep_codes": True}}])
def test_inline_and_threads_give_the_same_bytes(
    changes: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {}
    for kind in (ExecutorKind.THREADS, ExecutorKind.INLINE):
        monkeypatch.setenv("PCACE_EXECUTOR", kind)
        runs[kind] = ranked(digits_job(data, tmp_path / kind, **changes))
    threads, inline = runs.values()
    assert threads.summary["workers_are"] == "threads of the driver"
    assert inline.summary["workers_are"] == "the driver itself" and inline.summary["workers"] == 1
    for name in ("rankings.parquet", "jackknife.parquet", "exemplars.parquet", "sample.parquet"):
        assert bytes_of(inline, name) == bytes_of(threads, name), name


def test_a_question_to_kept_codes_can_be_answered_inline(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCACE_EXECUTOR", "inline")
    base = ranked(digits_job(data, tmp_path / "base", statistics={"keep_codes": True}))
    answer = ranked(digits_job(tmp_path / "base", tmp_path / "answer"))
    assert answer.summary["workers_are"] == "the driver itself"
    assert bytes_of(answer, "rankings.parquet") == bytes_of(base, "rankings.parquet")
