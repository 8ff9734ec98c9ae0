"""Small runs of the model by threads of the driver's process: which they are, and that they give Ray's bytes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from pcace_dist.artifacts.run import open_run
from pcace_dist.config.job import Job, parse_job
from pcace_dist.datasets.listing import DataFile, Listing
from pcace_dist.datasets.loader import Batch
from pcace_dist.datasets.units import Unit, make_units, rows_per_unit
from pcace_dist.executors import ray_session
from pcace_dist.executors.choice import ExecutorKind
from pcace_dist.models.forward import Forward, numeric_class
from pcace_dist.models.settings import settings_restored
from pcace_dist.run import rank as rank_module
from pcace_dist.run.prepare import prepare
from pcace_dist.storage.store import open_store
from pcace_dist.worker import pilot, shared_model
from pcace_dist.worker.admission import NotAdmitted
from pcace_dist.worker.engine import Abandoned, Engine
from pcace_dist.worker.pilot_maps import PilotMaps
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


# -- which runs


def asked(rows: int = 300, **workers: Any) -> tuple[Job, Listing]:
    job = parse_job(planted_job(Path("data"), Path("run"), workers={"max": 2} | workers))
    return job, Listing((DataFile("data/a", "a", 1000, "v", (rows,)),), pa.schema([]))


def count(job: Job, listing: Listing) -> int | None:
    found = shared_model.share_model(job, listing, planted_network())
    return None if found is None else found.workers


@pytest.mark.parametrize(
    "cores, workers, expected",
    [
        (2, {}, 2),
        (1, {}, 1),
        (8, {}, 2),
        (8, {"max": 5}, 5),
        (8, {"max": 5, "cpus": 2}, 4),
        (8, {"max": 5, "cpus": 0.5}, 5),
        (2, {"min": 2}, 2),
        (1, {"min": 2}, None),
        (2, {"cpus": 4}, None),
        (2, {"resources": {"unicorn": 1}}, None),
        (2, {"memory": "1GiB"}, None),
    ],
)
def test_as_many_workers_as_there_are_cores_for_and_none_where_more_is_asked_for(
    cores: int, workers: dict[str, Any], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_model, "cores", lambda: cores)
    assert count(*asked(**workers)) == expected


def test_many_rows_large_models_and_such_as_cannot_be_copied_are_for_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_model, "cores", lambda: 2)
    assert count(*asked(shared_model.ROWS)) == 2
    assert count(*asked(shared_model.ROWS + 1)) is None
    network = planted_network()
    network.__dict__["held"] = (line for line in "a generator cannot be copied")
    assert shared_model.share_model(*asked(), network) is None
    monkeypatch.setattr(shared_model, "MODEL_BYTES", 8)
    assert count(*asked()) is None


def replaced_forward(network: nn.Module) -> None:
    forward = network.forward
    network.forward = lambda images: forward(images)


def hooked(network: nn.Module) -> None:
    network.register_forward_hook(lambda *_: network.training)


def with_default(network: nn.Module) -> None:
    network.register_forward_hook(lambda *_, whole=network: None)


def harmless(network: nn.Module) -> None:
    network.register_forward_hook(lambda *_: None)
    network.forward = network.__call__  # a method is copied with its module


@pytest.mark.parametrize(
    "change, expected", [(replaced_forward, None), (hooked, None), (with_default, None), (harmless, 2)]
)
def test_models_whose_copies_would_lead_back_to_them_are_for_ray(
    change: Callable[[nn.Module], None], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_model, "cores", lambda: 2)
    network = planted_network()
    change(network)
    found = shared_model.share_model(*asked(), network)
    assert (None if found is None else found.workers) == expected


@pytest.mark.parametrize("address, wanted, named", [(None, 0, 0), ("", 0, 0), ("local", 1, 0), ("10.0.0.1:6379", 1, 1)])
def test_ray_address_asks_for_ray(
    address: str | None, wanted: int, named: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert (ray_session.is_wanted(), ray_session.names_a_cluster()) == (bool(wanted), bool(named))


def test_a_run_that_was_begun_is_for_ray(data: Path, tmp_path: Path, without_ray: None) -> None:
    preparation = prepare(parse_job(digits_job(data, tmp_path / "run")))
    assert rank_module._here_or_on_ray(preparation, first=True).executor == ExecutorKind.THREADS
    assert rank_module._here_or_on_ray(preparation, first=False).executor == ExecutorKind.RAY


# -- the same bytes


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [128, 2048])
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
    job["model"] = job["model"] | {"factory": "tests.run.test_shared_model:the_only_network"}
    shared = ranked(job)
    assert shared.summary["workers_are"] == "threads of the driver" and shared.summary["workers"] == 2
    monkeypatch.setattr("pcace_dist.run.prepare.is_wanted", lambda: True)
    own = ranked(planted_job(tmp_path / "data", tmp_path / "own", statistics={"components": 1, "pilot": 300}))
    assert bytes_of(shared) == bytes_of(own)


# -- what a pilot of all rows leaves


def wide_network() -> nn.Module:
    """Maps of 64 x 28 x 28: large enough to be multiplied where they lie."""
    return nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(7), nn.Flatten(), nn.Linear(1024, 10))


WIDE = {"factory": "tests.run.test_shared_model:wide_network", "weights": "random"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "batch, dataset, keep_codes, model",
    [
        (48, {}, False, {}),
        (7, {"filter": {"odd": True}, "fold_by": "writer", "id": "name"}, True, {}),
        (16, {}, True, WIDE),
    ],
)
def test_what_the_pilot_has_forwarded_is_what_the_main_pass_would_forward(
    data: Path,
    tmp_path: Path,
    precision: str,
    batch: int,
    dataset: dict[str, Any],
    keep_codes: bool,
    model: dict[str, str],
) -> None:
    compute = {"precision": precision, "batch": batch}
    statistics = {"pilot": ROWS, "keep_codes": keep_codes}
    more = {"statistics": statistics, "dataset": dataset, "group_by": "place", "layers": "all"}
    job = digits_job(data, tmp_path / "run", compute=compute, **more)
    prepared = prepare(parse_job(job | {"model": job["model"] | model}))
    units = make_units(prepared.listing, rows_per_unit(prepared.listing))
    store = open_store(str(tmp_path / "run"), prepared.spec.storage)
    engines = [Engine(prepared.spec, name, store) for name in ("pilot", "other")]
    plan, check = engines[0].pilot(prepared.listing)
    assert engines[0].pilot_cache.units.keys() == {unit.id for unit in units}
    files, reports = [], []
    for engine in engines:
        engine.begin(plan, check, 1)
        done = [engine.process(unit, upcoming) for unit, upcoming in zip(units, (*units[1:], None), strict=True)]
        receipt = engine.flush()
        assert receipt is not None
        files.append({name: ref.sha256 for name, ref in receipt.files.items()})
        reports.append([replace(one, seconds={}, forwarded=0, of_pilot=False) for one in done])
        assert [one.of_pilot for one in done] == [engine is engines[0]] * len(units)
    assert files[0] == files[1]
    assert reports[0] == reports[1]
    assert not engines[0].pilot_cache.units, "given back as they are used"


def test_a_model_that_gives_something_else_each_time_is_not_admitted(data: Path, tmp_path: Path) -> None:
    prepared = prepare(parse_job(digits_job(data, tmp_path / "run", compute={"precision": "float32"})))
    engine = Engine(prepared.spec, "pilot", open_store(str(tmp_path / "run"), prepared.spec.storage))
    plan, check = engine.pilot(prepared.listing)
    with torch.no_grad():
        next(engine.model.parameters()).mul_(1.01)
    with pytest.raises(NotAdmitted, match="check codes differently"):
        engine.begin(plan, check, 1)


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


def left_by_a_pilot(data: Path, output: Path, **changes: Any) -> tuple[Engine, tuple[Unit, ...]]:
    """A worker with a plan, which has forwarded all units in the pilot."""
    prepared = prepare(parse_job(digits_job(data, output, statistics={"pilot": ROWS}, **changes)))
    engine = Engine(prepared.spec, "pilot", open_store(str(output), prepared.spec.storage))
    plan, check = engine.pilot(prepared.listing)
    engine.begin(plan, check, 1)
    return engine, make_units(prepared.listing, rows_per_unit(prepared.listing))


def test_what_is_left_is_maps_without_pixels_and_is_given_up_when_told_to_stop(data: Path, tmp_path: Path) -> None:
    engine, units = left_by_a_pilot(data, tmp_path / "run")
    left = [one.batch for unit in engine.pilot_cache.units.values() for one in unit.batches]
    assert sum(len(batch.images) for batch in left) == ROWS
    assert sum(batch.images.numel() for batch in left) == 0
    engine.stop()
    with pytest.raises(Abandoned):
        engine.process(units[0])


@pytest.mark.parametrize("batch, most", [(8, 32), (64, 64)])
def test_the_pilot_holds_the_maps_of_few_rows_at_a_time(
    data: Path, tmp_path: Path, batch: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read 128 at a time, whatever goes through the model together."""
    held: list[int] = []
    run = PilotMaps._run

    def counted(self: PilotMaps, forward: Forward, rows: Batch, layers: Collection[str]) -> Any:
        held.append(len(rows))
        return run(self, forward, rows, layers)

    monkeypatch.setattr(PilotMaps, "_run", counted)
    monkeypatch.setattr(pilot, "choose_batch", lambda *_: batch)
    engine, units = left_by_a_pilot(data, tmp_path / "run", compute={"batch": "auto"})
    assert sum(held) == ROWS and max(held) == most
    left = {unit.id: [len(one.batch) for one in engine.pilot_cache.units[unit.id].batches] for unit in units}
    for unit in units:
        assert left[unit.id] == [min(batch, unit.rows - start) for start in range(0, unit.rows, batch)]


