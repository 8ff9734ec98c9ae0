"""What decodes is settled by the pilot and frozen; a worker decodes where the plan says. Without Ray.

There is no GPU here: the device is the processor, on which the device's decoder runs as it does on a GPU.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.config.job import parse_job
from pcace_dist.datasets.device_images import DeviceDecoder
from pcace_dist.datasets.sections import Decode
from pcace_dist.datasets.units import make_units
from pcace_dist.errors import JobError
from pcace_dist.models.device import Footprint
from pcace_dist.models.forward import Forward
from pcace_dist.models.precision import Numerics
from pcace_dist.models.targets import target_values
from pcace_dist.run.prepare import prepare
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import LocalStore
from pcace_dist.worker import encoder as encoder_module
from pcace_dist.worker import engine as engine_module
from pcace_dist.worker import pilot as pilot_module
from pcace_dist.worker import pilot_rows as pilot_rows_module
from pcace_dist.worker.admission import CheckRows, NotAdmitted
from pcace_dist.worker.engine import Engine
from pcace_dist.worker.pilot import _batch_that_fits, _Setting
from tests.datasets.helpers import encoded, picture, shard

HOST = torch.device("cpu")
ROWS, BROKEN = 70, (13, 41)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Photographs of several sizes, two of them cut short."""
    sizes = [(40, 30), (30, 40), (33, 33)]
    files = [encoded(picture(row, *sizes[row % 3]), "JPEG") for row in range(ROWS)]
    for row in BROKEN:
        files[row] = files[row][:-20]
    shard(tmp_path / "data/a.parquet", files, row_group=20, label=[row % 2 for row in range(ROWS)])
    return tmp_path / "data"


