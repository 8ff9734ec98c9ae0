"""The page of one image in Chromium: nothing is said or asked, axe-core finds nothing, it fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcace_dist.artifacts.run import open_run
from pcace_dist.commands.explain.explain import ExplainSettings, explain
from pcace_dist.commands.explain.page import page
from tests.reporting.browser import open_browser
from tests.reporting.square import FILE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_an_image(width: int, browser: Any, square_run: Path, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = explain(open_run(str(square_run)), f"{FILE.format(0)}#3", ExplainSettings())
    path = tmp_path / "explain.html"
    path.write_bytes(page(found))
    tab = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    assert Axe().run(tab).violations_count == 0
    assert not said and [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.locator("article").count() == len(found.channels) == 4
    assert tab.evaluate("window.hacked") is None
    tab.close()
