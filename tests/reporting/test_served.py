"""A whole report in the sandbox that `pcace serve` gives it: it draws, filters and saves as it does from a file."""

from __future__ import annotations

import pytest

from tests.reporting.browser import Tab, open_browser
from tests.reporting.conftest import Reported
from tests.serving.test_server import server

pytestmark = pytest.mark.browser


def test_a_report_works_in_its_sandbox(squares: Reported) -> None:
    with server(str(squares.run.parent)) as started, open_browser() as browser:
        tab = Tab(browser, f"{started.url}report?run=run")
        for title in ("Overview", "Ranking", "Trust"):
            tab.view(title)
            tab.wait_for_charts()
        with tab.page.expect_download() as download:
            tab.view("Ranking")
            tab.page.locator("text=CSV").first.click()
        assert download.value.suggested_filename.endswith(".csv")
        assert tab.said == [] and tab.outside == []
        assert tab.page.evaluate("self.origin") == "null"
