"""The pilot on a few planted images: what it reads, what it refuses; neither memory nor models change its plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.config.job import parse_job
from pcace_dist.datasets.loader import Batch
from pcace_dist.errors import DatasetError, JobError, ModelError
from pcace_dist.models.forward import Forward
from pcace_dist.run.prepare import Preparation, prepare
from pcace_dist.statistics import lanes
from pcace_dist.statistics.folds import FOLD_HASH
from pcace_dist.statistics.lanes import LANES, LAPACK
from pcace_dist.worker import pilot as pilot_module
from pcace_dist.worker import pilot_maps
from pcace_dist.worker.pilot import Piloted, make_plan
from pcace_dist.worker.pilot_maps import PilotMaps
from pcace_dist.worker.pilot_rows import PilotRows
from tests.planted import write_planted

CPU = torch.device("cpu")
ROWS, UNIT, BATCH = 200, 100, 32  # two units; the last batch of each is not full
WITHOUT_TARGET = 133


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`part`: 110 rows of a, 90 of b; the target is missing in one of b's."""
    folder = tmp_path_factory.mktemp("pilot") / "data"
    write_planted(folder, ROWS, shards=1, row_group=UNIT)
    path = folder / "part-00000.parquet"
    table = pq.read_table(path)
    values = table["exponential"].to_pylist()
    values[WITHOUT_TARGET] = None
    table = table.set_column(1, "exponential", pa.array(values))
    table = table.append_column("part", pa.array(["a" if row < 110 else "b" for row in range(ROWS)]))
    pq.write_table(table, path, row_group_size=UNIT)
    return folder


def prepared(data: Path, **changes: Any) -> Preparation:
    statistics = {"components": 1, "knots": 5, "pilot": ROWS} | changes.pop("statistics", {})
    dataset = {"path": str(data), "label": "label"} | changes.pop("dataset", {})
    job = {
        "dataset": dataset,
        "model": {"factory": "tests.planted:planted_network", "weights": "factory", "input": {"mode": "L"}},
        "layers": "all",
        "target": {"column": "exponential"},
        "statistics": statistics,
        "compute": {"batch": BATCH, "precision": "float32"},
        "output": str(data.parent / "run"),
    }
    return prepare(parse_job(job | changes))


def piloted(preparation: Preparation, models: int = 1, check: Callable[[], None] = lambda: None) -> Piloted:
    spec = preparation.spec
    copies = [spec.load_model() for _ in range(models)]
    return make_plan(copies, spec, preparation.listing, device=CPU, weights="weights", check=check)


def rows_of(preparation: Preparation, *, has_plan: bool = False, batch: int = BATCH) -> PilotRows:
    return PilotRows(
        preparation.spec,
        preparation.listing,
        batch=batch,
        has_plan=has_plan,
        device=CPU,
        decode="cpu",
        hash_name=FOLD_HASH,
        check=lambda: None,
    )


def maps_of(preparation: Preparation, *, cache: bool = False, models: int = 1) -> PilotMaps:
    """After the first pass."""
    spec, rows = preparation.spec, rows_of(preparation)
    mean, std = spec.model.input.mean, spec.model.input.std
    forwards = [Forward(spec.load_model().eval(), CPU, BATCH, mean, std, spec.layers) for _ in range(models)]
    maps = PilotMaps(forwards, spec, lambda: None)
    maps.read(rows, rows.most_rows, cache=cache)
    return maps


# -- what it reads


@pytest.mark.parametrize("pilot, has_plan, units, took_all", [(200, False, True, True), (199, False, False, False)])
def test_a_pilot_that_takes_every_row_reads_whole_units(
    data: Path, pilot: int, has_plan: bool, units: bool, took_all: bool
) -> None:
    rows = rows_of(prepared(data, statistics={"pilot": pilot}), has_plan=has_plan)
    total = sum(len(batch) for batch in rows)
    assert (rows.reads_units, rows.took_all, rows.most_rows) == (units, took_all, pilot)
    assert total == pilot


