"""The measurement counts what a run counts, writes nothing, and refuses what a run would refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.cli.main import main
from pcace_dist.commands import measure
from pcace_dist.commands.estimate_report import to_json
from pcace_dist.commands.measure import estimate
from pcace_dist.config.job import parse_job
from pcace_dist.config.sections import Compute
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.run.rank import run_job
from pcace_dist.storage.store import LocalStore
from tests.planted import RHO, write_planted

pytestmark = pytest.mark.usefixtures("local_ray")

Json = dict[str, Any]
ROWS = 900
IMPORT_SECONDS = measure._import_seconds


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Nothing here is about how exact a measurement is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "LEAST_SECONDS", 0.02)
        patch.setattr(measure, "PILOT_SECONDS", 0.1)
        patch.setattr(measure, "_import_seconds", lambda: (2.0, 1.0))
        yield


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
    made = to_json(estimate(parse_job(job(data, output, group_by="label")), workers=(1, 8), price=2.0))
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
    assert found["suggested"]["memory"] > found["memory"]["process"]


def test_imports_are_timed_in_a_python_of_their_own() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_import_seconds", IMPORT_SECONDS)
        python, imports = measure._import_seconds()
    assert python > imports > 0


@pytest.mark.parametrize(
    ("forwarded", "patience", "terms", "passes_again"),
    [
        (8, 1e4, (0.0, 5.0, 0.8), 0),  # all batches
        (128, 1e4, (0.0, 5.0, 12.8), 0),
        (8, 10.0, (0.0, 5.0, 0.8), 3),  # two batches, and what is forwarded again by a pilot whose maps are not kept
        (128, 10.0, (0.0, 5.0, 12.8), 3),
    ],
)
def test_the_pilots_seconds_are_those_of_the_plans_batch(
    forwarded: int, patience: float, terms: tuple[float, ...], passes_again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five seconds of any pilot, a tenth for an image and its padding."""
    trial = measure._Trial.__new__(measure._Trial)
    trial.__dict__.update(_spec=SimpleNamespace(compute=Compute(batch=forwarded)), _plan=None, _pilot_rows=2048)
    monkeypatch.setattr(measure, "PILOT_SECONDS", patience)
    monkeypatch.setattr(trial, "_timed_pilot", lambda rows: 5 + 0.1 * -(-rows // forwarded) * forwarded)
    monkeypatch.setattr(trial, "_maps_of_pilot", lambda: (0, 3))
    monkeypatch.setattr(PlanMetadata, "of", lambda _: SimpleNamespace(batch=forwarded))
    assert trial._pilot() == pytest.approx(terms)
    assert trial._passes_again == passes_again


def test_the_first_use_of_everything_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = measure._Trial.__new__(measure._Trial)
    trial.__dict__.update(_spec=SimpleNamespace(compute=Compute(batch=64)), _plan=None, _pilot_rows=50)
    monkeypatch.setattr(measure, "PILOT_SECONDS", 10.0)
    seconds = iter((4.0, 1.5))
    monkeypatch.setattr(trial, "_timed_pilot", lambda rows: next(seconds))
    monkeypatch.setattr(trial, "_maps_of_pilot", lambda: (7, 0))
    monkeypatch.setattr(PlanMetadata, "of", lambda _: SimpleNamespace(batch=64))
    assert trial._pilot() == (2.5, 0.0, 1.5)  # a pilot of a single batch


@pytest.mark.jobs
def test_a_filter_is_counted(data: Path, tmp_path: Path) -> None:
    dataset = {"path": str(data), "label": "label", "filter": {"label": 1}}
    made = estimate(parse_job(job(data, tmp_path / "run", dataset=dataset, group_by="label")))
    kept = sum(sum(pq.read_table(path)["label"].to_pylist()) for path in data.glob("*.parquet"))
    assert made.load.images == kept
    assert made.load.groups == 1


@pytest.mark.jobs
def test_a_job_for_gpus_is_timed_on_the_processor_and_says_so(data: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    asked = job(data, tmp_path / "run", workers={"max": 2, "gpus": 1})
    asked["model"] |= {"input": {"mode": "L", "decode": "gpu"}}
    made = estimate(parse_job(asked))
    assert made.device == "cpu"
    assert "no GPU here" in made.notes[0]


def refused(path: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    assert main(["estimate", str(path), *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("pcace estimate: listing")]
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
    assert f"images:     {ROWS} in 3 files" in text
    assert "2 on this machine" in text
    assert "price" in text
