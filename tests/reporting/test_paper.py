"""The browser that prints the page: which one, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcace_dist.errors import NotInstalled, UserError
from pcace_dist.reporting import paper
from tests.reporting.conftest import quietly


def browser_at(path: Path) -> str:
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return str(path)


def test_the_browser_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = browser_at(tmp_path / "google-chrome")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert paper.find_browser() == expected


def test_without_a_browser_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no browser is on this machine: .*apt-get install chromium"):
        paper.find_browser()


def test_without_playwright_nothing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "playwright" else name)
    with pytest.raises(NotInstalled, match=r"pcace report --pdf needs packages of the extra `pdf`"):
        quietly(tmp_path / "no run", pdf=True)


def test_a_browser_that_fails_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--pdf: .*chrome could not print the page: "):
        paper.print_page(b"<p>", browser_at(tmp_path / "chrome"))