def job(data: Path, **changes: Any) -> dict[str, Any]:
    settings = {"mode": "L", "resize": 24, "crop": 20, "mean": [0.5], "std": [0.25]} | changes.pop("input", {})
    return {
        "dataset": {"path": str(data), "label": "label"},
        "model": {"factory": "tests.models.factories:small", "weights": "random", "input": settings},
        "layers": "all",
        "target": {"output": 0},
        "statistics": {"components": 2, "pilot": 48},
        "compute": {"batch": 16},
        "output": str(data.parent / "run"),
    } | changes


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gpu` is the processor."""

    def decoder_of(decode: str, device: torch.device) -> DeviceDecoder | None:
        return DeviceDecoder(HOST) if decode == "gpu" else None

    monkeypatch.setattr(pilot_module, "choose_decoder", lambda asked, device: "gpu" if asked == "gpu" else "cpu")
    for module in (pilot_rows_module, engine_module):
        monkeypatch.setattr(module, "decoder_of", decoder_of)


def worker(data: Path, decode: Decode, **changes: Any) -> tuple[Engine, Plan, CheckRows]:
    prepared = prepare(parse_job(job(data, **changes)))
    model = prepared.spec.model
    model = model.model_copy(update={"input": replace(model.input, decode=decode)})  # prepare wants a GPU for `gpu`
    engine = Engine(replace(prepared.spec, model=model), "w", LocalStore(str(data.parent / f"run-{decode}")))
    return engine, *engine.pilot(prepared.listing)


@pytest.mark.usefixtures("on_device")
def test_what_decodes_is_frozen_with_the_plan_and_named_in_the_numeric_class(data: Path) -> None:
    cases: list[tuple[Decode, str]] = [("auto", "cpu"), ("cpu", "cpu"), ("gpu", "gpu")]
    for decode, frozen in cases:
        _, plan, _ = worker(data, decode)
        facts = PlanMetadata.of(Plan.from_bytes(plan.to_bytes()))
        assert facts.decode == frozen
        assert facts.numeric_class.get("decode", "cpu") == frozen


def test_plans_that_do_not_say_mean_the_processor() -> None:
    facts = PlanMetadata(32, "float32", (8, 8), 2, "w", {"device": "cpu"}, {}, decode="gpu").to_json()
    del facts["decode"]
    assert PlanMetadata.of(_plan_with(facts)).decode == "cpu"


def _plan_with(metadata: dict[str, Any]) -> Plan:
    return Plan((), (), 1, 9, 16, "pixel", 32, json.loads(json.dumps(metadata)))


@pytest.mark.usefixtures("on_device")
def test_every_good_row_counts_and_broken_ones_have_the_same_reason(data: Path) -> None:
    found = {}
    for decode in ("cpu", "gpu"):
        engine, plan, check = worker(data, decode)
        engine.begin(plan, check, 1)
        (unit,) = make_units(prepare(parse_job(job(data))).listing, 100)
        report = engine.process(unit)
        found[decode] = report.count, [(bad.row, bad.stage, bad.reason) for bad in engine.buffer.bad]
    assert found["cpu"] == found["gpu"]
    assert found["gpu"][0].rows == ROWS - len(BROKEN)
    assert found["gpu"][1] == [(row, "decode", "truncated JPEG") for row in BROKEN]


@pytest.mark.usefixtures("on_device")
def test_a_worker_decodes_where_the_plan_says(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its own job file says: auto may come to mean something else one day."""
    _, plan, check = worker(data, "gpu")
    seen: list[Tensor] = []
    real = Forward.__call__

    def noting(self: Forward, images: Tensor, *rest: Any) -> Tensor:
        seen.append(images.clone())
        return real(self, images, *rest)

    engine, _, _ = worker(data, "auto")
    engine.begin(plan, check, 1)
    monkeypatch.setattr(Forward, "__call__", noting)
    (unit,) = make_units(prepare(parse_job(job(data))).listing, 100)
    engine.process(unit)
    files = [encoded(picture(row, *[(40, 30), (30, 40), (33, 33)][row % 3]), "JPEG") for row in range(ROWS)]
    expected = DeviceDecoder(HOST).images([files[i] for i in range(ROWS) if i not in BROKEN], engine.spec.images)
    assert torch.equal(torch.cat(seen), torch.stack([one for one in expected if isinstance(one, Tensor)]))


@pytest.mark.usefixtures("on_device")
def test_a_worker_of_another_decoder_is_not_admitted(data: Path) -> None:
    _, plan, check = worker(data, "gpu")
    facts = dict(plan.facts)
    facts["decode"] = "cpu"  # as if a worker had taken the plan for one of the processor's
    engine, _, _ = worker(data, "auto")
    with pytest.raises(NotAdmitted, match="this worker's decode is None, the plan's gpu"):
        engine.begin(replace(plan, facts=facts), check, 1)


def test_a_worker_without_a_gpu_names_the_key(data: Path) -> None:
    engine, plan, check = worker(data, "auto")
    facts = dict(plan.facts) | {"decode": "gpu"}
    facts["numeric_class"] = {**facts["numeric_class"], "decode": "gpu"}  # type: ignore[dict-item]
    with pytest.raises(JobError, match=r"^model\.input\.decode gpu: the workers have no GPU; set workers\.gpus"):
        engine.begin(replace(plan, facts=facts), check, 1)


def test_a_job_without_gpus_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        prepare(parse_job(job(tmp_path / "nowhere", input={"decode": "gpu"})))
    assert str(caught.value) == (
        "model.input.decode gpu: the workers have no GPU; set workers.gpus: 1, or use model.input.decode: cpu"
    )


def test_batches_and_the_decoder_on_the_device_count_when_the_batch_is_chosen(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of memory has room for 16 images, and for fewer where twelve batches of bytes lie beside them."""
    engine, _, _ = worker(data, "cpu")
    image = torch.zeros((1, 1, 20, 20), dtype=torch.uint8)
    found: list[Footprint] = []
    monkeypatch.setattr(pilot_module, "memory_beside", lambda threads: 1000 * threads)

    def noting(footprint: Footprint, *_: Any) -> int:
        found.append(footprint)
        return 1

    monkeypatch.setattr(pilot_module, "choose_batch", noting)
    for decode in ("cpu", "gpu"):
        _batch_that_fits(_Setting([engine.model], engine.spec, HOST, decode, Numerics()), image)
    assert replace(found[1], waiting=0, decoding=0) == found[0]
    assert (found[0].waiting, found[0].decoding) == (0, 0)
    assert (found[1].waiting, found[1].decoding) == (12 * 400, 1000)


@pytest.mark.parametrize("bad", [False, True])
def test_rows_that_all_count_are_encoded_without_a_copy_to_the_device(
    data: Path, monkeypatch: pytest.MonkeyPatch, bad: bool
) -> None:
    """Such a copy would wait for the next batch, on which a GPU is working by then."""
    engine, plan, check = worker(data, "cpu")
    engine.begin(plan, check, 1)
    moved: list[int] = []

    def noting(rows: Tensor, device: torch.device) -> Tensor:
        moved.append(len(rows))
        return rows.to(device)

    monkeypatch.setattr(encoder_module, "to_device", noting)
    if bad:

        def without_first(*arguments: Any) -> Any:
            values = target_values(*arguments)[0]
            values[0] = np.nan
            return values, {0: "none"}

        monkeypatch.setattr(encoder_module, "target_values", without_first)
    (unit,) = make_units(prepare(parse_job(job(data))).listing, 100)
    report = engine.process(unit)
    batches = -(-(ROWS - len(BROKEN)) // 16)
    assert moved == ([15] * (batches - 1) + [(ROWS - len(BROKEN)) % 16 - 1] if bad else [])
    assert report.count.rows == ROWS - len(BROKEN) - (batches if bad else 0)
