"""The measurement counts what a run counts, writes nothing, and refuses what a run would refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pcace_dist.cli.main import main
from pcace_dist.commands.measure import estimate
from pcace_dist.config.job import parse_job
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.run.rank import run_job
from pcace_dist.storage.store import LocalStore
from pcace_dist.worker.engine import Engine
from tests.planted import RHO, write_planted

pytestmark = pytest.mark.usefixtures("local_ray")

Json = dict[str, Any]
ROWS = 900


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    write_planted(folder, ROWS, row_group=100)
    return folder


def job(data: Path, output: Path, **changes: Any) -> Json:
    return {
        "dataset": {"path": str(data), "label": "label"},
        "model": {"factory": "tests.planted:planted_network", "weights": "factory", "input": {"mode": "L"}},
        "layers": "all",
        "target": [{"column": "exponential"}, {"column": "square"}],
        "statistics": {"components": 1, "pilot": 256},
        "workers": {"max": 2},
        "output": str(output),
    } | changes


@pytest.fixture(scope="module")
def found(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Json:
    output = tmp_path_factory.mktemp("out") / "run"
    made = estimate(parse_job(job(data, output, group_by="label")), workers=(8, 1), price=2.0, imports=3.0)
    json.dumps(made)
    assert not output.exists()
    return made


def test_it_counts_what_there_is(found: Json, data: Path) -> None:
    assert (found["images"], found["files"], found["groups"], found["targets"]) == (ROWS, 3, 2, 2)
    assert (found["channels"], found["layers"], found["batch"]) == (len(RHO), 1, 128)
    stored = sum(
        pq.read_metadata(path).row_group(group).column(column).total_compressed_size
        for path in data.glob("*.parquet")
        for group in range(pq.read_metadata(path).num_row_groups)
        for column in range(4)
    )
    assert found["bytes"] == pytest.approx(stored, rel=0.05)  # the images of one unit are not quite like all


@pytest.mark.jobs
def test_its_units_and_traffic_are_those_of_the_run(found: Json, data: Path, tmp_path: Path) -> None:
    made = parse_job(job(data, tmp_path / "run", group_by="label"))
    assert run_job(made) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["units"] == summary["units"]
    assert found["images"] == summary["images"]
    receipts = Ledger(LocalStore(str(tmp_path / "run"))).load().accepted_receipts()
    written = sum(file.size for receipt in receipts for file in receipt.files.values())
    assert written < 20 * found["here"]["bytes_written"]  # small attempts are mostly headers


def test_every_stage_takes_time_and_costs(found: Json) -> None:
    for one in (found["here"], *found["predictions"]):
        stages = ("start", "pilot", "main_pass", "reduce", "publish")
        assert all(one[stage] > 0 for stage in stages)
        assert one["seconds"] == pytest.approx(sum(one[stage] for stage in stages))
        assert one["price"] == pytest.approx(2.0 * one["workers"] * one["seconds"] / 3600)
    assert [one["workers"] for one in found["predictions"]] == [1, 8]
    assert found["suggested"]["workers"] >= 1
    assert found["suggested"]["memory"] > found["memory"]["worker"]


def test_the_driver_and_a_worker_take_as_long_to_import_as_this_process(found: Json) -> None:
    assert found["timings"]["driver"] > 3.0
    assert found["timings"]["worker"] > 3.0


def test_the_pilot_is_made_once_and_a_unit_twice(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("pilot", "process", "flush", "reduce"):
        done = getattr(Engine, name)

        def counted(self: Engine, *arguments: Any, _name: str = name, _done: Any = done) -> Any:
            calls.append(_name)
            return _done(self, *arguments)

        monkeypatch.setattr(Engine, name, counted)
    estimate(parse_job(job(data, tmp_path / "run")))
    assert calls == ["pilot", *["process", "flush"] * 2, *["reduce"] * 6]


def test_memory_is_at_least_what_the_process_took_at_its_peak(found: Json) -> None:
    assert found["memory"]["worker"] >= found["memory"]["process"] > 100 << 20
    assert found["suggested"]["memory"] % (1 << 29) == 0


@pytest.mark.jobs
def test_a_filter_is_counted(data: Path, tmp_path: Path) -> None:
    dataset = {"path": str(data), "label": "label", "filter": {"label": 1}}
    made = estimate(parse_job(job(data, tmp_path / "run", dataset=dataset, group_by="label")))
    kept = sum(sum(pq.read_table(path)["label"].to_pylist()) for path in data.glob("*.parquet"))
    assert (made["images"], made["groups"]) == (kept, 1)


def test_a_job_for_gpus_is_not_timed_on_a_processor(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job(data, tmp_path / "run", workers={"max": 2, "gpus": 1})))
    assert "workers.gpus: 0" in refused(path, capsys, [])


def refused(path: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    assert main(["estimate", str(path), *arguments]) == 2
    progress = tuple(f"pcace estimate: {stage}" for stage in ("listing", "start-up", "pilot"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line not in progress]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("override", "part"),
    [("layers=[nowhere]", "nowhere"), ("dataset.filter={label: 7}", "keeps no rows"), ("target={column: no2}", "no2")],
)
def test_what_a_run_would_refuse_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, part: str
) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job(data, tmp_path / "run")))
    assert part in refused(path, capsys, ["--set", override])


def test_kept_codes_need_no_estimate(
    without_ray: None, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = job(data, tmp_path / "run")
    kept["statistics"] |= {"keep_codes": True}
    assert run_job(parse_job(kept)) == 0
    capsys.readouterr()
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job(data, tmp_path / "again", dataset={"path": str(tmp_path / "run")})))
    assert "kept codes" in refused(path, capsys, [])


def test_the_text_and_the_numbers_say_the_same(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job(data, tmp_path / "run")))
    assert main(["estimate", str(path), "--json", "--workers", "4"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert [one["workers"] for one in numbers["predictions"]] == [4]
    assert main(["estimate", str(path), "--workers", "4", "--price", "0.5"]) == 0
    text = capsys.readouterr().out
    assert f"images:     {ROWS} images in 3 files" in text
    assert " 2 here " in text
    assert "price" in text
