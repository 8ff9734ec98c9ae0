"""The real server: a process on loopback, in Chromium, while a real job runs; and over a real S3 server."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.analysis.runs import write_run
from tests.faults.proxy import Mischief, misbehaving
from tests.planted import write_planted
from tests.reporting.browser import open_browser, violations
from tests.run.test_main_job import ROOT, planted_job
from tests.servers import moto_server, s3_client, s3_environment

LINE = re.compile(r"runs below (.*): (http://127\.0\.0\.1:\d+/)   \(Ctrl-C ends it\)\n")


class Server:
    """`pcace serve` as a process."""

    def __init__(self, root: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
        command = [sys.executable, "-m", "pcace_dist", "serve", root, "--port", "0"]
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = LINE.fullmatch(line)
        assert found is not None and found[1] == root, line
        self.url = found[2]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Its exit code after a signal, and what it wrote on stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextlib.contextmanager
def server(root: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Iterator[Server]:
    started = Server(root, env, cwd)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.communicate()


def until(reached: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not reached"
        time.sleep(0.1)


@pytest.mark.browser
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(tmp_path: Path, number: int) -> None:
    with server(str(tmp_path)) as started:
        assert started.get("runs.json") == {"runs": [], "unread": 0, "notes": []}
        assert started.end(number) == (0, "")


@pytest.mark.browser
def test_list_search_and_two_runs_side_by_side(folder: Path) -> None:
    with server(str(folder)) as started, open_browser() as browser:
        for width, scheme in ((1280, "light"), (400, "dark")):
            page, said, asked = opened(browser, width, scheme)
            page.goto(started.url)
            page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 15")
            page.fill("input[name=q]", "team")
            page.click("text=Show >> nth=0")
            assert page.locator("#rows tr").count() == 3
            page.check("input[value='team/monday']")
            page.check("input[value='team/tuesday']")
            page.click("text=Compare two runs")
            assert "moved" in page.inner_text("main") and "rank in A" in page.inner_text("main")
            assert violations(page) == []
            for path in ("", "run?run=hostile", "run?run=running", "run?run=as-0.1.0/runs/pooled", "compare", "none"):
                page.goto(started.url + path)
                assert violations(page) == [], path
                assert page.evaluate("document.documentElement.scrollWidth") <= width, path
                assert page.locator("main script, main img").count() == 0 and page.evaluate("window.hacked") is None
            assert [line.partition("status of ")[2] for line in said] == ["400 (Bad Request)", "404 (Not Found)"]
            assert all(url.startswith(started.url) for url in asked)
            page.close()
        assert started.end() == (0, "")


@pytest.mark.browser
def test_a_real_run_is_shown_live_until_its_ranking_is_there(tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 2400)
    job = planted_job(tmp_path / "data", tmp_path / "runs/slow")
    job["model"] |= {"factory": "tests.faults.networks:slow", "kwargs": {"seconds": 1.0}}
    job["compute"] = {"batch": 64}
    (tmp_path / "job.json").write_text(json.dumps(job))
    write_run(tmp_path / "runs/finished", {"conv1": np.linspace(0.1, 0.9, 4)})
    command = [sys.executable, "-m", "pcace_dist", "rank", str(tmp_path / "job.json")]
    with server(str(tmp_path / "runs")) as started, open_browser() as browser:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: any(row["progress"] for row in started.get("runs.json")["runs"]))
            page, said, _ = opened(browser)
            page.goto(f"{started.url}run?run=slow")
            assert page.inner_text("#status .state") == "running"
            assert page.get_attribute("#status progress", "value") is not None
            page.evaluate("window.before = document.querySelector('#status')")  # until the page is loaded anew
            rows, _, _ = opened(browser)
            rows.goto(started.url)
            rows.check("input[value='finished']")
            rows.focus("#rows a:text-is('finished')")
            rows.evaluate("window.before = document.querySelector('#rows')")
            page.wait_for_function("() => document.querySelector('#status') !== window.before", timeout=120_000)
            assert page.evaluate("window.before.id") == "status" and "held by:" in page.inner_text("#status pre")
            rows.wait_for_function("() => document.querySelector('#rows') !== window.before", timeout=120_000)
            assert rows.is_checked("input[value='finished']")
            assert rows.evaluate("document.activeElement.textContent") == "finished"
            page.wait_for_selector("h2:has-text('Ranking')", timeout=180_000)
            assert page.inner_text("#status .state") == "finished" and said == []
            assert driver.wait(60) == 0
        finally:
            if driver.poll() is None:
                driver.terminate()
                driver.wait(60)
        assert started.end() == (0, "")


def opened(browser: Any, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """A page, what it says in the console, and what it asks for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    return page, said, asked


@pytest.mark.browser
def test_a_report_lives_in_its_sandbox(tmp_path: Path) -> None:
    """It runs its scripts, and reaches neither the page nor the server."""
    write_run(tmp_path / "run", {"conv1": np.linspace(0.1, 0.9, 4)})
    script = "fetch('/runs.json').then(() => 'read', () => 'refused').then((text) => { document.title = text; })"
    (tmp_path / "run/report.html").write_text(f"<p>origin</p><script>{script}; window.ran = self.origin</script>")
    with server(str(tmp_path)) as started, open_browser() as browser:
        page, _, asked = opened(browser)
        started.get("runs.json")
        page.goto(f"{started.url}report?run=run")
        page.wait_for_function("document.title === 'refused'")
        assert page.evaluate("window.ran") == "null"
        assert not any(url.endswith("runs.json") for url in asked)


@pytest.mark.jobs
def test_runs_on_s3_are_read_with_few_requests(folder: Path) -> None:
    with moto_server() as endpoint, misbehaving(endpoint, Mischief()) as (counted, proxy):
        client = s3_client(endpoint)
        client.create_bucket(Bucket="runs")
        for file in (folder / "team/monday").rglob("*.*"):
            for number in range(20):
                key = f"some/run-{number:02}/{file.relative_to(folder / 'team/monday').as_posix()}"
                client.upload_file(str(file), "runs", key)
        with server("s3://runs/some", s3_environment(counted)) as started:
            until(lambda: started.get("runs.json")["unread"] == 0 and len(started.get("runs.json")["runs"]) == 20)
            rows = started.get("runs.json?q=run-07")["runs"]
            assert [(row["state"], row["images"], row["best"][0]["channel"]) for row in rows] == [("finished", 1000, 5)]
            requests = Counter(request.method for request in proxy.noted)
            assert sum(requests.values()) <= 20 * 9 + 5, requests
            assert started.get("ranking.json?run=run-07&top=1")[0]["channel"] == 5
            assert started.end()[0] == 0
    missing = [sys.executable, "-m", "pcace_dist", "serve", "s3://no-such-bucket/x"]
    with moto_server() as endpoint:
        done = subprocess.run(missing, cwd=ROOT, env=s3_environment(endpoint), capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no such bucket" in done.stderr
