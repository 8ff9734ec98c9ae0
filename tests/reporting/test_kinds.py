"""Reports of runs of all kinds in a real browser: wide and narrow, light and dark, on paper; not a word, no request."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pypdf
import pytest

from tests.reporting.browser import Tab, open_browser
from tests.reporting.kinds import KINDS, from_codes, mnist_by_digit, street_regression
from tests.whole_jobs import jobs_without_ray

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

Kind = Callable[[Path], Path]
GROUPED = (mnist_by_digit, street_regression)
WITHOUT_PLACES = (mnist_by_digit, from_codes)  # of codes there is no sample


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


@pytest.fixture(scope="module")
def page(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with jobs_without_ray():
        return kind(tmp_path_factory.mktemp(kind.__name__))


@pytest.mark.parametrize("width", [1280, 400])
def test_every_view_of_every_kind(browser: Any, kind: Kind, page: Path, width: int) -> None:
    tab = Tab(browser, page, width=width)
    tab.page.emulate_media(reduced_motion="reduce")  # colours change at once
    titles = tab.texts("nav a")
    assert ("Groups" in titles, "Map" in titles) == (kind in GROUPED, kind not in WITHOUT_PLACES)
    assert any("vidence" in title for title in titles) == (kind is not from_codes)
    for title in titles:
        tab.view(title)
        for scheme in ("dark", "light"):
            tab.page.click("#scheme")
            tab.wait_for_charts()
            assert tab.page.get_attribute("html", "data-scheme") == scheme
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, f"{title} is wider than the screen"
        assert tab.violations() == [], title
    assert tab.page.locator("main .plot, main table, main img").count() >= 1
    assert tab.said == [] and tab.outside == []
    tab.page.close()


def test_every_kind_on_paper(browser: Any, page: Path) -> None:
    tab = Tab(browser, page, scheme="dark")
    titles = tab.texts("nav a")
    tab.page.evaluate("() => layOutPaper().then(() => null)")
    assert tab.page.locator("#paper .view").count() >= len(titles) + 1  # a view each, and the end
    assert tab.page.locator("#paper .plot:not([data-drawn])").count() == 0
    printed = pypdf.PdfReader(io.BytesIO(tab.page.pdf(prefer_css_page_size=True)))
    text = "\n".join(sheet.extract_text() for sheet in printed.pages)
    assert "Ranking" in text and "Channel " in text and "This run ended on" in text
    assert tab.said == [] and tab.outside == []
    tab.page.close()
