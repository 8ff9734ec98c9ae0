"""The example in examples/street: a city whose air is known, from raw pictures over pack and rank to the report."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from examples.street.city import (
    BOROUGHS,
    FACTORS,
    FROM_TRAFFIC,
    NOISE,
    TRAFFIC_COUNTS,
    city_of,
    expected_no2,
    make_city,
    pictures,
    saturating,
)
from examples.street.cuts import Ablated, ablate
from examples.street.figures import draw_figures
from examples.street.planted import SKY, TRAFFIC, TREES
from examples.street.planted_ranks import kinds_that_move, planted_ranks, rank_planted
from examples.street.runs import MEASURED, PREDICTION, model_of
from examples.street.scene import draw, jpeg
from examples.street.sight import redrawn
from examples.street.train import explained, load, predict
from examples.street.truth import SEES, best_from_one_picture, boroughs
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.config.job import parse_job
from pcace_dist.errors import UserError
from pcace_dist.run.rank import run_job
from tests.examples.street_files import EXAMPLE, JOB, Ranked, rank_city
from tests.whole_jobs import jobs_without_ray


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranked]:
    city = make_city(200, views=2, seed=7)
    no2 = city.no2.copy()
    no2[[20, 21]] = np.nan  # both views of a panorama, and one more is left to chance
    with jobs_without_ray():
        yield rank_city(replace(city, no2=no2), tmp_path_factory.mktemp("city"))


# -- from raw pictures to the report


def test_every_picture_of_the_table_is_packed_with_its_columns(small: Ranked) -> None:
    table = pq.read_table(Path(small.run.job.dataset.path[0]))
    assert table.drop_columns("image").equals(pacsv.read_csv(small.csv).drop_columns("path"))
    assert [image["path"] for image in table["image"].to_pylist()] == pacsv.read_csv(small.csv)["path"].to_pylist()


def test_pictures_without_no2_are_set_aside_with_the_reason(small: Ranked) -> None:
    missing = int(np.isnan(small.city.no2).sum())
    bad = small.run.bad_rows()
    assert missing >= 2 and len(bad) == missing
    assert set(bad["stage"].to_pylist()) == {"target"}
    assert all("column:no2" in reason for reason in bad["reason"].to_pylist())
    assert small.run.summary["images"] == len(small.city) - missing


def test_views_of_a_panorama_share_a_fold(small: Ranked) -> None:
    sample = small.run.sample()
    assert sample is not None
    rows = np.array(sample["row"].to_pylist()) + 150 * np.array(
        [int(name[5:10]) for name in sample["file"].to_pylist()]
    )
    folds: dict[int, set[int]] = {}
    for row, fold in zip(rows.tolist(), sample["fold"].to_pylist(), strict=True):
        folds.setdefault(row // 2, set()).add(fold)
    assert len(folds) > 150 and all(len(held) == 1 for held in folds.values())


def test_every_borough_has_a_ranking_for_the_prediction_and_for_what_was_measured(small: Ranked) -> None:
    table = small.run.ranking()
    pairs = set(zip(table["target"].to_pylist(), table["group"].to_pylist(), strict=True))
    assert pairs == {(target, name) for target in (PREDICTION, MEASURED) for name in BOROUGHS}
    assert len(table) == len(pairs) * 64


def test_the_report_draws_the_map(small: Ranked) -> None:
    places = small.report.data["places"]
    assert places["columns"] == ["latitude", "longitude"]


# -- what is known of the city, against the sample that lies in the repository


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("sample")
    job = yaml.safe_load(JOB.read_text())
    job["dataset"]["path"] = str(EXAMPLE / "data")
    job["model"]["weights"] = str(EXAMPLE / "weights.safetensors")
    with jobs_without_ray():
        assert run_job(parse_job(job | {"output": str(folder / "run")})) == 0
        yield open_run(str(folder / "run"))


@pytest.fixture(scope="module")
def ablated(sample: Run) -> Ablated:
    return ablate(sample, "conv3", panoramas=100, sizes=[6])


def test_the_best_channels_see_traffic_and_not_the_sky(ablated: Ablated) -> None:
    assert min(ablated.effects["vehicles"][:6]) > 0.5
    assert max(ablated.effects["sky"][:6]) < 0.05


def test_without_the_best_channels_the_prediction_hardly_depends_on_traffic(ablated: Ablated) -> None:
    cut = ablated.cuts[0]
    assert ablated.slope > 10
    assert cut.best.high < 0.3
    assert cut.random.low > cut.best.high and cut.random.value > 0.6
    assert cut.worst.low > 0.9


def test_channels_that_see_traffic_score_by_what_traffic_counts_for_the_no2_of_a_borough(
    sample: Run, ablated: Ablated
) -> None:
    rows = {row.name: row for row in boroughs(sample, "conv3", ablated.seeing("vehicles", SEES))}
    full = min(rows["Northgate"].measured.low, rows["Old Town"].measured.low)
    assert full > rows["Riverside"].measured.value > rows["Riverside"].measured.low > rows["Harbour"].measured.high
    assert min(row.prediction.low for row in rows.values()) > 0.8, "the network sees traffic everywhere alike"


def test_figures_show_every_channel_cut_borough_and_planted_city(sample: Run, ablated: Ablated, tmp_path: Path) -> None:
    found = boroughs(sample, "conv3", ablated.seeing("vehicles", SEES))
    planted = [{"seed": 3, "ranks": {TRAFFIC: [1, 2], TREES: [9, 10], SKY: [31, 32]}}]
    (tmp_path / "truth.json").write_text(
        json.dumps({"ablation": asdict(ablated), "boroughs": [asdict(row) for row in found]})
    )
    (tmp_path / "planted.json").write_text(json.dumps({"cities": planted}))
    names = draw_figures(tmp_path, tmp_path / "figures", tmp_path / "planted.json")
    drawn = {name: ElementTree.parse(tmp_path / "figures" / name).getroot() for name in names if name.endswith("svg")}
    shapes = {name: len(root.findall(".//{*}circle")) for name, root in drawn.items()}
    legend = {"sees.svg": 0, "cuts.svg": 3, "boroughs.svg": 2, "planted.svg": 3}
    assert {name: shapes[name] - legend[name] for name in shapes} == {
        "sees.svg": 0,
        "cuts.svg": 3 * len(ablated.cuts),
        "boroughs.svg": 2 * len(BOROUGHS),
        "planted.svg": 6,
    }
    cells = len(FACTORS) * (len(ablated.order) + 1)
    assert len(drawn["sees.svg"].findall(".//{*}rect")) == cells + 1 + 41  # the ground, the ramp
    with pytest.raises(UserError, match=r"truth\.json: no such file; python -m examples\.street\.truth"):
        draw_figures(tmp_path / "figures", tmp_path / "figures")


def test_the_sample_is_what_the_generator_draws(sample: Run) -> None:
    table = pq.read_table(EXAMPLE / "data")
    city = city_of(table)
    for row in (0, 400, 999):
        anew = jpeg(draw(city.factors(row), city.key(row)))
        pair = [Image.open(io.BytesIO(data)) for data in (table["image"][row]["bytes"].as_py(), anew)]
        packed, again = (np.asarray(image, np.int64) for image in pair)
        assert np.abs(packed - again).mean() < 1, "another libjpeg may round otherwise"


def test_the_network_comes_close_to_what_one_picture_can_tell(sample: Run) -> None:
    pictures = load(EXAMPLE / "data", "no2")
    assert 0.28 < explained(predict(model_of(sample), pictures.images), pictures.values) < best_from_one_picture() < 0.4


def test_the_whole_example_is_under_5_megabytes() -> None:
    files = [path for path in EXAMPLE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 5_000_000


# -- the generator and the planted network


def test_the_same_seed_draws_the_same_city() -> None:
    city, again = (make_city(5, views=2, seed=3) for _ in range(2))
    assert city.table().equals(again.table())
    assert list(pictures(city)) == list(pictures(again))
    assert list(pictures(make_city(5, views=2, seed=4))) != list(pictures(city))


def test_an_intervention_changes_one_factor_and_leaves_nobody_their_own() -> None:
    city = make_city(40, views=2, seed=3)
    other = redrawn(city, "sky")
    assert sorted(other.sky) == sorted(city.sky) and (other.sky != city.sky).all()
    changed = draw(other.factors(0), other.key(0)) != draw(city.factors(0), city.key(0))
    assert changed[:28].any() and not changed[36:].any(), "the sky is above the horizon"


@pytest.mark.parametrize("seed", range(3))
def test_planted_traffic_channels_never_see_the_sky_nor_the_others_a_vehicle(seed: int) -> None:
    city = make_city(20, views=1, seed=seed)
    for factor, moved in (("vehicles", {TRAFFIC: True, SKY: False}), ("sky", {TRAFFIC: False, SKY: True})):
        assert moved.items() <= kinds_that_move(seed, city, redrawn(city, factor)).items()


def test_no2_is_what_the_formula_says_and_traffic_counts_nothing_in_harbour() -> None:
    city = make_city(4000, views=1, seed=5)
    rest = city.no2 - expected_no2(city.latitude, city.longitude, city.traffic, city.greenery)
    known = np.isfinite(rest)
    assert 0.005 < 1 - known.mean() < 0.015
    assert abs(rest[known].mean()) < 0.15 and abs(rest[known].std() - NOISE) < 0.1
    for index, counts in enumerate(TRAFFIC_COUNTS):
        there = known & (city.borough == index)
        slope = np.polyfit(saturating(city.traffic[there]), city.no2[there], 1)[0]
        assert abs(slope - FROM_TRAFFIC * counts) < 1.5
    assert abs(np.corrcoef(city.sky[known], city.no2[known])[0, 1]) < 0.05


# -- full size (make test-apps)


@pytest.mark.apps
def test_planted_traffic_channels_are_on_top_in_nine_of_ten_cities_and_the_skys_are_not(tmp_path: Path) -> None:
    with jobs_without_ray():
        found = [planted_ranks(rank_planted(seed, tmp_path / str(seed)), seed) for seed in range(10)]
    assert sum(one.traffic_is_on_top for one in found) >= 9, found
    assert sum(one.sky_is_not for one in found) >= 9, found
