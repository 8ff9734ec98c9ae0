"""One source for the words: the report says of a term what docs/glossary.md says; pages link their first uses."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from pcace_dist.reporting.glossary import GLOSSARY, TERMS
from tests.docs.pages import ROOT

NEEDED = {"Gram", "attempt", "channel", "code", "epoch", "fold", "group", "layer", "ledger", "pilot", "target", "unit"}


@pytest.fixture(scope="module")
def first_uses() -> ModuleType:
    pytest.importorskip("docutils")
    found = importlib.util.spec_from_file_location("first_uses", ROOT / "docs" / "first_uses.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def said(first_uses: ModuleType) -> dict[str, str]:
    terms: dict[str, str] = first_uses.terms((ROOT / "docs" / "glossary.md").read_text())
    return terms


def plain(sentence: str) -> str:
    return sentence.replace("`", "").rstrip(".").lower()


def test_the_report_says_what_the_glossary_says(said: dict[str, str]) -> None:
    assert set(TERMS) <= set(said) and set(said) >= NEEDED
    shared = {term: term.replace(" ", "_") for term in said if term.replace(" ", "_") in GLOSSARY}
    assert set(shared) == {*TERMS, "score", "support", "clamped", "effect"}
    assert {term: plain(said[term]) for term in shared} == {t: plain(GLOSSARY[key]) for t, key in shared.items()}


def parsed(text: str) -> Any:
    from docutils.frontend import get_default_settings
    from docutils.utils import new_document
    from myst_parser.parsers.docutils_ import Parser

    page = new_document("page", get_default_settings(Parser))
    page.settings.report_level = 5
    Parser().parse(text, page)
    return page


def linked(first_uses: ModuleType, said: dict[str, str], page: Any) -> list[tuple[str, str]]:
    """(words, address) of the links that a page gets."""
    first_uses.link_first_uses(page, said, "glossary.html")
    links = page.findall(lambda node: "term" in getattr(node, "attributes", {}).get("classes", ()))
    return [(link.astext(), link["refuri"]) for link in links]


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("# The pilot\n\nA pilot, then the pilot.\n\nThe pilot.", [("pilot", "pilot")]),
        ("Rank intervals and intervals.", [("Rank intervals", "rank-interval"), ("intervals", "interval")]),
        ("`fold`, [fold](x.md), *fold*", [("fold", "fold")]),
        ("Exit code 4, a row group, jackknife.parquet, unit tests: none is ours.", []),
        ("An interval in a rank interval's place", [("interval", "interval"), ("rank interval", "rank-interval")]),
        ("A rank interval. Its interval.", [("rank interval", "rank-interval"), ("interval", "interval")]),
        ("The channel's map", [("channel", "channel"), ("map", "map")]),
        ("The codes of each group", [("codes", "code"), ("group", "group")]),
        ("```\nthe ledger\n```", []),
    ],
)
def test_the_first_use_is_linked(
    first_uses: ModuleType, said: dict[str, str], text: str, links: list[tuple[str, str]]
) -> None:
    assert linked(first_uses, said, parsed(text)) == [(words, f"glossary.html#{term}") for words, term in links]


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_every_page_links_the_terms_that_it_uses(first_uses: ModuleType, said: dict[str, str], name: str) -> None:
    page = parsed((ROOT / "docs" / name).read_text())
    words = list(first_uses.texts(page))
    used = {term for term in said if any(first_uses.pattern(term).search(piece) for piece in words)}
    links = linked(first_uses, said, page)
    names = {term.lower().replace(" ", "-"): term for term in said}
    there = {names[address.partition("#")[2]] for _, address in links}
    assert len(links) == len(there)
    assert there <= used and all(any(term in longer for longer in there) for term in used - there)
