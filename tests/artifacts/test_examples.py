"""Rows to show: how they are stored, and that a run publishes the same ones whatever its workers did."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pcace_dist.artifacts import transforms
from pcace_dist.artifacts.examples import ExampleRows, exemplars_table, sample_table
from pcace_dist.artifacts.run import open_run
from pcace_dist.artifacts.transforms import pick_transforms, transforms_table
from pcace_dist.config.job import parse_job
from pcace_dist.datasets.rows import RowRef
from pcace_dist.run.rank import run_job
from pcace_dist.statistics.plan import Plan
from tests.planted import GREY_PER_UNIT, latent, write_planted
from tests.run.test_main_job import planted_job
from tests.statistics.helpers import codes_of, plan_of

SHOWN = ("exemplars.parquet", "sample.parquet", "transforms.parquet")


@pytest.fixture(scope="module")
def plan() -> Plan:
    random = np.random.default_rng(0)
    return plan_of(random.standard_normal((100, 3, 9)), {"y": random.standard_normal(100)}, components=2)


def shown(plan: Plan, rows: range, groups: list[Any]) -> ExampleRows:
    examples = ExampleRows(plan)
    random = np.random.default_rng(rows.start)
    maps, y = random.standard_normal((len(rows), 3, 9)), random.standard_normal(len(rows))
    codes, shared = codes_of(plan, maps, {"y": y}, np.arange(len(rows)) % 16)
    refs = [RowRef("part.parquet", 0, row, f"id {row}") for row in rows]
    examples.update({"layer": codes}, shared, refs, groups, [None, *rows[1:]])
    return examples


@pytest.mark.parametrize(
    "value", [7, "text", None, True, 2.5, datetime.date(2026, 1, 2), b"bytes"], ids=lambda v: type(v).__name__
)
def test_files_of_an_attempt_are_read_back_with_groups_of_any_type(plan: Plan, value: Any) -> None:
    examples = shown(plan, range(40), [value] * 39 + [None])
    again = ExampleRows.from_files(plan, examples.files())
    assert again.top.to_bytes() == examples.top.to_bytes()
    rows, loaded = examples.sample.rows(), again.sample.rows()
    assert rows is not None and loaded is not None
    assert sample_table(loaded, plan).equals(sample_table(rows, plan))
    more = shown(plan, range(40, 60), [value] * 20)
    merged = ExampleRows(plan).merge([more, again])
    straight = ExampleRows(plan).merge([examples, more])
    assert merged.files() == straight.files()


def test_no_rows_make_no_files(plan: Plan) -> None:
    assert ExampleRows(plan).files() == {}
    assert len(exemplars_table(ExampleRows(plan).top, plan)) == 0


@pytest.fixture(scope="module")
def planted(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    write_planted(folder / "data", 2000)
    assert run_job(parse_job(planted_job(folder / "data", folder / "two", group_by="label"))) == 0
    return folder


def test_one_worker_publishes_the_same_rows_as_two(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCACE_FLUSH_SECONDS", "0.01")  # an attempt for every unit
    job = planted_job(planted / "data", planted / "one", group_by="label", workers={"max": 1})
    assert run_job(parse_job(job)) == 0
    assert open_run(str(planted / "one")).summary["attempts"] > open_run(str(planted / "two")).summary["attempts"]
    for name in SHOWN:
        assert pq.read_table(planted / "one" / name).equals(pq.read_table(planted / "two" / name)), name


def test_exemplars_are_the_rows_with_the_brightest_block(planted: Path) -> None:
    u, _ = latent(2000, 0)
    grey = np.clip(np.rint(128 + GREY_PER_UNIT * u), 0, 255)
    numbers, seen = {}, 0  # of a file's first image in the whole data set
    for path in sorted((planted / "data").glob("*.parquet")):
        numbers[path.name] = seen
        seen += pq.read_metadata(path).num_rows
    exemplars = pq.read_table(planted / "two" / "exemplars.parquet").to_pandas()
    assert len(exemplars) == 8 * 16
    for channel, rows in exemplars.groupby("channel"):
        brightness = [grey[numbers[file] + row, channel] for file, row in zip(rows.file, rows.row, strict=True)]
        assert brightness == sorted(brightness, reverse=True)
        assert brightness == sorted(grey[:, channel], reverse=True)[:16]
        # the mean of the map is the block's brightness itself, up to the grid
        assert np.allclose(rows.mean_activation, np.array(brightness) / 255, atol=1e-3)
        assert list(rows.place) == list(range(16))


def test_the_sample_carries_group_label_targets_and_codes(planted: Path) -> None:
    table = pq.read_table(planted / "two" / "sample.parquet")
    assert len(table) == 2000  # a small run: all of them
    assert table["group"].to_pylist() == table["label"].to_pylist()
    assert table.schema.field("group").type == pa.int64()
    assert set(table.column_names) >= {"codes/read", "means/read", "targets", "fold"}
    assert len(table["codes/read"][0].as_py()) == 8 and len(table["targets"][0].as_py()) == 2
    exponential = np.array(table["targets"].to_pylist())[:, 0]
    assert np.all(np.diff(table["key"].to_numpy()) > 0)
    assert exponential.min() > -0.01


def test_transforms_of_a_small_run_are_complete_and_correlate_positively(planted: Path) -> None:
    table = pq.read_table(planted / "two" / "transforms.parquet")
    assert len(table) == 2 * 2 * 8
    ranking = pq.read_table(planted / "two" / "rankings.parquet")
    keys = ["target", "group", "layer", "channel"]
    assert table.select(keys).equals(ranking.select(keys))
    first = next(row for row in table.to_pylist() if row["group"] == 1)  # channel 0 follows v most closely
    y = np.corrcoef(first["target_knots"], first["theta"])[0, 1]
    x = np.corrcoef(first["knots"], first["phi"])[0, 1]
    assert abs(y) > 0.7 and abs(x) > 0.7


def test_of_many_channels_the_best_and_the_worst_are_published(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "MOST_ROWS", 3)
    blocks = []
    for start, squared in ((0, [0.1, 0.9, 0.5]), (3, [0.7, 0.2, 0.05])):
        blocks += pick_transforms(plan, plan.layers[0].name, start, {"a": [fake_scores(plan, squared)]})
    table = transforms_table(replace(plan, layers=(wide(plan),)), blocks, pa.string())
    assert table["channel"].to_pylist() == [1, 3, 5]


def fake_scores(plan: Plan, squared: list[float]) -> Any:
    count = len(squared)
    return SimpleNamespace(
        status=np.array(["ok"] * count),
        score_squared=np.array(squared),
        phi=np.zeros((count, plan.components, plan.knots), np.float32),
        theta=np.zeros((count, plan.knots), np.float32),
    )


def wide(plan: Plan) -> Any:
    layer = plan.layers[0]
    return replace(layer, channels=6, knots=torch.cat([layer.knots, layer.knots]))
