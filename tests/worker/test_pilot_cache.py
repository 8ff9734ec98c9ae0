"""What a pilot of all rows leaves for the main pass: batches that need not be forwarded again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.config.job import parse_job
from pcace_dist.datasets.loader import Batch
from pcace_dist.datasets.units import Unit, make_units, rows_per_unit
from pcace_dist.models.forward import Forward
from pcace_dist.models.tap import Receive
from pcace_dist.run.prepare import prepare
from pcace_dist.storage.store import open_store
from pcace_dist.worker import engine as worker_engine
from pcace_dist.worker import pilot
from pcace_dist.worker.admission import NotAdmitted
from pcace_dist.worker.engine import Abandoned, Engine
from pcace_dist.worker.pilot_maps import PilotMaps
from tests.digits import digits_job, write_digits

ROWS = 300  # units of 100 and 50 rows: the last batch of each is not full


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_digits(tmp_path / "data", ROWS, files=2)
    return tmp_path / "data"


def wide_network() -> nn.Module:
    """Maps of 64 x 28 x 28: large enough to be multiplied where they lie."""
    return nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(7), nn.Flatten(), nn.Linear(1024, 10))


WIDE = {"factory": "tests.worker.test_pilot_cache:wide_network", "weights": "random"}


ODD = {"filter": {"odd": True}, "fold_by": "writer", "id": "name"}


@pytest.mark.parametrize(
    "precision, batch, dataset, keep_codes, model",
    [
        ("float32", 48, {}, False, {}),
        ("bfloat16", 48, {}, False, {}),
        ("float32", 7, ODD, True, {}),
        ("bfloat16", 7, ODD, True, {}),
        ("bfloat16", 16, {}, True, WIDE),
        pytest.param("float32", 16, {}, True, WIDE, marks=pytest.mark.jobs),
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
    settings = {"statistics": statistics, "dataset": dataset, "group_by": "place", "layers": "all"}
    job = digits_job(data, tmp_path / "run", compute=compute, **settings)
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
        reports.append([replace(report, seconds={}, forwarded=0, of_pilot=False) for report in done])
        assert [report.of_pilot for report in done] == [engine is engines[0]] * len(units)
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


@pytest.mark.parametrize("workers, copies, passes", [(1, 1 << 30, [16]), (2, 1 << 30, []), (2, 0, [16])])
def test_a_worker_of_the_pilots_process_forwards_nothing_where_two_copies_have_repeated_a_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, copies: int, passes: list[int]
) -> None:
    monkeypatch.setattr(worker_engine, "COPIES_BYTES", copies)
    prepared = prepare(parse_job(digits_job(data, tmp_path / "run", statistics={"pilot": ROWS}, compute={"batch": 16})))
    engine = Engine(prepared.spec, "pilot", open_store(str(tmp_path / "run"), prepared.spec.storage))
    plan, check = engine.pilot(prepared.listing, workers)
    forwarded: list[int] = []
    call = Forward.__call__

    def counted(self: Forward, images: Tensor, receive: Receive | None = None) -> Tensor:
        forwarded.append(len(images))
        return call(self, images, receive)

    monkeypatch.setattr(Forward, "__call__", counted)
    admission = engine.begin(plan, check, 1)
    assert forwarded == passes
    assert (admission.numeric_class, admission.differing) == (PlanMetadata.of(plan).numeric_class, 0.0)


def left_by_a_pilot(data: Path, output: Path, **changes: Any) -> tuple[Engine, tuple[Unit, ...]]:
    """A worker with a plan, which has forwarded all units in the pilot."""
    prepared = prepare(parse_job(digits_job(data, output, statistics={"pilot": ROWS}, **changes)))
    engine = Engine(prepared.spec, "pilot", open_store(str(output), prepared.spec.storage))
    plan, check = engine.pilot(prepared.listing)
    engine.begin(plan, check, 1)
    return engine, make_units(prepared.listing, rows_per_unit(prepared.listing))


def test_what_is_left_is_maps_without_pixels_and_is_given_up_when_told_to_stop(data: Path, tmp_path: Path) -> None:
    engine, units = left_by_a_pilot(data, tmp_path / "run")
    batches = [cached.batch for unit in engine.pilot_cache.units.values() for cached in unit.batches]
    assert sum(len(batch.images) for batch in batches) == ROWS
    assert sum(batch.images.numel() for batch in batches) == 0
    engine.stop()
    with pytest.raises(Abandoned):
        engine.process(units[0])


@pytest.mark.parametrize("batch, most", [(8, 32), (64, 64)])
def test_the_pilot_holds_the_maps_of_few_rows_at_a_time(
    data: Path, tmp_path: Path, batch: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read 128 at a time, whatever goes through the model together."""
    batch_rows: list[int] = []
    run = PilotMaps._run

    def counted(self: PilotMaps, forward: Forward, rows: Batch, layers: Collection[str]) -> Any:
        batch_rows.append(len(rows))
        return run(self, forward, rows, layers)

    monkeypatch.setattr(PilotMaps, "_run", counted)
    monkeypatch.setattr(pilot, "choose_batch", lambda *_: batch)
    engine, units = left_by_a_pilot(data, tmp_path / "run", compute={"batch": "auto"})
    assert sum(batch_rows) == ROWS and max(batch_rows) == most
    cached_rows = {
        unit.id: [len(cached.batch) for cached in engine.pilot_cache.units[unit.id].batches] for unit in units
    }
    for unit in units:
        assert cached_rows[unit.id] == [min(batch, unit.rows - start) for start in range(0, unit.rows, batch)]


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