def test_with_another_runs_plan_only_the_rows_for_admission_are_read(data: Path) -> None:
    rows = rows_of(prepared(data), has_plan=True)
    assert sum(len(batch) for batch in rows) == rows.most_rows == 32 and not rows.took_all and not rows.reads_units


def test_batches_can_be_gone_through_again_and_are_read_once(data: Path) -> None:
    rows = rows_of(prepared(data))
    first, second = list(rows), list(rows)
    assert len(first) == len(second) and all(one is other for one, other in zip(first, second, strict=True))
    assert [len(batch) for batch in first] == [32, 32, 32, 4] * 2


def test_units_hold_the_batches_as_they_went_through_the_model(data: Path) -> None:
    units = piloted(prepared(data)).units
    assert [[len(cached.batch) for cached in unit.batches] for unit in units.values()] == [[32, 32, 32, 4]] * 2
    cached = next(iter(units.values())).batches[-1]
    padded: list[torch.Tensor] = []
    outputs = cached.forward(cached.batch.images, lambda name, maps, shape: padded.append(maps))
    assert outputs.shape == (4, 2) and padded[0].shape[0] == BATCH and cached.batch.images.shape == (4, 0)
    with pytest.raises(ValueError, match="5 images: 4 were forwarded"):
        cached.forward(torch.empty(5, 0), lambda *_: None)
    assert not piloted(prepared(data, statistics={"pilot": ROWS - 1})).units


# -- what it finds


def test_usable_rows_are_counted_by_group(data: Path) -> None:
    assert maps_of(prepared(data)).group_sizes() == Counter({None: 199})
    assert maps_of(prepared(data, group_by="part")).group_sizes() == Counter({"a": 110, "b": 89})


def test_the_maps_of_rows_without_a_target_are_left_out_of_every_pass(data: Path) -> None:
    maps = maps_of(prepared(data))
    assert maps.targets.shape == (199, 1) and np.isfinite(maps.targets).all()
    for _ in range(2):
        assert sum(len(next(iter(batch.values()))) for batch in maps.passes()) == 199


def test_the_plan_is_the_same_whatever_is_kept_and_whatever_the_number_of_models(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = piloted(prepared(data))
    several = piloted(prepared(data), models=3)
    monkeypatch.setattr(pilot_maps, "_budget", lambda: 0.0)
    again = piloted(prepared(data))
    assert kept.plan.digest == several.plan.digest == again.plan.digest
    assert kept.check.to_bytes() == several.check.to_bytes() == again.check.to_bytes()
    assert kept.units.keys() == several.units.keys() and kept.units and not again.units, (
        "without maps, nothing to cache"
    )
    assert (kept.repeats, several.repeats, again.repeats) == (False, True, False), (
        "with two models, and maps to compare"
    )


def test_a_copy_of_the_model_that_gives_something_else_does_not_repeat_the_pilot(data: Path) -> None:
    maps = maps_of(prepared(data), cache=True, models=2)
    assert maps.repeats()
    with torch.no_grad():
        next(maps._forwards[-1].model.parameters()).mul_(1.01)
    assert not maps.repeats()


def test_the_plan_says_what_model_images_and_machine_are(data: Path) -> None:
    facts = PlanMetadata.of(piloted(prepared(data)).plan)
    assert (facts.batch, facts.precision, facts.image_shape, facts.outputs) == (BATCH, "float32", (4, 32), 2)
    assert (facts.weights, facts.decode, facts.numeric_class["batch"]) == ("weights", "cpu", BATCH)
    assert len(facts.weight_norms["read"]) == 8
    assert facts.solver == LAPACK and "solver" not in facts.to_json()


def test_a_large_job_is_solved_in_lanes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "FEWEST_VALUES", ROWS)
    assert PlanMetadata.of(piloted(prepared(data)).plan).solver == LANES


def test_check_rows_are_the_first_usable_ones(data: Path) -> None:
    check = piloted(prepared(data)).check
    first = next(iter(rows_of(prepared(data))))
    assert torch.equal(check.images, first.images) and check.codes["read"].shape == (32, 8, 1)


