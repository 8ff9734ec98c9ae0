"""Whole jobs in threads of the driver's process: they give Ray's bytes, also where they are stopped or killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from pcace_dist.artifacts.run import open_run
from pcace_dist.config.job import parse_job
from pcace_dist.errors import StatisticsError
from pcace_dist.executors.choice import ExecutorKind
from pcace_dist.models.forward import numeric_class
from pcace_dist.models.settings import settings_restored
from pcace_dist.run import rank as rank_module
from pcace_dist.run.prepare import prepare
from pcace_dist.storage.store import open_store
from pcace_dist.worker import shared_model
from pcace_dist.worker.admission import NotAdmitted
from pcace_dist.worker.engine import Engine
from tests.digits import bytes_of, digits_job, ranked, records, write_digits
from tests.planted import planted_network, write_planted
from tests.run.test_main_job import ROOT, planted_job

ROWS = 300  # units of 100 and 50 rows: the last batch of each is not full


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_digits(tmp_path / "data", ROWS, files=2)
    return tmp_path / "data"


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own, whatever other tests have started here."""
    monkeypatch.setattr("pcace_dist.run.prepare.is_wanted", lambda: False)
    monkeypatch.setattr(shared_model, "cores", lambda: 2)


def test_a_run_that_was_begun_is_for_ray(data: Path, tmp_path: Path, without_ray: None) -> None:
    preparation = prepare(parse_job(digits_job(data, tmp_path / "run")))
    assert rank_module._here_or_on_ray(preparation, first=True).executor == ExecutorKind.THREADS
    assert rank_module._here_or_on_ray(preparation, first=False).executor == ExecutorKind.RAY


@pytest.mark.parametrize(
    "rows, precision",
    [
        (128, "float32"),
        (2048, "bfloat16"),
        pytest.param(128, "bfloat16", marks=pytest.mark.jobs),
        pytest.param(2048, "float32", marks=pytest.mark.jobs),
    ],
)
def test_threads_give_the_bytes_of_ray(
    local_ray: None, data: Path, tmp_path: Path, precision: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"statistics": {"pilot": rows}, "compute": {"precision": precision}, "layers": "all"}
    on_ray = ranked(digits_job(data, tmp_path / "ray", **changes))
    with monkeypatch.context() as patch:
        patch.setattr("pcace_dist.run.prepare.is_wanted", lambda: False)
        patch.setattr(shared_model, "cores", lambda: 2)
        here = ranked(digits_job(data, tmp_path / "here", **changes))
    assert on_ray.summary["workers_are"] == "Ray actors" and "ray" in on_ray.summary["stages"]
    assert here.summary["workers_are"] == "threads of the driver" and "ray" not in here.summary["stages"]
    assert here.summary["workers"] == 2
    for name in ("rankings.parquet", "jackknife.parquet", "exemplars.parquet", "sample.parquet"):
        assert bytes_of(here, name) == bytes_of(on_ray, name), name
    assert here.summary["plan"] == on_ray.summary["plan"]


_ONLY: list[nn.Module] = []


def the_only_network() -> nn.Module:
    """A factory that gives the same module each time, as a cached one does."""
    if not _ONLY:
        _ONLY.append(planted_network())
    return _ONLY[0]