def test_what_was_read_ahead_is_discarded_when_a_unit_that_was_left_comes_instead(data: Path, tmp_path: Path) -> None:
    engine, (first, second, third, *_) = left_by_a_pilot(data, tmp_path / "run")
    for unit in (first, second):
        engine.pilot_cache.take(unit.id)
    engine.process(first, second)
    ahead = engine.sources.reader.stream(second)
    reading = not ahead.closed
    assert engine.process(third).of_pilot
    assert reading and ahead.closed
    assert engine.process(second).count.rows == second.rows


def test_a_pilot_of_some_rows_leaves_nothing(data: Path, tmp_path: Path) -> None:
    prepared = prepare(parse_job(digits_job(data, tmp_path / "run", statistics={"pilot": ROWS - 1})))
    engine = Engine(prepared.spec, "pilot", open_store(str(tmp_path / "run"), prepared.spec.storage))
    engine.pilot(prepared.listing)
    assert not engine.pilot_cache.units


def test_another_runs_plan_admits_only_its_numeric_class_also_where_it_was_taken(
    data: Path, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ranked(digits_job(data, tmp_path / "base"))
    given = digits_job(data, tmp_path / "given", statistics={"plan": base.path})
    prepared = prepare(parse_job(given))
    engine = Engine(prepared.spec, "pilot", open_store(str(tmp_path / "given"), prepared.spec.storage))
    plan, check = engine.pilot(prepared.listing)
    engine.begin(plan, check, 1)
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
        "print('ray' in sys.modules, file=sys.stderr)\nsys.exit(code)"
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
    assert done.stderr.splitlines()[-1] == "False"
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
    slow = job | {"model": job["model"] | {"factory": "tests.run.test_shared_model:slow_network"}}
    process = subprocess.Popen(
        command(slow, tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "pilot, 1 worker up" in line:
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
    factory = "tests.run.test_shared_model:slow_network"
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
