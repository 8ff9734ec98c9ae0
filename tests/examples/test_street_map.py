"""The map in the report of examples/street, in a real browser: are the boroughs where the city has them?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.street.city import BOROUGHS, SOUTH, WEST, WIDTH, borough_of, make_city
from tests.examples.street_files import Ranked, rank_city
from tests.reporting.browser import Tab, open_browser
from tests.whole_jobs import jobs_without_ray

pytestmark = pytest.mark.browser

DRAWN = "document.querySelector('.plot').dataset.drawn"
TRACES = "document.querySelector('.plot').data.map(t => ({name: t.name, x: t.x, y: t.y, z: t.z, count: t.customdata}))"
AXES = "(({xaxis, yaxis}) => [...xaxis.range, ...yaxis.range])(document.querySelector('.plot')._fullLayout)"


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranked]:
    with jobs_without_ray():
        yield rank_city(make_city(200, views=2, seed=7), tmp_path_factory.mktemp("city"))


@pytest.fixture(scope="module")
def tab(ranked: Ranked) -> Iterator[Tab]:
    with open_browser() as browser:
        tab = Tab(browser, Path(ranked.run.path) / "report.html")
        tab.view("Map")
        tab.wait_for_charts()
        yield tab
        assert tab.said == [] and tab.outside == []


def traces(tab: Tab, **choices: str) -> list[dict[str, Any]]:
    """What the map draws once so much has been chosen."""
    for name, label in choices.items():
        tab.page.select_option(f"#map-{name}", label=label)
    tab.page.wait_for_function(DRAWN)
    found: list[dict[str, Any]] = tab.page.evaluate(TRACES)
    return found


def test_every_borough_lies_in_its_quarter_of_the_city(tab: Tab, ranked: Ranked) -> None:
    found = {trace["name"]: trace for trace in traces(tab, value="borough", groups="all groups")}
    assert sorted(found) == sorted(BOROUGHS)
    for index, name in enumerate(BOROUGHS):
        x, y = (np.array(found[name][axis], np.float64) for axis in "xy")
        assert (borough_of(y, x) == index).all()
        expected = (ranked.city.borough == index) & np.isfinite(ranked.city.no2)
        assert len(x) == expected.sum() > 30
        assert np.allclose(np.sort(x), np.sort(ranked.city.longitude[expected]), atol=1e-5)


def test_the_map_is_drawn_no_wider_than_the_city_and_at_its_own_proportions(tab: Tab) -> None:
    traces(tab, value="target column:no2", kind="single images", groups="all groups")
    west, east, south, north = tab.page.evaluate(AXES)
    assert WEST - 0.2 * WIDTH < west < east < WEST + 1.2 * WIDTH
    assert SOUTH - 0.2 * WIDTH < south < north < SOUTH + 1.2 * WIDTH
    box = tab.page.locator(".plot .cartesianlayer .bglayer, .plot .plotbg, .plot .nsewdrag").first.bounding_box()
    degrees = (box["width"] / (east - west)) / (box["height"] / (north - south))
    assert abs(degrees - np.cos(np.radians(SOUTH + WIDTH / 2))) < 0.02


def test_cells_hold_the_mean_of_the_no2_that_was_measured_there(tab: Tab, ranked: Ranked) -> None:
    (cells,) = traces(tab, value="target column:no2", kind="mean by cell", groups="all groups")
    z, count = (np.array(cells[name], np.float64) for name in ("z", "count"))
    known = np.isfinite(ranked.city.no2)
    assert count.sum() == known.sum() and (np.isfinite(z) == (count > 0)).all()
    assert np.nansum(z * count) / count.sum() == pytest.approx(ranked.city.no2[known].mean(), abs=0.01)


def test_one_borough_alone_can_be_shown(tab: Tab, ranked: Ranked) -> None:
    (points,) = traces(tab, value="target column:no2", kind="single images", groups="borough Harbour")
    x, y = (np.array(points[axis], np.float64) for axis in "xy")
    assert len(x) > 30 and (borough_of(y, x) == BOROUGHS.index("Harbour")).all()
