"""The built site in a real browser: search names the page that answers among the first two; no page is too wide."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.docs.pages import ROOT
from tests.reporting.browser import open_browser

pytestmark = pytest.mark.browser
QUESTIONS = "Questions that come up, and short answers"
TELLS = "How it works 1: what a channel tells"
ASKED = {
    "which layers does all take on a ViT": QUESTIONS,
    "how many images do I need per class": QUESTIONS,
    "how do I re-rank only new files": QUESTIONS,
    "why are scores different when I run again": QUESTIONS,
    "what does exit code 4 mean": QUESTIONS,
    "rank without labels": QUESTIONS,
    "another question without the model": QUESTIONS,
    "remove channels pruning": QUESTIONS,
    "rank intervals overlap": QUESTIONS,
    "how long will it take and cost": QUESTIONS,
    "accuracy near chance": QUESTIONS,
    "resume a run": QUESTIONS,
    "bad rows set aside": QUESTIONS,
    "what is support": "Glossary",
    "S3 endpoint": QUESTIONS,
    "model returns a dictionary": QUESTIONS,
    "compare with Grad-CAM": QUESTIONS,
    "run every night": QUESTIONS,
    "what is a maximal correlation": TELLS,
    "what do the intervals mean": "How it works 2: what the intervals mean",
    "linear probe or TCAV": "Other methods, and when to take which",
    "segmentation": "Segmentation: channels of a model whose output is a map",
    "a thousand classes": "Many classes: a ranking for each of a thousand",
    "small data": "Small data: what 100 to 300 images can say",
    "why is it slow": "When it is slow",
    "ranks overlap": "When ranks overlap",
    "vision transformer": "A vision transformer, from its layers to the report",
    "read images from S3 credentials": "Images and runs on S3",
    "concepts as columns": "Concepts: which channels know of sky, cars, trees?",
    "submit a job to a Ray cluster": "On a Ray cluster: submit a job",
    "Kubernetes": "From nothing to a scheduled ranking on spot GPUs",
    "alerts": "Watch a run: status, logs, metrics, alerts",
    "upgrade": "Stop, resume, upgrade: the runbook",
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-W", "-c", "docs", ".", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser.new_page()


@pytest.mark.parametrize(("question", "title"), ASKED.items())
def test_the_page_is_among_the_first_two(question: str, title: str, site: str, page: Any) -> None:
    page.goto(f"{site}/search.html?q={quote(question)}")
    page.wait_for_selector("#search-results ul.search li")
    found = page.locator("#search-results ul.search li > a").all_inner_texts()
    assert title in [one.partition(" > ")[0] for one in found[:2]]


@pytest.mark.parametrize("width", [400, 1300])
@pytest.mark.parametrize("name", ["index", "vit", "slow", "method-tables", "reference/job", "reference/cli"])
def test_no_page_is_wider_than_the_screen(name: str, width: int, site: str, page: Any) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{site}/docs/{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_first_page_leads_to_the_index(site: str, page: Any) -> None:
    page.goto(site)
    page.wait_for_url("**/docs/index.html")
    assert Path(page.url).name == "index.html" and page.title().startswith("pcace_dist")
