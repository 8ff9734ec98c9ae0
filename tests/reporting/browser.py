"""A report in a real browser: headless Chromium, and a page that writes down whatever it says or asks for."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
WAIT = 180_000  # milliseconds; charts are decoded first


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """A browser to be used in a fixture; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


class Tab:
    """One page, of a file or an address, with what it said and what it asked for."""

    def __init__(self, browser: Any, path: Path | str, *, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(WAIT)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text) if message.type != "log" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path if isinstance(path, str) else path.as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def view(self, title: str) -> None:
        self.page.click(f"nav >> text={title}")
        self.page.wait_for_function(
            "title => document.querySelector('nav [aria-current]').textContent === title", arg=title
        )

    def wait_for_charts(self) -> None:
        """Scroll through the page, until every chart is drawn."""
        self.page.evaluate(
            "async () => { for (const plot of document.querySelectorAll('.plot')) { plot.scrollIntoView();"
            " while (!plot.dataset.drawn) await new Promise(done => setTimeout(done, 50)); } scrollTo(0, 0); }"
        )

    @property
    def outside(self) -> list[str]:
        """Requests for anything that is not in the file."""
        return [url for url in self.asked[1:] if not url.startswith(("data:", "blob:"))]

    def violations(self) -> list[str]:
        return violations(self.page)

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong for people who read with a keyboard, a screen reader or poor eyes."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]