# -- the batch


def test_a_batch_that_is_chosen_is_halved_until_it_fits(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    run = PilotMaps._run

    def full_above_eight(self: PilotMaps, forward: Forward, batch: Batch, layers: Any) -> Any:
        tried.append(forward.batch_size)
        if forward.batch_size > 8:
            raise torch.OutOfMemoryError
        return run(self, forward, batch, layers)

    monkeypatch.setattr(PilotMaps, "_run", full_above_eight)
    monkeypatch.setattr(pilot_module, "choose_batch", lambda *_: 32)
    plan = piloted(prepared(data, compute={"batch": "auto", "precision": "float32"})).plan
    assert PlanMetadata.of(plan).batch == 8 and sorted(set(tried)) == [8, 16, 32]
    with pytest.raises(JobError, match=r"^compute\.batch 32: memory of this machine runs out"):
        piloted(prepared(data))


# -- what it refuses


def refusal(data: Path, kind: type[Exception], **changes: Any) -> str:
    with pytest.raises(kind) as caught:
        piloted(prepared(data, **changes))
    return str(caught.value)


def test_too_few_images_are_refused_where_all_are_known(data: Path) -> None:
    filtered = {"filter": {"part": "b"}}
    few = refusal(data, DatasetError, dataset=filtered, statistics={"knots": 25})
    assert few.startswith("dataset: 89 images are too few for a ranking, which takes 96 at least; take more images")
    grouped = refusal(data, DatasetError, group_by="part", statistics={"knots": 32})
    assert grouped.startswith("group_by part: none of the 2 groups has the 124 images that a ranking takes at least; ")
    assert "the largest: a 110, b 89; " in grouped
    assert piloted(prepared(data, group_by="part", statistics={"knots": 28})).plan.knots == 28, "one group is enough"


def test_what_is_not_known_is_not_refused(data: Path) -> None:
    """A pilot of some rows does not know how many images the groups have."""
    assert piloted(prepared(data, group_by="part", statistics={"knots": 32, "pilot": 190})).plan.knots == 32


def test_a_filter_that_keeps_nothing_and_rows_without_targets_are_refused(data: Path, tmp_path: Path) -> None:
    assert refusal(data, DatasetError, dataset={"filter": {"part": "c"}}).startswith("dataset.filter: ")
    write_planted(tmp_path / "data", 40, shards=1)
    path = tmp_path / "data" / "part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "exponential", pa.array([None] * 40, pa.float64())), path)
    said = refusal(tmp_path / "data", ModelError)
    assert said.startswith("no row of the pilot can be used: ") and said.endswith("see model and target")


def test_labels_beyond_the_outputs_are_refused(data: Path, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 40, shards=1)
    path = tmp_path / "data" / "part-00000.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("label")
    pq.write_table(table.set_column(at, "label", pa.array([row % 3 for row in range(40)])), path)
    said = refusal(tmp_path / "data", DatasetError, target={"logit": "label"})
    assert said.startswith("dataset.label label: label 2 is beyond the model's 2 outputs")


def test_what_the_check_raises_ends_the_pilot(data: Path) -> None:
    calls: list[None] = []

    def stop_at_the_third() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        piloted(prepared(data), check=stop_at_the_third)


def test_maps_that_do_not_fit_another_runs_plan_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preparation = prepared(data)
    plan = piloted(preparation).plan
    wider = replace(plan, layers=(replace(plan.layers[0], shape=(2, 1)),))
    for given in (plan, wider):
        monkeypatch.setattr(pilot_module, "plan_of_run", lambda *_, given=given: given)
        spec = replace(preparation.spec, plan="runs/base")
        if given is plan:
            assert make_plan([spec.load_model()], spec, preparation.listing, device=CPU, weights="other").plan.layers
            continue
        with pytest.raises(ModelError, match=r"layer read has maps of 8 x 1 x 1 here, 8 x 2 x 1 in the plan"):
            make_plan([spec.load_model()], spec, preparation.listing, device=CPU, weights="weights")
