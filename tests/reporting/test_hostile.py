"""Hostile names in a real browser (make test-browser): markup, quotes, newlines, terminal codes, 10,000 characters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.config.job import parse_job
from pcace_dist.run.rank import run_job
from tests.reporting.browser import Tab, open_browser
from tests.reporting.conftest import quietly, square_job
from tests.reporting.opened import OpenedReport
from tests.reporting.square import HOSTILE, LONG, write_squares
from tests.whole_jobs import jobs_without_ray

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer, columns, groups and ids are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    write_squares(folder / "data", 300)
    for file in (folder / "data").iterdir():
        table = pq.read_table(file)
        groups = pa.array([(HOSTILE, LONG)[i % 2] for i in range(len(table))])
        ids = pa.array([f"{HOSTILE}{file.name}{i}" for i in range(len(table))])
        table = table.append_column(HOSTILE, groups).append_column("name", ids).append_column(LONG, table["amount"])
        pq.write_table(table, file, row_group_size=100)
    model = {"factory": "tests.reporting.square:HostileNetwork", "weights": "factory", "input": {"mode": "L"}}
    changes = {"layers": ["look.*.0"], "target": [{"logit": "label"}, {"column": LONG}], "group_by": HOSTILE}
    job = square_job(folder / "data", folder / "run", model=model, **changes)
    job["dataset"] |= {"id": "name"}
    with jobs_without_ray():
        assert run_job(parse_job(job)) == 0
    return Path(quietly(folder / "run", synthesis=False).path)


def test_hostile_names_are_text_in_the_file(page: Path) -> None:
    opened = OpenedReport(page)
    assert {group["name"] for group in opened.data["groups"]} == {HOSTILE, LONG}
    outside = opened.text
    for packed in ("packed-plotly", "packed-data"):
        outside = outside.replace(opened.scripts[packed], "")
    assert "<script>hacked" not in outside and "<img src=x" not in outside


@pytest.mark.parametrize("width", [1280, 400])
def test_hostile_names_are_text_on_the_page(browser: Any, page: Path, width: int) -> None:
    tab = Tab(browser, page, width=width)
    for title in tab.texts("nav a"):
        tab.view(title)
        tab.wait_for_charts()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, f"{title} is wider than the screen"
        assert tab.page.locator("main img[src=x], main b:not(.bar-track b), main script").count() == 0
        assert "<script>h" in tab.page.inner_text("main")
    assert tab.page.evaluate("window.hacked") is None
    tab.view("Channels")
    with tab.page.expect_download() as download:
        tab.page.locator("figure >> text=CSV").first.click()
    assert len(download.value.suggested_filename) < 80
    assert tab.said == [] and tab.outside == []
    tab.page.close()
