"""The drawings in docs/ are those of examples.diagrams, and words stay within them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from examples import diagrams
from tests.docs.pages import PAGES, ROOT

DRAWN = ("method.svg", "run.svg", "ledger.svg")


def test_the_drawings_are_what_the_code_draws(tmp_path: Path) -> None:
    diagrams.main([str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(DRAWN)
    for name in DRAWN:
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text(), "make pictures"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.svg")), ids=lambda path: path.name)
def test_every_picture_is_small_and_on_a_page(path: Path) -> None:
    assert ET.parse(path).getroot().tag.endswith("svg") and path.stat().st_size < 150_000
    assert any(path.name in page.read_text() for page in PAGES)
