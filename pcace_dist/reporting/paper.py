"""The page as a PDF: a browser that is on this machine opens it, lays out all views as a paper and prints it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pcace_dist.errors import UserError, require_packages
from pcace_dist.storage.files import first_line

Result = TypeVar("Result")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge")
ELSEWHERE = (  # macOS has no commands for them
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
NO_BROWSER = (
    "--pdf: no browser is on this machine: install Chromium or Chrome (Debian, Ubuntu: apt-get install chromium), or "
    "let playwright bring one: python -m playwright install chromium"
)
WAIT = 600_000.0  # milliseconds; a large page on a busy machine


def find_browser() -> str:
    """The path of Chromium, Chrome or Edge on this machine, else of playwright's own. Raises UserError where there is
    none, NotInstalled without the extra `pdf`."""
    require_packages("pcace report --pdf", "pdf", "playwright")
    found = [path for name in NAMES if (path := shutil.which(name))] + [path for path in ELSEWHERE if _is_there(path)]
    return found[0] if found else _in_thread(_of_playwright)


def print_page(page: bytes, browser: str) -> bytes:
    """The PDF of a page, A4, with all its views. Raises UserError where the browser fails."""
    with tempfile.TemporaryDirectory(prefix="pcace-pdf-") as folder:
        path = Path(folder) / "report.html"
        path.write_bytes(page)
        return _in_thread(_printed, path, browser)


def _is_there(path: str) -> bool:
    return os.access(path, os.X_OK)


def _in_thread(function: Callable[..., Result], *arguments: object) -> Result:
    """playwright's plain API refuses to work in a thread that runs an event loop, as a notebook's does."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def _of_playwright() -> str:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        path = driver.chromium.executable_path
    if not _is_there(path):
        raise UserError(NO_BROWSER)
    return path


def _printed(path: Path, browser: str) -> bytes:
    from playwright.sync_api import Error, sync_playwright

    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # as root it has no sandbox
    try:
        with sync_playwright() as driver, driver.chromium.launch(executable_path=browser, args=arguments) as opened:
            page = opened.new_page(color_scheme="light")
            page.set_default_timeout(WAIT)
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]")
            page.evaluate("() => layOutPaper().then(() => null)")
            return page.pdf(prefer_css_page_size=True, print_background=True)
    except Error as error:
        raise UserError(f"--pdf: {browser} could not print the page: {first_line(error)}") from error