def test_a_factory_that_gives_one_module_again_and_again(
    local_ray: None, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_planted(tmp_path / "data", 600)
    job = planted_job(tmp_path / "data", tmp_path / "shared", statistics={"components": 1, "pilot": 300})
    job["model"] = job["model"] | {"factory": "tests.run.test_jobs_in_threads:the_only_network"}
    shared = ranked(job)
    assert shared.summary["workers_are"] == "threads of the driver" and shared.summary["workers"] == 2
    monkeypatch.setattr("pcace_dist.run.prepare.is_wanted", lambda: True)
    own = ranked(planted_job(tmp_path / "data", tmp_path / "own", statistics={"components": 1, "pilot": 300}))
    assert bytes_of(shared) == bytes_of(own)


def test_bad_rows_are_set_aside_once_whoever_met_them(
    local_ray: None, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    write_planted(tmp_path / "data", 600, shards=1)
    path = tmp_path / "data" / "part-00000.parquet"
    table = pq.read_table(path)
    images, values = table["image"].to_pylist(), table["exponential"].to_pylist()
    images[0], images[300], values[599] = b"not an image", None, float("nan")
    table = table.set_column(0, "image", pa.array(images, pa.binary()))
    pq.write_table(table.set_column(1, "exponential", pa.array(values)), path, row_group_size=100)
    whole = ranked(planted_job(tmp_path / "data", tmp_path / "whole"))
    assert (whole.summary["images"], whole.summary["bad_rows"]) == (597, 3)
    assert whole.summary["worker_stages"]["forward"] < whole.summary["stages"]["pilot"]
    given = planted_job(
        tmp_path / "data", tmp_path / "given", statistics={"components": 1, "plan": str(tmp_path / "whole")}
    )
    monkeypatch.setattr("pcace_dist.run.prepare.is_wanted", lambda: True)
    again = ranked(given)  # forwards all rows in the main pass, under the same plan
    for name in ("rankings.parquet", "bad_rows.parquet", "sample.parquet"):
        assert bytes_of(again, name) == bytes_of(whole, name)


def test_another_runs_plan_admits_only_its_numeric_class_also_where_it_was_taken(
    data: Path, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ranked(digits_job(data, tmp_path / "base"))
    given = digits_job(data, tmp_path / "given", statistics={"plan": base.path})
    prepared = prepare(parse_job(given))
    engine = Engine(prepared.spec, "pilot", open_store(str(tmp_path / "given"), prepared.spec.storage))
    plan, check = engine.pilot(prepared.listing)
    engine.begin(plan, check, 1)
    with pytest.raises(StatisticsError, match="the plan's solver is another, which is not known here"):
        engine.begin(replace(plan, facts={**plan.facts, "solver": "another"}), check, 1)
    monkeypatch.setattr(
        "pcace_dist.worker.engine.numeric_class", lambda *a, **k: numeric_class(*a, **k) | {"tap": "another"}
    )
    with pytest.raises(NotAdmitted, match="this worker's tap is another"):
        engine.begin(plan, check, 2)


# -- as a command


def command(job: dict[str, Any], folder: Path) -> list[str]:
    (folder / "job.json").write_text(json.dumps(job))
    code = (
        "import sys\nfrom pcace_dist.cli.main import main\n"
        f"code = main(['rank', {str(folder / 'job.json')!r}, '--top', '1'])\n"
        "print([name for name in ('ray',) if name in sys.modules], file=sys.stderr)\nsys.exit(code)"
    )
    return [sys.executable, "-c", code]


def test_the_command_says_that_it_did_without_ray_and_never_imports_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PCACE_LOG", "INFO")
    done = subprocess.run(
        command(digits_job(data, tmp_path / "run", workers={"max": 1}), tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "1 worker in this process, without Ray" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"
    assert "attempt e00001-a0001-f00001 is recorded" in done.stderr


def slow_network(seconds: float = 1.0) -> nn.Module:
    """Takes its time for a batch."""
    network = planted_network()
    network.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    return network


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.jobs), signal.SIGINT])
def test_stopped_in_the_pilot_it_ends_within_a_batch_and_goes_on_with_ray(
    local_ray: None, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_planted(tmp_path / "data", 3000)
    job = planted_job(tmp_path / "data", tmp_path / "run", workers={"max": 1})
    slow = job | {"model": job["model"] | {"factory": "tests.run.test_jobs_in_threads:slow_network"}}
    process = subprocess.Popen(
        command(slow, tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "1 worker up" in line and "pilot" in line:
                break
        process.send_signal(number)
        began = time.monotonic()
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 5, errors
        assert time.monotonic() - began < 60, "a pilot of 32 batches and more, a second each, was not waited for"
    finally:
        process.kill()
        process.wait()
    stopped = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (stopped["outcome"], stopped["exit_code"]) == ("stopped", 5)
    assert rank_module.run_job(parse_job(job)) == 0
    assert open_run(str(tmp_path / "run")).summary["workers_are"] == "Ray actors"


@pytest.mark.jobs
def test_killed_it_goes_on_with_ray_to_the_same_bytes(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PCACE_FLUSH_SECONDS", "0.001")
    write_planted(tmp_path / "data", 600)
    settings = {"statistics": {"components": 1, "pilot": 100}, "compute": {"batch": 32}, "workers": {"max": 1}}
    job = planted_job(tmp_path / "data", tmp_path / "run", **settings)
    factory = "tests.run.test_jobs_in_threads:slow_network"
    slow = job | {"model": job["model"] | {"factory": factory, "kwargs": {"seconds": 0.3}}}
    with subprocess.Popen(command(slow, tmp_path), cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not records(tmp_path / "run", "accept") and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert records(tmp_path / "run", "accept") and not records(tmp_path / "run", "done")
    on = ranked(slow)
    assert on.summary["workers_are"] == "Ray actors" and on.summary["units"] > 1
    assert bytes_of(on) == bytes_of(ranked(job | {"output": str(tmp_path / "undisturbed")}))


def test_the_process_has_its_settings_back(
    data: Path, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with settings_restored():
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(2)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic = False
        before = torch_settings()
        assert ranked(digits_job(data, tmp_path / "run")).summary["workers_are"] == "threads of the driver"
        assert torch_settings() == before


def torch_settings() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        pa.default_memory_pool().backend_name,
    )
