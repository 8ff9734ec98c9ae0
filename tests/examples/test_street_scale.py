"""The large city of examples/street/scale.py: rows by the million in pieces, here some thousand, from the CSV to the
ranking."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from examples.street import scale
from examples.street.city import HEADINGS, NOISE, City, city_of, expected_no2, make_city
from examples.street.runs import MEASURED, mean_score, picture_size
from examples.street.scale import pieces, write_scale
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.cli.main import main
from tests.whole_jobs import jobs_without_ray

EXAMPLE = Path(__file__).parents[2] / "examples" / "street"
ROWS, SCENES = 6_001, 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    path = write_scale(folder, rows=ROWS, scenes=SCENES, seed=5)
    assert main(["pack", str(path), str(folder / "shards"), "--image-column", "path", "--shard-rows", "2500"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[Run]:
    changes = {
        "dataset.path": folder / "shards",
        "dataset.fold_by": "scene",
        "model.weights": EXAMPLE / "weights-32.safetensors",
        "output": folder / "run",
    }
    sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    with jobs_without_ray():
        assert main(["rank", str(EXAMPLE / "job.yaml"), *sets, "--top", "1"]) == 0
        yield open_run(str(folder / "run"))


def test_every_row_is_packed_with_an_id_of_its_own_and_the_picture_of_its_scene(folder: Path) -> None:
    table = pq.read_table(folder / "shards")
    assert len(table) == ROWS
    views = set(zip(table["panorama"].to_pylist(), table["heading"].to_pylist(), strict=True))
    assert len(views) == ROWS
    bytes_of = {path.name: path.read_bytes() for path in (folder / "images").iterdir()}
    assert len(bytes_of) == HEADINGS * SCENES
    for row in (0, 1, 2_600, ROWS - 1):
        name = scale.picture_name(table["scene"][row].as_py(), table["heading"][row].as_py() // (360 // HEADINGS))
        assert table["image"][row]["bytes"].as_py() == bytes_of[name]


def test_rows_of_a_scene_have_what_is_seen_in_it_and_a_place_and_no2_of_their_own(folder: Path) -> None:
    table = pq.read_table(folder / "shards")
    city, scene = city_of(table), np.asarray(table["scene"].to_numpy())
    scenes = make_city(SCENES, seed=6)
    assert (city.vehicles == scenes.vehicles[HEADINGS * scene + city.view]).all()
    assert np.allclose(city.traffic, scenes.traffic[HEADINGS * scene], atol=1e-4)
    rest = city.no2 - expected_no2(city.latitude, city.longitude, city.traffic, city.greenery)
    assert abs(np.nanmean(rest)) < 0.2 and abs(np.nanstd(rest) - NOISE) < 0.15
    alike = scene == scene[0]
    assert len(set(city.latitude[alike])) == len(set(city.panorama[alike])) > 1


def test_a_city_is_made_in_pieces_and_the_first_rows_are_the_same_however_many_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scale, "PIECE", 50)
    scenes = make_city(10, seed=6)
    few, many = (list(pieces(rows, scenes, seed=5)) for rows in (230, 1_001))
    assert [len(table) for table in many] == [200, 200, 200, 200, 200, 1]
    assert pa.concat_tables(few).equals(pa.concat_tables(many).slice(0, 230))


def test_the_csv_is_read_with_the_types_that_were_written(folder: Path) -> None:
    table = pacsv.read_csv(folder / "stations.csv")
    assert table.schema.field("scene").type == pa.int64() and table.schema.field("no2").type == pa.float64()


def test_the_service_ranks_all_rows_that_have_a_value_borough_by_borough_for_both_targets(
    run: Run, folder: Path
) -> None:
    city: City = city_of(pq.read_table(folder / "shards"))
    unknown = int(np.isnan(city.no2).sum())
    assert run.summary["images"] == ROWS - unknown and run.summary["bad_rows"] == unknown > 0
    ranking = run.ranking()
    assert ranking.num_rows == 2 * 4 * 64 and set(ranking["status"].to_pylist()) == {"ok"}
    assert picture_size(run) == scale.SIZE


def test_channels_score_for_the_no2_where_traffic_counts(run: Run) -> None:
    """As in the small city; the prediction hangs on traffic everywhere."""
    there, not_there = (mean_score(run, MEASURED, name, "conv3", range(24)) for name in ("Northgate", "Harbour"))
    assert there.low > not_there.high


def test_a_watched_command_keeps_its_exit_code_and_its_memory_is_seen(tmp_path: Path) -> None:
    out = tmp_path / "seen.json"
    code = "import time; held = b'1' * 60_000_000; time.sleep(1.2); raise SystemExit(3)"
    command = [sys.executable, "-m", "examples.street.watched", "--out", str(out), sys.executable, "-c", code]
    done = subprocess.run(command, cwd=EXAMPLE.parents[1], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    seen = json.loads(out.read_text())
    assert seen["seconds"] > 1 and 60_000_000 < seen["bytes"]["command"] < 200_000_000
    assert "most memory: command" in done.stdout
